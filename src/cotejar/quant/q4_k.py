"""Q4_K: 256 weights of 4 bits in eight sub-blocks, each with a scale and a minimum.

A block is 144 bytes, little-endian:

    0..2     scale       float16
    2..4     minimum     float16
    4..16    sub-scales  8 x 6 bits of scale and 8 x 6 of minimum, see `read_sub_scales`
    16..144  codes       four runs of 64 weights: the low halves of 32 bytes, then the high

weight = scale * sub_scale * code - minimum * sub_minimum.

Encoding is ggml's `quantize_row_q4_K_ref`: a search of scale and minimum for each
sub-block, 6 bits for each of the eight, then the codes anew from the rounded scales.
Shape letters: N blocks, W = 256 weights, S = 8 sub-blocks, V = 32 weights of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.quant.block_parts import BlockParts, read_float16, split_nibbles
from cotejar.quant.rounding import float16_bytes
from cotejar.quant.scale_search import ordered_sum, round_to_int, search_scale_and_minimum

if TYPE_CHECKING:
    from jaxtyping import Float32, Int8, UInt8


def unpack_q4_k(blocks_NY: UInt8[np.ndarray, "N 144"]) -> BlockParts:
    """Take Q4_K blocks apart."""
    sub_scales_NS, sub_minimums_NS = read_sub_scales(blocks_NY[:, 4:16])
    return BlockParts(
        codes=split_nibbles(blocks_NY[:, 16:].reshape(-1, 4, 32))
        .reshape(-1, 256)
        .view(np.int8),
        scale=read_float16(blocks_NY, 0),
        sub_scales=sub_scales_NS,
        offset=-read_float16(blocks_NY, 2),
        sub_offsets=sub_minimums_NS,
    )


def read_sub_scales(
    packed_N12: UInt8[np.ndarray, "N 12"],
) -> tuple[Int8[np.ndarray, "N 8"], Int8[np.ndarray, "N 8"]]:
    """Scales and minimums, 0..63, of Q4_K and Q5_K.

    Bytes 0..4 hold scales 0..4 in their low six bits, bytes 4..8 the minimums 0..4.
    Scales and minimums 4..8 have their low four bits in the low and high halves of
    bytes 8..12, and their high two in the top bits of bytes 0..4 and 4..8.
    """
    first_N4, second_N4, third_N4 = packed_N12[:, :4], packed_N12[:, 4:8], packed_N12[:, 8:]
    scales = [first_N4 & 0x3F, (third_N4 & 0x0F) | ((first_N4 >> 2) & 0x30)]
    minimums = [second_N4 & 0x3F, (third_N4 >> 4) | ((second_N4 >> 2) & 0x30)]
    return np.hstack(scales).view(np.int8), np.hstack(minimums).view(np.int8)


def encode_q4_k(values_NW: Float32[np.ndarray, "N 256"]) -> UInt8[np.ndarray, "N 144"]:
    """Encode finite values."""
    num_blocks = len(values_NW)
    values_VM = np.ascontiguousarray(values_NW.reshape(-1, 32).T)  # M = N * S sub-blocks
    mean_square_M = ordered_sum(values_VM * values_VM) / np.float32(32)
    found = search_scale_and_minimum(
        values_VM,
        weights_VM=np.sqrt(mean_square_M) + np.abs(values_VM),
        greatest_code=15,
        first_step=-1.0,
        num_steps=20,
    )
    scale_N1, sub_scales_NS = _to_six_bits(found.scale.reshape(num_blocks, 8))
    minimum_N1, sub_minimums_NS = _to_six_bits(found.minimum.reshape(num_blocks, 8))
    step_M = (scale_N1.astype(np.float16).astype(np.float32) * sub_scales_NS).reshape(-1)
    floor_M = (minimum_N1.astype(np.float16).astype(np.float32) * sub_minimums_NS).reshape(-1)
    divisor_M = np.where(step_M == 0, np.float32(1), step_M)
    nearest_VM = np.clip(round_to_int((values_VM + floor_M) / divisor_M), 0, 15)
    # A sub-block whose scale was rounded away keeps the codes of the search.
    codes_VM = np.where(step_M == 0, found.codes, nearest_VM).astype(np.uint8)
    codes = np.ascontiguousarray(codes_VM.T).reshape(num_blocks, 4, 2, 32)
    return np.hstack(
        [
            float16_bytes(scale_N1),
            float16_bytes(minimum_N1),
            _write_sub_scales(sub_scales_NS, sub_minimums_NS),
            (codes[:, :, 0] | (codes[:, :, 1] << 4)).reshape(num_blocks, 128),
        ]
    )


def _to_six_bits(
    scales_NS: Float32[np.ndarray, "N 8"],
) -> tuple[Float32[np.ndarray, "N 1"], UInt8[np.ndarray, "N 8"]]:
    """Scales as (common factor, 0..63). The greatest becomes 63; below 0 wraps, as in C."""
    greatest_N1 = np.maximum(scales_NS.max(axis=1, keepdims=True), np.float32(0))
    with np.errstate(divide="ignore", over="ignore"):
        inverse_N1 = np.where(greatest_N1 > 0, np.float32(63) / greatest_N1, np.float32(0))
    codes_NS = round_to_int(inverse_N1 * scales_NS).astype(np.uint8)
    return greatest_N1 / np.float32(63), np.minimum(codes_NS, 63)


def _write_sub_scales(
    scales_NS: UInt8[np.ndarray, "N 8"], minimums_NS: UInt8[np.ndarray, "N 8"]
) -> UInt8[np.ndarray, "N 12"]:
    """The reverse of `read_sub_scales`."""
    late_scales_N4, late_minimums_N4 = scales_NS[:, 4:], minimums_NS[:, 4:]
    return np.hstack(
        [
            scales_NS[:, :4] | ((late_scales_N4 >> 4) << 6),
            minimums_NS[:, :4] | ((late_minimums_N4 >> 4) << 6),
            (late_scales_N4 & 0x0F) | ((late_minimums_N4 & 0x0F) << 4),
        ]
    )
