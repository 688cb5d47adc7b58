"""A product whose weight is rounded in one way and whose input in another: W8A8, W4A8, fp8.

Every pair of the ways below, integers of one scale a group, a row or the tensor, float8 over a
scale, another type's blocks; a few rows tell whether a pair is worth the whole product.

Shape letters: T tokens, R rows (outputs), C columns (inputs), N groups, W values of a group.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.arithmetic import ROUNDINGS, product_input
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.product.low_precision import MORE_ROUNDINGS
from cotejar.diagnosis.hypotheses.product.sampled_product import SampledProduct
from cotejar.diagnosis.hypotheses.product.variant_product import multiply_variant
from cotejar.diagnosis.operations import Project
from cotejar.diagnosis.products import ROWS_AT_ONCE_BYTES
from cotejar.diagnosis.weight_variants import Rows, WeightVariant
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case

    Rounding = Callable[[np.ndarray], np.ndarray]

_WIDTHS = (16, 32, 64, 128, 256)
_FLOAT8 = {"float8 e4m3": 448.0, "float8 e5m2": 57344.0}
"""The greatest number of each."""
_BLOCKS = (
    BlockType.Q4_0,
    BlockType.Q4_1,
    BlockType.Q5_0,
    BlockType.Q5_1,
    BlockType.Q8_0,
    BlockType.Q4_K,
    BlockType.Q6_K,
)


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site that is a product."""
    if not isinstance(case.operation.step, Project):
        return
    sample, ways = SampledProduct.of(case), _Ways(case)
    inputs = [(name, rounded(case.inputs[0])) for name, rounded in ways.of_inputs.items()]
    for weight_name, round_weight in ways.of_weights.items():
        weight_RC = round_weight(sample.weight)
        for input_name, x_TC in inputs:
            if not weight_name and not input_name:
                continue
            title = _title(weight_name, input_name)
            if not sample.is_worth(x_TC, weight_RC):
                case.screened.append(title)
                continue
            id_ = "product-rounded" if weight_name and input_name else "activations-rounded"
            id_ = id_ if input_name else "weights-rounded"
            variant = WeightVariant(
                id=id_, title=title, rows=partial(_rows, case.matrix, round_weight)
            )
            given = product_input(x_TC, "exact", case.matrix.block_type)
            yield Alternative(
                id=id_,
                title=title,
                output=case.finish(multiply_variant(variant, given, case.matrix)),
            )


def _title(weight_name: str, input_name: str) -> str:
    if not input_name:
        return f"the weight is rounded to {weight_name}"
    if not weight_name:
        return f"activations are rounded to {input_name}"
    return f"the weight is rounded to {weight_name}, and activations to {input_name}"


def _rows(matrix: BlockMatrix, rounded: Rounding, start: int, stop: int) -> Rows:
    return Rows(values=rounded(matrix.decode_rows(start, stop).astype(np.float64)))


class _Ways:
    """Roundings of a case's weight and input, by name; the empty name is none."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._columns = case.matrix.columns

    @cached_property
    def of_inputs(self) -> dict[str, Rounding]:
        greatest = float(np.abs(self._case.inputs[0]).max())
        found: dict[str, Rounding] = {"": _unchanged, "bf16": ROUNDINGS["bf16"]}
        found |= self._integers(8, 127.0, greatest, "for all tokens")
        return found | self._float8(greatest, "for all tokens")

    @cached_property
    def of_weights(self) -> dict[str, Rounding]:
        greatest = self._greatest
        found: dict[str, Rounding] = {"": _unchanged}
        for bits, levels in ((8, (127.0, 128.0)), (4, (7.0, 7.5, 8.0))):
            for one in levels:
                found |= self._integers(bits, one, greatest, "for the tensor")
        found |= self._float8(greatest, "for the tensor")
        found |= {
            kind.label: partial(_in_blocks, kind=kind)
            for kind in _BLOCKS
            if self._columns % kind.elements_per_block == 0
            and kind is not self._case.matrix.block_type
        }
        return found

    @property
    def _greatest(self) -> float:
        matrix = self._case.matrix
        at_once = max(1, ROWS_AT_ONCE_BYTES // (8 * matrix.columns))
        starts = range(0, matrix.rows, at_once)
        parts = (matrix.decode_rows(a, min(a + at_once, matrix.rows)) for a in starts)
        return max(float(np.abs(part).max()) for part in parts)

    def _integers(
        self, bits: int, levels: float, greatest: float, words: str
    ) -> dict[str, Rounding]:
        name = f"int{bits}"
        if levels not in {7.0, 127.0}:
            name += f" (the greatest is {levels:g})"
        rounded = partial(_to_integers, levels=levels, top=(1 << (bits - 1)) - 1)
        found: dict[str, Rounding] = {
            f"{name} a row": rounded,
            f"{name} by one scale {words}": partial(rounded, greatest=greatest),
        }
        for width in _WIDTHS:
            if self._columns % width == 0 and width < self._columns:
                found[f"{name} by {width}"] = partial(rounded, width=width)
        return found

    def _float8(self, greatest: float, words: str) -> dict[str, Rounding]:
        found: dict[str, Rounding] = {}
        for name, top in _FLOAT8.items():
            plain = MORE_ROUNDINGS[name][1]
            found[f"{name} by one scale a row"] = partial(_scaled, rounded=plain, top=top)
            found[f"{name} by one scale {words}"] = partial(
                _scaled, rounded=plain, top=top, greatest=greatest
            )
            if self._columns % 128 == 0:
                found[f"{name} by one scale for 128"] = partial(
                    _scaled, rounded=plain, top=top, width=128
                )
        return found


def _unchanged(values: np.ndarray) -> np.ndarray:
    return values


def _groups(values: np.ndarray, width: int | None) -> np.ndarray:
    return values.reshape(len(values), -1, width or values.shape[1])


def _steps(
    groups: np.ndarray, levels: float, greatest: float | None
) -> Float64[np.ndarray, "..."]:
    most = np.abs(groups).max(axis=-1, keepdims=True) if greatest is None else greatest
    steps: np.ndarray = np.where(np.asarray(most) > 0, np.asarray(most) / levels, 1.0)
    return steps


def _to_integers(
    values: np.ndarray,
    *,
    levels: float,
    top: int,
    width: int | None = None,
    greatest: float | None = None,
) -> np.ndarray:
    """Whole numbers of a group's step, from -top - 1 to top."""
    groups = _groups(values, width)
    step = _steps(groups, levels, greatest)
    codes = np.clip(np.rint(groups / step), -top - 1, top)
    rounded: np.ndarray = (codes * step).reshape(values.shape)
    return rounded


def _scaled(
    values: np.ndarray,
    *,
    rounded: Rounding,
    top: float,
    width: int | None = None,
    greatest: float | None = None,
) -> np.ndarray:
    """A small float over a scale that brings the group's greatest to the type's greatest."""
    groups = _groups(values, width)
    step = _steps(groups, top, greatest)
    found: np.ndarray = (rounded(groups / step) * step).reshape(values.shape)
    return found


def _in_blocks(values: np.ndarray, *, kind: BlockType) -> np.ndarray:
    """Written in a type's blocks, and read from them."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    matrix = BlockMatrix(
        block_type=kind, rows=len(values), columns=values.shape[1], raw=encode(kind, flat)
    )
    return matrix.decode_rows(0, len(values)).astype(np.float64)
