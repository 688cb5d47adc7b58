"""Products with a weight in float64, the weight decoded by blocks of rows.

Several inputs are multiplied at once, so that a weight is decoded once for both sides and
for every rounding of their activations; scratch memory is a few MiB whatever the weight.

Shape letters: T tokens, C columns (inputs), R rows (outputs), B blocks of a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.arithmetic import ROUNDINGS, ProductInput
from cotejar.formats.mapped_file import release_pages
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jaxtyping import Float64

    from cotejar.quant.block_matrix import BlockMatrix

ROWS_AT_ONCE_BYTES = 4 << 20
"""Of decoded weight, in float64."""

WITH_OFFSETS = frozenset({BlockType.Q4_1, BlockType.Q5_1})
"""Types whose activations keep a block's sum apart."""


def stream_products(
    matrix: BlockMatrix, inputs: Sequence[ProductInput], *, weights: str = "exact"
) -> Iterator[tuple[slice, Float64[np.ndarray, "R C"], list[Float64[np.ndarray, "T R"]]]]:
    """For each block of rows: which, the decoded rows, and the product of every input.

    Args:
        matrix: the weight.
        inputs: of one width, that of the weight's columns.
        weights: how the decoded weight is rounded; a key of `ROUNDINGS`.
    """
    stacked = np.concatenate([i.values for i in inputs])
    ends = np.cumsum([len(i.values) for i in inputs])[:-1]
    at_once = max(1, ROWS_AT_ONCE_BYTES // (8 * matrix.columns))
    for start in range(0, matrix.rows, at_once):
        rows = slice(start, min(start + at_once, matrix.rows))
        rows_RC = ROUNDINGS[weights](
            matrix.decode_rows(rows.start, rows.stop).astype(np.float64)
        )
        products = np.split(stacked @ rows_RC.T, ends)
        if matrix.block_type in WITH_OFFSETS and any(i.excess is not None for i in inputs):
            offset_RB = _offsets(matrix, rows)
            for i, one in enumerate(inputs):
                if one.excess is not None:
                    products[i] = products[i] + one.excess @ offset_RB.T
        yield rows, rows_RC, products
    release_pages(matrix.raw)


def multiply(
    matrix: BlockMatrix, inputs: Sequence[ProductInput], *, weights: str = "exact"
) -> list[Float64[np.ndarray, "T R"]]:
    """The whole products, in the order of the weight's rows."""
    whole = [np.empty((len(i.values), matrix.rows)) for i in inputs]
    for rows, _, products in stream_products(matrix, inputs, weights=weights):
        for out_TR, part_TR in zip(whole, products, strict=True):
            out_TR[:, rows] = part_TR
    return whole


def _offsets(matrix: BlockMatrix, rows: slice) -> Float64[np.ndarray, "R B"]:
    parts = matrix.unpack_rows(rows.start, rows.stop)
    if parts.offset is None:  # no type of WITH_OFFSETS lacks them
        raise TypeError(f"{matrix.block_type.label} has no offsets")
    return parts.offset.astype(np.float64).reshape(rows.stop - rows.start, -1)
