"""A weight rounded by groups that reach over more than one row.

Quantisers of 4-bit weights flatten a tensor and cut it into groups of 64, say: where a row is
no multiple of that, a group holds the end of one row and the beginning of the next. Those of
8-bit floats have one scale for a tile of 128 rows by 128 columns.

Shape letters: T tokens, R rows (outputs), C columns (inputs), N tiles down, M tiles across.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.product.low_precision import MORE_ROUNDINGS, group_roundings
from cotejar.diagnosis.hypotheses.product.sampled_product import SampledProduct
from cotejar.diagnosis.hypotheses.product.variant_product import multiply_variant
from cotejar.diagnosis.observed import cap
from cotejar.diagnosis.operations import Project
from cotejar.diagnosis.weight_variants import Rows, WeightVariant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case
    from cotejar.quant.block_matrix import BlockMatrix

_WIDTHS = (16, 32, 64, 128, 256, 4096)
"""Of flattened groups."""
_TILES = (16, 32, 64, 128)
"""Sides of square ones."""
_OF_TILES = {"float8 e4m3": 448.0, "float8 e5m2": 57344.0, "int8": 127.0, "int4": 7.0}
"""What a tile's greatest value becomes."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site that is a product."""
    if not isinstance(case.operation.step, Project):
        return
    sample, matrix = SampledProduct.of(case), case.matrix
    for way in _ways(matrix.columns):
        rows = partial(_rows, matrix, way)
        title = f"the weight is rounded to {way.how}"
        if not _is_near(case, sample, rows) or not sample.is_worth(
            case.inputs[0],
            np.concatenate([rows(int(r), int(r) + 1).values for r in sample.rows]),
        ):
            case.screened.append(title)
            continue
        variant = WeightVariant(id="weights-rounded", title=title, rows=rows)
        for given in case.givens:
            product_TR = multiply_variant(variant, given, matrix)
            yield Alternative(id="weights-rounded", title=title, output=case.finish(product_TR))


_LOOKED_AT = 2
"""Sampled rows that rule most ways out: whole groups have to be decoded for each."""


def _is_near(case: Case, sample: SampledProduct, rows: Callable[[int, int], Rows]) -> bool:
    """Does it leave half at the most, in two of the sampled rows?"""
    for place in np.linspace(0, len(sample.rows) - 1, _LOOKED_AT + 2).astype(int)[1:-1]:
        row = int(sample.rows[place])
        left, before = (
            np.linalg.norm(
                cap(case.inputs[0] @ weight_C + sample.bias[place], sample.softcap)
                - sample.recorded[:, place]
            )
            for weight_C in (rows(row, row + 1).values[0], sample.weight[place])
        )
        if 2 * left > before:
            return False
    return True


@dataclass(frozen=True, kw_only=True)
class _Way:
    """One rounding of rows that are looked at together."""

    how: str
    together: int
    """Rows; the first of them is a multiple of that."""
    rounded: Callable[[np.ndarray], np.ndarray]


def _ways(columns: int) -> Iterator[_Way]:
    for width in _WIDTHS:
        if columns % width:  # else groups are within rows
            for how, rounded in group_roundings(width).items():
                yield _Way(
                    how=f"{how} over its flattened values",
                    together=width // math.gcd(columns, width),
                    rounded=partial(_flattened, rounded=rounded, width=width),
                )
    for side in _TILES:
        for how, greatest in _OF_TILES.items():
            whole = MORE_ROUNDINGS[how][1] if how in MORE_ROUNDINGS else np.rint
            yield _Way(
                how=f"{how} by tiles of {side} x {side}",
                together=side,
                rounded=partial(_tiled, side=side, greatest=greatest, whole=whole),
            )


def _flattened(
    values_RC: Float64[np.ndarray, "R C"], *, rounded: Callable[[np.ndarray], np.ndarray],
    width: int,
) -> Float64[np.ndarray, "R C"]:  # fmt: skip
    flat = values_RC.reshape(-1)
    # The last group of a tensor may be a short one.
    padded = np.concatenate([flat, np.full(-len(flat) % width, flat[-1])])
    result: np.ndarray = rounded(padded)[: len(flat)].reshape(values_RC.shape)
    return result


def _tiled(
    values_RC: Float64[np.ndarray, "R C"],
    *,
    side: int,
    greatest: float,
    whole: Callable[[np.ndarray], np.ndarray],
) -> Float64[np.ndarray, "R C"]:
    rows, columns = values_RC.shape
    padded = np.pad(values_RC, ((0, -rows % side), (0, -columns % side)))
    tiles = padded.reshape(padded.shape[0] // side, side, -1, side)
    most = np.abs(tiles).max(axis=(1, 3), keepdims=True)
    step = np.where(most > 0, most / greatest, 1.0)
    result: np.ndarray = (whole(tiles / step) * step).reshape(padded.shape)[:rows, :columns]
    return result


def _rows(matrix: BlockMatrix, way: _Way, start: int, stop: int) -> Rows:
    """Rows of the rounded weight: whole groups are decoded around them."""
    first = start // way.together * way.together
    last = min(-(-stop // way.together) * way.together, matrix.rows)
    values_RC = way.rounded(matrix.decode_rows(first, last).astype(np.float64))
    return Rows(values=values_RC[start - first : stop - first])
