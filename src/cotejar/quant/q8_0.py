"""Q8_0: 32 weights share one scale.

A block is 34 bytes, little-endian:

    0..2    scale   float16
    2..34   codes   32 x int8

weight = scale * code. Encoding is ggml's `quantize_row_q8_0_ref`, to the byte.
Shape letters: N blocks, W = 32 weights, Y = 34 bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.quant.block_parts import BlockParts, read_float16
from cotejar.quant.rounding import float16_bytes, reciprocal, round_half_away

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8


def unpack_q8_0(blocks_NY: UInt8[np.ndarray, "N 34"]) -> BlockParts:
    """Take Q8_0 blocks apart; the codes stay where they are."""
    return BlockParts(codes=blocks_NY[:, 2:].view(np.int8), scale=read_float16(blocks_NY, 0))


def encode_q8_0(values_NW: Float32[np.ndarray, "N 32"]) -> UInt8[np.ndarray, "N 34"]:
    """Encode finite values. Codes come from the scale before its rounding to float16."""
    scale_N1 = np.abs(values_NW).max(axis=1, keepdims=True) / np.float32(127)
    codes_NW = round_half_away(values_NW * reciprocal(scale_N1)).astype(np.int8)
    return np.hstack([float16_bytes(scale_N1), codes_NW.view(np.uint8)])
