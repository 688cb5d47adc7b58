"""Q2_K: 256 weights of 2 bits in sixteen sub-blocks, each with a scale and a minimum.

A block is 84 bytes, little-endian:

    0..16    sub-scales  low half: 4-bit scale, high half: 4-bit minimum
    16..80   codes       two halves of 128 weights; bit pair k of byte j is weight 32k + j
    80..82   scale       float16
    82..84   minimum     float16

weight = scale * sub_scale * code - minimum * sub_minimum.
Shape letters: N blocks, W = 256 weights, S = 16 sub-blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.quant.block_parts import BlockParts, read_float16, split_bit_pairs

if TYPE_CHECKING:
    from jaxtyping import UInt8


def unpack_q2_k(blocks_NY: UInt8[np.ndarray, "N 84"]) -> BlockParts:
    """Take Q2_K blocks apart."""
    subs_NS = blocks_NY[:, :16]
    pairs = split_bit_pairs(blocks_NY[:, 16:80].reshape(-1, 2, 32))
    return BlockParts(
        codes=pairs.reshape(-1, 256).view(np.int8),
        scale=read_float16(blocks_NY, 80),
        sub_scales=(subs_NS & 0x0F).view(np.int8),
        offset=-read_float16(blocks_NY, 82),
        sub_offsets=(subs_NS >> 4).view(np.int8),
    )
