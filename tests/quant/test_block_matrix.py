"""A matrix in its blocks: rows as floats, rows as integers and scales."""

from __future__ import annotations

import numpy as np
import pytest

from cotejar.errors import TensorShapeError
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import UNPACKERS, decode

WHOLE_BLOCK_TYPES = [*UNPACKERS, BlockType.APR_Q8]


def random_matrix(block_type: BlockType, rows: int, columns: int) -> BlockMatrix:
    rng = np.random.default_rng(block_type)
    raw = rng.integers(0, 256, block_type.num_bytes(rows * columns), dtype=np.uint8)
    if block_type is BlockType.APR_Q8:
        raw[:4] = np.array([0.125], "<f4").view(np.uint8)
    raw.flags.writeable = False  # as a mapped file is
    return BlockMatrix(block_type=block_type, rows=rows, columns=columns, raw=raw)


@pytest.mark.parametrize("block_type", list(BlockType), ids=lambda one: one.label)
def test_rows_are_those_of_the_tensor(block_type: BlockType) -> None:
    matrix = random_matrix(block_type, 4, 256)
    whole = decode(block_type, matrix.raw, 4 * 256).reshape(4, 256)

    np.testing.assert_array_equal(matrix.decode_rows(1, 3), whole[1:3])


@pytest.mark.parametrize("block_type", list(BlockType), ids=lambda one: one.label)
def test_picked_rows_come_in_their_order(block_type: BlockType) -> None:
    matrix = random_matrix(block_type, 4, 256)

    rows = [matrix.decode_rows(row, row + 1) for row in (3, 0, 3)]
    np.testing.assert_array_equal(matrix.decode_picked([3, 0, 3]), np.concatenate(rows))


@pytest.mark.parametrize("rows", [[0, 4], [-1, 2], []])
def test_rows_that_are_not_there_are_not_picked(rows: list[int]) -> None:
    with pytest.raises(TensorShapeError, match="there are no such rows"):
        random_matrix(BlockType.Q8_0, 4, 256).decode_picked(rows)


@pytest.mark.parametrize("block_type", WHOLE_BLOCK_TYPES, ids=lambda one: one.label)
def test_unpacked_rows_give_the_decoded_weights(block_type: BlockType) -> None:
    matrix = random_matrix(block_type, 4, 512)

    parts = matrix.unpack_rows(1, 3)

    weights = np.empty(parts.codes.shape, np.float32)
    with np.errstate(invalid="ignore"):
        parts.weights(weights)
    np.testing.assert_array_equal(weights.reshape(2, 512), matrix.decode_rows(1, 3))


def test_bytes_of_another_shape_are_refused() -> None:
    with pytest.raises(TensorShapeError) as caught:
        BlockMatrix(block_type=BlockType.Q8_0, rows=3, columns=32, raw=np.zeros(68, np.uint8))

    assert str(caught.value) == (
        "error[APR-F018]: the bytes do not hold the tensor\n"
        "  where     Q8_0 tensor of 96 values\n"
        "  expected  uint8 (102,)\n"
        "  found     uint8 (68,)\n"
        "  try       the tensor table is wrong, or the file is cut short"
    )


@pytest.mark.parametrize(("rows", "columns"), [(0, 32), (3, 0), (3, -32)])
def test_a_matrix_of_nothing_is_refused(rows: int, columns: int) -> None:
    with pytest.raises(TensorShapeError, match="a multiple of 32 columns, 1 row or more"):
        BlockMatrix(
            block_type=BlockType.Q8_0, rows=rows, columns=columns, raw=np.zeros(0, np.uint8)
        )
