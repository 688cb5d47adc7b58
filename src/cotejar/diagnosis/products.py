"""Products with a weight in float64, the weight decoded by blocks of rows.

Several inputs are multiplied at once, so that a weight is decoded once for both sides and
for every rounding of their activations; scratch memory is a few MiB whatever the weight.

Shape letters: T tokens, C columns (inputs), R rows (outputs), B blocks of a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.arithmetic import weight_rows
from cotejar.formats.mapped_file import release_pages
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from jaxtyping import Float64

    from cotejar.diagnosis.arithmetic import ProductInput
    from cotejar.quant.block_matrix import BlockMatrix

ROWS_AT_ONCE_BYTES = 4 << 20
"""Of decoded weight, in float64."""

WITH_OFFSETS = frozenset({BlockType.Q4_1, BlockType.Q5_1})
"""Types whose activations keep a block's sum apart."""


def stream_products(
    matrix: BlockMatrix, inputs: Sequence[ProductInput]
) -> Iterator[tuple[slice, Float64[np.ndarray, "R C"], list[Float64[np.ndarray, "T R"]]]]:
    """For each block of rows: which, the decoded rows, and the product of every input.

    The rows are as the first input's weight is rounded.

    Args:
        matrix: the weight.
        inputs: of one width, that of the weight's columns.
    """
    places: dict[str, list[int]] = {}
    for place, one in enumerate(inputs):
        places.setdefault(one.weights, []).append(place)
    stacked = {
        how: np.concatenate([inputs[i].values for i in at]) for how, at in places.items()
    }
    at_once = max(1, ROWS_AT_ONCE_BYTES // (8 * matrix.columns))
    for start in range(0, matrix.rows, at_once):
        rows = slice(start, min(start + at_once, matrix.rows))
        rounded = {how: weight_rows(matrix, rows.start, rows.stop, how) for how in places}
        products = _each_times(inputs, places, stacked, rounded)
        if matrix.block_type in WITH_OFFSETS and any(i.excess is not None for i in inputs):
            offset_RB = _offsets(matrix, rows)
            for i, one in enumerate(inputs):
                if one.excess is not None:
                    products[i] = products[i] + one.excess @ offset_RB.T
        yield rows, rounded[inputs[0].weights], products
    release_pages(matrix.raw)


def _each_times(
    inputs: Sequence[ProductInput],
    places: Mapping[str, list[int]],
    stacked: Mapping[str, Float64[np.ndarray, "S C"]],
    rounded: Mapping[str, Float64[np.ndarray, "R C"]],
) -> list[Float64[np.ndarray, "T R"]]:
    """Each input's product with the rows that it meets, in the order of the inputs."""
    found: dict[int, np.ndarray] = {}
    for how, at in places.items():
        ends = np.cumsum([len(inputs[i].values) for i in at])[:-1]
        found |= zip(at, np.split(stacked[how] @ rounded[how].T, ends), strict=True)
    return [found[place] for place in range(len(inputs))]


def multiply(
    matrix: BlockMatrix, inputs: Sequence[ProductInput]
) -> list[Float64[np.ndarray, "T R"]]:
    """The whole products, in the order of the weight's rows."""
    whole = [np.empty((len(i.values), matrix.rows)) for i in inputs]
    for rows, _, products in stream_products(matrix, inputs):
        for out_TR, part_TR in zip(whole, products, strict=True):
            out_TR[:, rows] = part_TR
    return whole


def _offsets(matrix: BlockMatrix, rows: slice) -> Float64[np.ndarray, "R B"]:
    parts = matrix.unpack_rows(rows.start, rows.stop)
    if parts.offset is None:  # no type of WITH_OFFSETS lacks them
        raise TypeError(f"{matrix.block_type.label} has no offsets")
    return parts.offset.astype(np.float64).reshape(rows.stop - rows.start, -1)
