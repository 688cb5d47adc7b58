"""Sums of a product that are kept in a low precision while they grow.

Rounding a running sum depends on the order of its terms. The orders that programs have are
played through on a few rows: one after the other, in lanes that take every n-th column, and
chunks that are exact and added up.

Shape letters: T tokens, R rows (outputs), C columns (inputs), L lanes, n a chunk's columns.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cotejar.diagnosis.arithmetic import ROUNDINGS, UNIT
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.product.sampled_product import SampledProduct
from cotejar.diagnosis.operations import Project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case

    Rounding: TypeAlias = Callable[[np.ndarray], np.ndarray]

_LEAST, _MOST = 1e-5, 0.2
"""Relative errors that a sum in float16 or bfloat16 can have."""
_WIDTHS = (8, 16, 32, 64, 128, 256)
_NEAR, _MATCHED = 1 / 8, 0.9
"""Of the error, what may be left of one value, and the share of a sample's values of which it
is: a tie falls either way, and what comes of it is another number."""
_ROWS_AT_ONCE = 256
_SAMPLED = 8
"""Rows, about, that rule an order out."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site that is a product, with errors of that size."""
    if not isinstance(case.operation.step, Project) or case.project.softcap is not None:
        return
    if not _LEAST < case.error.rel_l2 < _MOST:
        return
    sample = SampledProduct.of(case)
    few = slice(None, None, len(sample.rows) // _SAMPLED + 1)
    wanted_TR = (sample.recorded - sample.bias)[:, few]
    right_TR = case.inputs[0] @ sample.weight[few].T
    before_T1 = np.linalg.norm(wanted_TR - right_TR, axis=1, keepdims=True)
    before_T1 = before_T1 / np.sqrt(wanted_TR.shape[1])
    for how, stages, words, order in _suspects(case.matrix.columns):
        title = f"sums are kept in {how} ({words})"
        rounded = ROUNDINGS[how]
        settings = {"rounded": rounded, "products": "products" in stages}
        operands = rounded if "operands" in stages else _as_it_is
        output_TR = order(operands(case.inputs[0]), operands(sample.weight[few]), **settings)
        same = np.abs(wanted_TR - output_TR) <= _NEAR * before_T1
        if same.mean() < _MATCHED:
            case.screened.append(title)
            continue
        whole_TR = _whole(case, partial(order, **settings), operands)
        output = case.but_for_ties(case.finish(whole_TR), UNIT[how])
        yield Alternative(id=f"sums-{how}", title=title, output=output)


def _as_it_is(values: np.ndarray) -> np.ndarray:
    return values


def _suspects(columns: int) -> Iterator[tuple[str, frozenset[str], str, _Order]]:
    """Format, what else is rounded, words, order."""
    for how in ("f16", "bf16"):
        for words, order in _orders(columns).items():
            for stages in (set(), {"products"}, {"operands"}, {"operands", "products"}):
                said = [words, *(f"of rounded {stage}" for stage in sorted(stages))]
                yield how, frozenset(stages), ", ".join(said), order


_Order: TypeAlias = "Callable[..., np.ndarray]"
"""Of inputs, rows of a weight, the rounding, and whether products are rounded too."""


def _orders(columns: int) -> dict[str, _Order]:
    found: dict[str, _Order] = {"one after the other": _in_lanes(1, in_low=True)}
    for width in _WIDTHS:
        if columns % width == 0:
            found[f"in {width} lanes"] = _in_lanes(width, in_low=True)
            found[f"in {width} lanes, added up exactly"] = _in_lanes(width, in_low=False)
            found[f"of exact sums of {width}"] = _in_chunks(width)
    return found


def _in_lanes(lanes: int, *, in_low: bool) -> _Order:
    """Lane l takes columns l, l + L, ...; the lanes are added up in pairs, or exactly."""

    def order(
        x_TC: np.ndarray,
        w_RC: np.ndarray,
        rounded: Rounding,
        products: bool,  # noqa: FBT001 - as `_Order` has it
    ) -> Float64[np.ndarray, "T R"]:
        sums_TRL = np.zeros((len(x_TC), len(w_RC), lanes))
        for start in range(0, x_TC.shape[1], lanes):
            some = slice(start, start + lanes)
            terms_TRL = x_TC[:, None, some] * w_RC[None, :, some]
            sums_TRL = rounded(sums_TRL + (rounded(terms_TRL) if products else terms_TRL))
        while in_low and sums_TRL.shape[2] > 1:
            half = sums_TRL.shape[2] // 2
            sums_TRL = rounded(sums_TRL[..., :half] + sums_TRL[..., half:])
        total: np.ndarray = sums_TRL.sum(axis=2)
        return total

    return order


def _in_chunks(width: int) -> _Order:
    def order(
        x_TC: np.ndarray,
        w_RC: np.ndarray,
        rounded: Rounding,
        products: bool,  # noqa: FBT001 - as `_Order` has it
    ) -> Float64[np.ndarray, "T R"]:
        sums_TR = np.zeros((len(x_TC), len(w_RC)))
        for start in range(0, x_TC.shape[1], width):
            some = slice(start, start + width)
            chunk_TR = x_TC[:, some] @ w_RC[:, some].T
            sums_TR = rounded(sums_TR + (rounded(chunk_TR) if products else chunk_TR))
        return sums_TR

    return order


def _whole(
    case: Case, order: Callable[..., np.ndarray], operands: Rounding
) -> Float64[np.ndarray, "T R"]:
    output_TR = np.empty((len(case.inputs[0]), case.matrix.rows))
    for start in range(0, case.matrix.rows, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, case.matrix.rows)
        weight_RC = case.matrix.decode_rows(start, stop).astype(np.float64)
        output_TR[:, start:stop] = order(operands(case.inputs[0]), operands(weight_RC))
    return output_TR
