"""Q4_0 and Q4_1: 32 weights of 4 bits share one scale.

Q4_0, 18 bytes, little-endian:       Q4_1, 20 bytes:

    0..2    scale   float16              0..2    scale   float16
    2..18   codes   16 bytes             2..4    offset  float16
                                         4..20   codes   16 bytes

Weight j sits in the low half of code byte j, weight 16 + j in its high half.
Q4_0: weight = scale * (code - 8). Q4_1: weight = scale * code + offset.

Encoding gives the bytes of ggml's `quantize_row_q4_0_ref` and `quantize_row_q4_1_ref` (the sign
of a zero scale aside, which depends on where -0.0 stands among zeros).
Shape letters: N blocks, Y bytes of a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.quant.block_parts import BlockParts, read_float16, split_nibbles
from cotejar.quant.rounding import float16_bytes, reciprocal, signed_maximum

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8


def unpack_q4_0(blocks_NY: UInt8[np.ndarray, "N 18"]) -> BlockParts:
    """Take Q4_0 blocks apart."""
    codes_NW = split_nibbles(blocks_NY[:, 2:]).reshape(-1, 32).view(np.int8)
    codes_NW -= 8
    return BlockParts(codes=codes_NW, scale=read_float16(blocks_NY, 0))


def unpack_q4_1(blocks_NY: UInt8[np.ndarray, "N 20"]) -> BlockParts:
    """Take Q4_1 blocks apart."""
    codes_NW = split_nibbles(blocks_NY[:, 4:]).reshape(-1, 32).view(np.int8)
    return BlockParts(
        codes=codes_NW, scale=read_float16(blocks_NY, 0), offset=read_float16(blocks_NY, 2)
    )


def encode_q4_0(values_NW: Float32[np.ndarray, "N 32"]) -> UInt8[np.ndarray, "N 18"]:
    """Encode finite values. The value of largest magnitude gets code 0, that is -8."""
    scale_N1 = signed_maximum(values_NW) / np.float32(-8)
    codes_NW = (values_NW * reciprocal(scale_N1) + np.float32(8.5)).astype(np.int8)
    return np.hstack([float16_bytes(scale_N1), pack_nibbles(np.minimum(codes_NW, 15))])


def encode_q4_1(values_NW: Float32[np.ndarray, "N 32"]) -> UInt8[np.ndarray, "N 20"]:
    """Encode finite values. Code 0 is the least value, code 15 the greatest."""
    least_N1 = values_NW.min(axis=1, keepdims=True)
    scale_N1 = (values_NW.max(axis=1, keepdims=True) - least_N1) / np.float32(15)
    steps_NW = (values_NW - least_N1) * reciprocal(scale_N1)
    codes_NW = np.minimum((steps_NW + np.float32(0.5)).astype(np.int8), 15)
    scales_N4 = [float16_bytes(scale_N1), float16_bytes(least_N1)]
    return np.hstack([*scales_N4, pack_nibbles(codes_NW)])


def pack_nibbles(codes_NW: np.ndarray) -> UInt8[np.ndarray, "N 16"]:
    """32 codes of 0..15 to 16 bytes: the reverse of `split_nibbles`."""
    bytes_NW = codes_NW.astype(np.uint8)
    packed_NH: np.ndarray = bytes_NW[:, :16] | (bytes_NW[:, 16:] << 4)
    return packed_NH
