"""Q6_K: 256 weights of 6 bits in sixteen sub-blocks, each with a scale.

A block is 210 bytes, little-endian:

    0..128    low bits    two halves of 128 weights: the low halves of 64 bytes, then the high
    128..192  high bits   two halves of 128 weights; bit pair k of byte j is weight 32k + j
    192..208  sub-scales  16 x int8
    208..210  scale       float16

weight = scale * sub_scale * (code - 32).

Encoding is ggml's `quantize_row_q6_K_ref`: a search of the scale of each sub-block, 8 bits
for each of the sixteen, then the codes anew from the rounded scales.
Shape letters: N blocks, W = 256 weights, S = 16 sub-blocks, V = 16 weights of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.quant.block_parts import (
    BlockParts,
    read_float16,
    split_bit_pairs,
    split_nibbles,
)
from cotejar.quant.rounding import float16_bytes, signed_maximum
from cotejar.quant.scale_search import NEGLIGIBLE, round_to_int, search_scale

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8


def unpack_q6_k(blocks_NY: UInt8[np.ndarray, "N 210"]) -> BlockParts:
    """Take Q6_K blocks apart."""
    codes_NW = split_bit_pairs(blocks_NY[:, 128:192].reshape(-1, 2, 32)).reshape(-1, 256)
    codes_NW <<= 4
    codes_NW |= split_nibbles(blocks_NY[:, :128].reshape(-1, 2, 64)).reshape(-1, 256)
    signed_NW = codes_NW.view(np.int8)
    signed_NW -= 32
    return BlockParts(
        codes=signed_NW,
        scale=read_float16(blocks_NY, 208),
        sub_scales=blocks_NY[:, 192:208].view(np.int8),
    )


def encode_q6_k(values_NW: Float32[np.ndarray, "N 256"]) -> UInt8[np.ndarray, "N 210"]:
    """Encode finite values. A block with no scale above 1e-15 becomes 210 zero bytes."""
    num_blocks = len(values_NW)
    values_VM = np.ascontiguousarray(values_NW.reshape(-1, 16).T)  # M = N * S sub-blocks
    found = search_scale(values_VM, half_range=32)
    scales_NS = found.scale.reshape(num_blocks, 16)
    greatest_N1 = signed_maximum(scales_NS)
    is_zero_N1 = np.abs(greatest_N1) < NEGLIGIBLE
    inverse_N1 = np.float32(-128) / np.where(is_zero_N1, np.float32(1), greatest_N1)
    scale_N1 = np.float32(1) / inverse_N1
    sub_scales_NS = np.minimum(round_to_int(inverse_N1 * scales_NS), 127).astype(np.int8)
    step_M = (scale_N1.astype(np.float16).astype(np.float32) * sub_scales_NS).reshape(-1)
    divisor_M = np.where(step_M == 0, np.float32(1), step_M)
    nearest_VM = np.clip(round_to_int(values_VM / divisor_M), -32, 31) + 32
    # A sub-block whose scale was rounded away keeps the codes of the search.
    codes_VM = np.where(step_M == 0, found.codes, nearest_VM).astype(np.uint8)
    blocks_NY = np.hstack(
        [
            _pack_codes(np.ascontiguousarray(codes_VM.T).reshape(num_blocks, 2, 4, 32)),
            sub_scales_NS.view(np.uint8),
            float16_bytes(scale_N1),
        ]
    )
    blocks_NY[is_zero_N1[:, 0]] = 0
    return blocks_NY


def _pack_codes(codes: UInt8[np.ndarray, "N 2 4 32"]) -> UInt8[np.ndarray, "N 192"]:
    """Codes of 0..63 to their low bits, then their high bits."""
    low = codes & 0x0F
    low_bytes = low[:, :, :2] | (low[:, :, 2:] << 4)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    high_bytes = np.bitwise_or.reduce((codes >> 4) << shifts, axis=2)
    return np.hstack([low_bytes.reshape(-1, 128), high_bytes.reshape(-1, 64)])
