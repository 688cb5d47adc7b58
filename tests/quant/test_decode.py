"""Decoding against the `gguf` package, bit for bit; row blocks; what is refused."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from cotejar.errors import TensorShapeError
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import decode, decode_rows

GGML_TYPES = [one for one in BlockType if one < 64]
PACKED_TYPES = [one for one in GGML_TYPES if one.elements_per_block > 1]
SCALE_OFFSETS = {
    BlockType.Q4_0: [0],
    BlockType.Q4_1: [0, 2],
    BlockType.Q5_0: [0],
    BlockType.Q5_1: [0, 2],
    BlockType.Q8_0: [0],
    BlockType.Q2_K: [80, 82],
    BlockType.Q3_K: [108],
    BlockType.Q4_K: [0, 2],
    BlockType.Q5_K: [0, 2],
    BlockType.Q6_K: [208],
}
EXTREME_HALVES = [
    0x0000,  # 0
    0x8000,  # -0
    0x0001,  # the least subnormal
    0x83FF,  # the greatest negative subnormal
    0x0400,  # the least normal
    0x7BFF,  # 65504
    0x7C00,  # Inf
    0xFC00,  # -Inf
    0x7E00,  # NaN
    0x7D01,  # a signalling NaN
]


def by_gguf(block_type: BlockType, raw: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        values = gguf.dequantize(raw, gguf.GGMLQuantizationType(block_type.value))
    return values.reshape(-1)


def have_same_bits(found: np.ndarray, expected: np.ndarray) -> bool:
    """Bit for bit; of a NaN only that it is one, since payloads differ between machines."""
    is_nan = np.isnan(expected)
    same = found.view(np.uint32)[~is_nan] == expected.view(np.uint32)[~is_nan]
    return bool((np.isnan(found) == is_nan).all() and same.all())


def random_bytes(block_type: BlockType, num_blocks: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([block_type, seed])
    return rng.integers(0, 256, num_blocks * block_type.bytes_per_block, dtype=np.uint8)


@pytest.mark.parametrize("block_type", GGML_TYPES, ids=lambda one: one.label)
def test_random_bytes_decode_as_in_gguf(block_type: BlockType) -> None:
    # Enough blocks for several steps of the decoder and a last one cut short.
    num_blocks = 150_001 // block_type.elements_per_block
    raw = random_bytes(block_type, num_blocks, seed=1)

    values = decode(block_type, raw, num_blocks * block_type.elements_per_block)

    assert have_same_bits(values, by_gguf(block_type, raw))


@pytest.mark.parametrize("block_type", PACKED_TYPES, ids=lambda one: one.label)
def test_extreme_scales_decode_as_in_gguf(block_type: BlockType) -> None:
    offsets = SCALE_OFFSETS[block_type]
    choices = [(one, other) for one in EXTREME_HALVES for other in EXTREME_HALVES]
    blocks = random_bytes(block_type, len(choices), seed=2).reshape(len(choices), -1)
    for block, halves in zip(blocks, choices, strict=True):
        for offset, half in zip(offsets, halves, strict=False):
            block[offset : offset + 2] = half & 0xFF, half >> 8
    raw = blocks.reshape(-1)

    values = decode(block_type, raw, len(choices) * block_type.elements_per_block)

    expected = by_gguf(block_type, raw)
    assert np.isnan(expected).any()
    assert np.isfinite(expected).any()
    assert have_same_bits(values, expected)


def test_every_half_and_every_upper_half_decodes_as_in_gguf() -> None:
    raw = np.arange(1 << 16, dtype="<u2").view(np.uint8)

    for block_type in (BlockType.F16, BlockType.BF16):
        values = decode(block_type, raw, 1 << 16)

        assert have_same_bits(values, by_gguf(block_type, raw))


@pytest.mark.parametrize("block_type", PACKED_TYPES, ids=lambda one: one.label)
@pytest.mark.parametrize("defect", ["halves swapped", "one byte later", "one bit"])
def test_a_defect_of_one_block_is_seen(block_type: BlockType, defect: str) -> None:
    raw = random_bytes(block_type, 3, seed=3).reshape(3, -1)
    for offset in SCALE_OFFSETS[block_type]:
        raw[:, offset : offset + 2] = 0x00, 0x3C  # 1.0, so that every code is visible
    broken = raw.copy()
    if defect == "halves swapped":
        broken[1] = (raw[1] >> 4) | (raw[1] << 4)
    elif defect == "one byte later":
        broken[1] = np.roll(raw[1], 1)
    else:
        broken[1, 10] ^= 1
    num_elements = 3 * block_type.elements_per_block

    values = decode(block_type, broken.reshape(-1), num_elements)

    assert not have_same_bits(values, by_gguf(block_type, raw.reshape(-1)))


@pytest.mark.parametrize("block_type", list(BlockType), ids=lambda one: one.label)
def test_rows_decode_as_in_the_whole(block_type: BlockType) -> None:
    columns = block_type.elements_per_block * 2 if block_type.elements_per_block > 1 else 7
    num_bytes = block_type.num_bytes(5 * columns)
    raw = np.random.default_rng(4).integers(0, 256, num_bytes, dtype=np.uint8)
    whole = decode(block_type, raw, 5 * columns).reshape(5, columns)

    for start, stop in [(0, 5), (1, 2), (2, 5)]:
        rows = decode_rows(block_type, raw, 5, columns, start, stop)

        assert rows.shape == (stop - start, columns)
        assert have_same_bits(rows, whole[start:stop])


def test_rows_of_apr_q4_may_begin_inside_a_block() -> None:
    raw = random_bytes(BlockType.APR_Q4, 5, seed=5)  # 3 rows of 50: 150 of 160 values
    whole = decode(BlockType.APR_Q4, raw, 150).reshape(3, 50)

    for row in range(3):
        decoded = decode_rows(BlockType.APR_Q4, raw, 3, 50, row, row + 1)

        assert have_same_bits(decoded, whole[row : row + 1])


def test_a_row_of_part_of_a_block_is_refused() -> None:
    raw = np.zeros(BlockType.Q4_K.bytes_per_block, np.uint8)

    with pytest.raises(TensorShapeError) as caught:
        decode_rows(BlockType.Q4_K, raw, 2, 128, 0, 1)

    assert str(caught.value) == (
        "error[APR-F018]: rows of 128 values are no whole Q4_K blocks\n"
        "  where     Q4_K matrix of 2 x 128\n"
        "  expected  a multiple of 256 columns, 1 row or more\n"
        "  found     2 rows of 128 columns\n"
        "  try       the tensor table is wrong, or the file was made with another block size"
    )


@pytest.mark.parametrize(("start", "stop"), [(1, 3), (-1, 1), (1, 1)])
def test_a_row_that_is_not_there_is_refused(start: int, stop: int) -> None:
    raw = np.zeros(BlockType.F32.num_bytes(6), np.uint8)

    with pytest.raises(TensorShapeError) as caught:
        decode_rows(BlockType.F32, raw, 2, 3, start, stop)

    assert str(caught.value) == (
        "error[APR-F018]: there are no such rows\n"
        "  where     F32 matrix\n"
        "  expected  one row or more within 0..2\n"
        f"  found     {start}..{stop}\n"
        "  try       this is a defect of the caller; please report it"
    )


def test_bytes_that_do_not_hold_the_tensor_are_refused() -> None:
    with pytest.raises(TensorShapeError) as caught:
        decode(BlockType.Q8_0, np.zeros(33, np.uint8), 32)

    assert str(caught.value) == (
        "error[APR-F018]: the bytes do not hold the tensor\n"
        "  where     Q8_0 tensor of 32 values\n"
        "  expected  uint8 (34,)\n"
        "  found     uint8 (33,)\n"
        "  try       the tensor table is wrong, or the file is cut short"
    )


@pytest.mark.parametrize("num_elements", [0, -32, 33])
def test_a_count_of_no_whole_blocks_is_refused(num_elements: int) -> None:
    with pytest.raises(TensorShapeError) as caught:
        decode(BlockType.Q8_0, np.zeros(34, np.uint8), num_elements)

    assert str(caught.value) == (
        f"error[APR-F018]: {num_elements} values are no whole Q8_0 blocks\n"
        "  where     Q8_0 tensor\n"
        "  expected  a multiple of 32 values, at least one block\n"
        f"  found     {num_elements} values\n"
        "  try       choose a block type whose block size divides the tensor's rows"
    )
