"""APR_Q4 and APR_Q8: the two types that only `.apr` files have.

APR_Q4, 18 bytes for 32 values of the flattened tensor, little-endian:

    0..2    scale   float16
    2..18   codes   the low half of byte j is value 2j, the high half value 2j + 1

weight = scale * (code - 8). The last block of a tensor may be used in part.

APR_Q8, one block for the whole tensor:

    0..4    scale   float32
    4..     codes   int8, one a value

weight = scale * code.

Both were defined by paiml/aprender (`crates/aprender-core/src/format/v2`); encoding gives
the bytes of its `add_q4_tensor` and `add_q8_tensor`. Its reader takes an APR_Q4 scale that is
NaN, Inf or subnormal for zero; here the weights are what the bytes say, so that a broken
scale is seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.quant.block_parts import BlockParts, read_float16
from cotejar.quant.rounding import float16_bytes, round_half_away

if TYPE_CHECKING:
    from jaxtyping import Float32, Int8, UInt8


def unpack_apr_q4(blocks_NY: UInt8[np.ndarray, "N 18"]) -> BlockParts:
    """Take APR_Q4 blocks apart."""
    codes_NW = np.empty((len(blocks_NY), 32), np.uint8)
    np.bitwise_and(blocks_NY[:, 2:], 0x0F, out=codes_NW[:, 0::2])
    np.right_shift(blocks_NY[:, 2:], 4, out=codes_NW[:, 1::2])
    signed_NW = codes_NW.view(np.int8)
    signed_NW -= 8
    return BlockParts(codes=signed_NW, scale=read_float16(blocks_NY, 0))


def encode_apr_q4(values_NW: Float32[np.ndarray, "N 32"]) -> UInt8[np.ndarray, "N 18"]:
    """Encode finite values; the largest magnitude becomes 7. A zero block has scale 1."""
    greatest_N1 = np.abs(values_NW).max(axis=1, keepdims=True)
    scale_N1 = _scale(greatest_N1, greatest_code=7)
    codes_NW = (np.clip(round_half_away(values_NW / scale_N1), -8, 7) + 8).astype(np.uint8)
    return np.hstack([float16_bytes(scale_N1), codes_NW[:, 0::2] | (codes_NW[:, 1::2] << 4)])


def split_apr_q8(
    raw: UInt8[np.ndarray, "Y"],
) -> tuple[np.float32, Int8[np.ndarray, "n"]]:
    """The scale, and a view of the codes."""
    return np.float32(raw[:4].copy().view("<f4")[0]), raw[4:].view(np.int8)


def encode_apr_q8(values: Float32[np.ndarray, "n"]) -> UInt8[np.ndarray, "Y"]:
    """Encode finite values; the largest magnitude becomes 127. All zero has scale 1."""
    scale_1 = _scale(np.abs(values).max(keepdims=True), greatest_code=127)
    codes = np.clip(round_half_away(values / scale_1), -127, 127).astype(np.int8)
    return np.concatenate([scale_1.astype("<f4").view(np.uint8), codes.view(np.uint8)])


def _scale(
    greatest: Float32[np.ndarray, "*n"], *, greatest_code: int
) -> Float32[np.ndarray, "*n"]:
    return np.where(greatest == 0, np.float32(1), greatest / np.float32(greatest_code))
