"""Q3_K: 256 weights of 3 bits in sixteen sub-blocks, each with a scale.

A block is 110 bytes, little-endian:

    0..32     high bits   bit k of byte j is the third bit of weight 32k + j
    32..96    low bits    two halves of 128 weights; bit pair k of byte j is weight 32k + j
    96..108   sub-scales  16 x 6 bits, see `_sub_scales`
    108..110  scale       float16

weight = scale * (sub_scale - 32) * (code - 4).
Shape letters: N blocks, W = 256 weights, S = 16 sub-blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.quant.block_parts import (
    BlockParts,
    read_float16,
    split_bit_pairs,
    split_bits,
    split_nibbles,
)

if TYPE_CHECKING:
    from jaxtyping import Int8, UInt8


def unpack_q3_k(blocks_NY: UInt8[np.ndarray, "N 110"]) -> BlockParts:
    """Take Q3_K blocks apart."""
    codes_NW = split_bits(blocks_NY[:, :32]).reshape(-1, 256)
    codes_NW <<= 2
    codes_NW |= split_bit_pairs(blocks_NY[:, 32:96].reshape(-1, 2, 32)).reshape(-1, 256)
    signed_NW = codes_NW.view(np.int8)
    signed_NW -= 4
    return BlockParts(
        codes=signed_NW,
        scale=read_float16(blocks_NY, 108),
        sub_scales=_sub_scales(blocks_NY[:, 96:108]),
    )


def _sub_scales(packed_N12: UInt8[np.ndarray, "N 12"]) -> Int8[np.ndarray, "N 16"]:
    """Low four bits: the halves of bytes 0..8. High two: the bit pairs of bytes 8..12."""
    low_NS = split_nibbles(packed_N12[:, :8]).reshape(-1, 16)
    high_NS = split_bit_pairs(packed_N12[:, 8:]).reshape(-1, 16)
    signed_NS: np.ndarray = (low_NS | (high_NS << 4)).view(np.int8)
    signed_NS -= 32
    return signed_NS
