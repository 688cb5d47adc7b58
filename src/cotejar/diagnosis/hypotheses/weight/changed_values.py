"""A weight whose values were changed one by one: pruned, or in float8 by one scale.

Shape letters: R rows (outputs), C columns (inputs), n a group's columns.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.numbers import factor_text
from cotejar.diagnosis.hypotheses.product.low_precision import MORE_ROUNDINGS
from cotejar.diagnosis.hypotheses.product.variant_product import (
    explains_rows,
    multiply_variant,
    telling_rows,
)
from cotejar.diagnosis.operations import Project
from cotejar.diagnosis.products import ROWS_AT_ONCE_BYTES
from cotejar.diagnosis.weight_variants import Rows, WeightVariant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case
    from cotejar.quant.block_matrix import BlockMatrix

_GROUPS = ((2, 4), (4, 8), (1, 2), (1, 4))
"""How many of how many neighbours are kept: the patterns that hardware runs."""
_SHARES = (0.5, 0.25, 0.75)
_GREATEST = {"float8 e4m3": 448.0, "float8 e5m2": 57344.0}


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site that is a product."""
    if not isinstance(case.operation.step, Project):
        return
    samples = telling_rows(case)
    yield from _whole_gains(case)
    for variant in changed_values(case.matrix):
        for given in case.givens:
            if not explains_rows(case, variant, given, samples):
                case.screened.append(variant.title)
                continue
            product_TR = multiply_variant(variant, given, case.matrix)
            for words, output in case.finishes(product_TR):
                title = f"{variant.title}{words}"
                yield Alternative(id=variant.id, title=title, output=output)


_GAINS = (2.0, 3.0, 4.0, 8.0, 1 / 2, 1 / 3, 1 / 4, 1 / 8)


def _whole_gains(case: Case) -> Iterator[Alternative]:
    """The product some times over, and its bias once: several ranks each added up all of it."""
    wanted_TR = case.recorded_rows - (0.0 if case.bias is None else case.bias)
    for product_TR in case.products:
        with np.errstate(all="ignore"):
            gain = float(np.vdot(wanted_TR, product_TR) / np.vdot(product_TR, product_TR))
        for factor in _GAINS:
            if np.isclose(gain, factor, rtol=1e-3):
                yield Alternative(
                    id="product-scaled",
                    title=_gain_title(case, factor),
                    output=case.finish(factor * product_TR),
                    parameters=1,
                )


def _gain_title(case: Case, factor: float) -> str:
    if case.operation.site.slot == "logits":
        how = f"divided by {1 / factor:g}" if factor < 1 else f"multiplied by {factor:g}"
        return f"the logits are {how}: a scale of the logits"
    if factor < 1:
        return f"the product is multiplied by {factor_text(factor)}, before the bias if any"
    return f"the product is added up {factor:g} times, before the bias if there is one"


def changed_values(matrix: BlockMatrix) -> Iterator[WeightVariant]:
    """Every such weight."""
    for kept, of in _GROUPS:
        if matrix.columns % of == 0:
            yield _variant(
                matrix,
                "weight-pruned",
                f"of each {of} neighbouring weights of a row the {kept} greatest are kept",
                partial(_pruned, kept=kept, of=of),
            )
    for share in _SHARES:
        kept = round(matrix.columns * share)
        yield _variant(
            matrix,
            "weight-pruned",
            f"of each row the {kept} of {matrix.columns} greatest weights are kept",
            partial(_pruned, kept=kept, of=matrix.columns),
        )
    greatest = _greatest(matrix)
    if greatest == 0:
        return
    for how, most in _GREATEST.items():
        yield _variant(
            matrix,
            "weights-rounded",
            f"the weight is rounded to {how} by one scale for the tensor",
            partial(_scaled, scale=greatest / most, rounded=MORE_ROUNDINGS[how][1]),
        )
        yield _variant(
            matrix,
            "weights-rounded",
            f"the weight is rounded to {how}",
            MORE_ROUNDINGS[how][1],
        )
    for bits, steps in ((8, 127.0), (4, 7.0)):
        yield _variant(
            matrix,
            "weights-rounded",
            f"the weight is rounded to int{bits} by one scale for the tensor",
            partial(_scaled, scale=greatest / steps, rounded=np.rint),
        )


def _variant(
    matrix: BlockMatrix, id_: str, title: str, change: Callable[[np.ndarray], np.ndarray]
) -> WeightVariant:
    def rows(start: int, stop: int) -> Rows:
        return Rows(values=change(matrix.decode_rows(start, stop).astype(np.float64)))

    return WeightVariant(id=id_, title=title, rows=rows)


def _pruned(
    values_RC: Float64[np.ndarray, "R C"], *, kept: int, of: int
) -> Float64[np.ndarray, "R C"]:
    """Of equals those that stand first are kept."""
    groups = values_RC.reshape(-1, of)
    order = np.argsort(-np.abs(groups), axis=1, kind="stable")
    mask = np.zeros(groups.shape, bool)
    np.put_along_axis(mask, order[:, :kept], values=True, axis=1)
    return np.where(mask, groups, 0.0).reshape(values_RC.shape)


def _scaled(
    values_RC: Float64[np.ndarray, "R C"],
    *,
    scale: float,
    rounded: Callable[[np.ndarray], np.ndarray],
) -> Float64[np.ndarray, "R C"]:
    scaled: np.ndarray = rounded(values_RC / scale) * scale
    return scaled


def _greatest(matrix: BlockMatrix) -> float:
    at_once = max(1, ROWS_AT_ONCE_BYTES // (8 * matrix.columns))
    found = [
        float(np.abs(matrix.decode_rows(start, min(start + at_once, matrix.rows))).max())
        for start in range(0, matrix.rows, at_once)
    ]
    greatest = max(found)
    return greatest if np.isfinite(greatest) else 0.0
