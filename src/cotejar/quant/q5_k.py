"""Q5_K: 256 weights of 5 bits in eight sub-blocks, each with a scale and a minimum.

A block is 176 bytes, little-endian:

    0..2     scale       float16
    2..4     minimum     float16
    4..16    sub-scales  as in Q4_K
    16..48   high bits   bit k of byte j is the fifth bit of weight 32k + j
    48..176  low bits    four runs of 64 weights: the low halves of 32 bytes, then the high

weight = scale * sub_scale * code - minimum * sub_minimum.
Shape letters: N blocks, W = 256 weights, S = 8 sub-blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.quant.block_parts import BlockParts, read_float16, split_bits, split_nibbles
from cotejar.quant.q4_k import read_sub_scales

if TYPE_CHECKING:
    from jaxtyping import UInt8


def unpack_q5_k(blocks_NY: UInt8[np.ndarray, "N 176"]) -> BlockParts:
    """Take Q5_K blocks apart."""
    sub_scales_NS, sub_minimums_NS = read_sub_scales(blocks_NY[:, 4:16])
    codes_NW = split_bits(blocks_NY[:, 16:48]).reshape(-1, 256)
    codes_NW <<= 4
    codes_NW |= split_nibbles(blocks_NY[:, 48:].reshape(-1, 4, 32)).reshape(-1, 256)
    return BlockParts(
        codes=codes_NW.view(np.int8),
        scale=read_float16(blocks_NY, 0),
        sub_scales=sub_scales_NS,
        offset=-read_float16(blocks_NY, 2),
        sub_offsets=sub_minimums_NS,
    )
