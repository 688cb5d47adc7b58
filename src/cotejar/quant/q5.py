"""Q5_0 and Q5_1: 32 weights of 5 bits share one scale.

Q5_0, 22 bytes, little-endian:       Q5_1, 24 bytes:

    0..2    scale      float16           0..2    scale      float16
    2..6    high bits  uint32            2..4    offset     float16
    6..22   low bits   16 bytes          4..8    high bits  uint32
                                         8..24   low bits   16 bytes

The low four bits are packed as in Q4_0; bit j of the uint32 is the fifth bit of weight j.
Q5_0: weight = scale * (code - 16). Q5_1: weight = scale * code + offset.

Encoding gives the bytes of ggml's `quantize_row_q5_0_ref` and `quantize_row_q5_1_ref`, as for
Q4_0 and Q4_1.
Shape letters: N blocks, Y bytes of a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.quant.block_parts import BlockParts, read_float16, split_nibbles
from cotejar.quant.q4 import pack_nibbles
from cotejar.quant.rounding import float16_bytes, reciprocal, signed_maximum

if TYPE_CHECKING:
    from jaxtyping import Float32, Int8, UInt8


def unpack_q5_0(blocks_NY: UInt8[np.ndarray, "N 22"]) -> BlockParts:
    """Take Q5_0 blocks apart."""
    codes_NW = _codes(blocks_NY[:, 2:6], blocks_NY[:, 6:])
    codes_NW -= 16
    return BlockParts(codes=codes_NW, scale=read_float16(blocks_NY, 0))


def unpack_q5_1(blocks_NY: UInt8[np.ndarray, "N 24"]) -> BlockParts:
    """Take Q5_1 blocks apart."""
    return BlockParts(
        codes=_codes(blocks_NY[:, 4:8], blocks_NY[:, 8:]),
        scale=read_float16(blocks_NY, 0),
        offset=read_float16(blocks_NY, 2),
    )


def encode_q5_0(values_NW: Float32[np.ndarray, "N 32"]) -> UInt8[np.ndarray, "N 22"]:
    """Encode finite values. The value of largest magnitude gets code 0, that is -16."""
    scale_N1 = signed_maximum(values_NW) / np.float32(-16)
    codes_NW = (values_NW * reciprocal(scale_N1) + np.float32(16.5)).astype(np.int8)
    return np.hstack([float16_bytes(scale_N1), _pack(np.minimum(codes_NW, 31))])


def encode_q5_1(values_NW: Float32[np.ndarray, "N 32"]) -> UInt8[np.ndarray, "N 24"]:
    """Encode finite values. Code 0 is the least value, code 31 the greatest."""
    least_N1 = values_NW.min(axis=1, keepdims=True)
    scale_N1 = (values_NW.max(axis=1, keepdims=True) - least_N1) / np.float32(31)
    steps_NW = (values_NW - least_N1) * reciprocal(scale_N1)
    codes_NW = np.minimum((steps_NW + np.float32(0.5)).astype(np.int8), 31)
    return np.hstack([float16_bytes(scale_N1), float16_bytes(least_N1), _pack(codes_NW)])


def _codes(
    high_N4: UInt8[np.ndarray, "N 4"], low_NH: UInt8[np.ndarray, "N 16"]
) -> Int8[np.ndarray, "N 32"]:
    codes_NW = np.unpackbits(high_N4, axis=1, bitorder="little")
    codes_NW <<= 4
    codes_NW |= split_nibbles(low_NH).reshape(-1, 32)
    return codes_NW.view(np.int8)


def _pack(codes_NW: Int8[np.ndarray, "N 32"]) -> UInt8[np.ndarray, "N 20"]:
    high_N4 = np.packbits(codes_NW >> 4, axis=1, bitorder="little")
    return np.hstack([high_N4, pack_nibbles(codes_NW & 0x0F)])
