"""Blocks taken apart: the integers and scales that every quantised type consists of.

Whatever the layout, a weight is

    weight = (scale * sub_scale) * code + (offset * sub_offset)

where a type may lack sub-scales (they count as 1) and offsets (nothing is added). Each
product and the sum are rounded to float32 one after another, in the order in which
ggml's `dequantize_row_*` computes them, so the result has ggml's bits. Types that
subtract a minimum (Q2_K, Q4_K, Q5_K) carry it negated, which is exact.

Shape letters: N blocks, W values of a block, S sub-blocks of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32, Int8, UInt8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BlockParts:
    """N blocks of one type."""

    codes: Int8[np.ndarray, "N W"]
    """The integers, with the type's constant (8 of Q4_0, say) already subtracted."""
    scale: Float32[np.ndarray, "N"]
    sub_scales: Int8[np.ndarray, "N S"] | None = None
    offset: Float32[np.ndarray, "N"] | None = None
    sub_offsets: Int8[np.ndarray, "N S"] | None = None
    """Only with `offset`; then S is that of `sub_scales`."""

    def weights(self, out: Float32[np.ndarray, "N W"]) -> None:
        """Write the weights into `out`, which must be contiguous."""
        num_blocks, width = self.codes.shape
        num_sub = 1 if self.sub_scales is None else self.sub_scales.shape[1]
        out_NSV = out.reshape(num_blocks, num_sub, width // num_sub)
        out_NSV[...] = self.codes.reshape(out_NSV.shape)
        out_NSV *= _product(self.scale, self.sub_scales)
        if self.offset is not None:
            out_NSV += _product(self.offset, self.sub_offsets)


def _product(
    factor_N: Float32[np.ndarray, "N"], sub_NS: Int8[np.ndarray, "N S"] | None
) -> Float32[np.ndarray, "N S 1"]:
    if sub_NS is None:
        return factor_N[:, None, None]
    product_NS: np.ndarray = factor_N[:, None] * sub_NS.astype(np.float32)
    return product_NS[:, :, None]


def read_float16(
    blocks_NY: UInt8[np.ndarray, "N Y"], offset_bytes: int
) -> Float32[np.ndarray, "N"]:
    """The little-endian float16 at that offset of every block, exactly, as float32."""
    halves_N1 = blocks_NY[:, offset_bytes : offset_bytes + 2].copy().view("<f2")
    return halves_N1[:, 0].astype(np.float32)


def split_nibbles(packed: UInt8[np.ndarray, "*N H"]) -> UInt8[np.ndarray, "*N 2 H"]:
    """H bytes to their H low halves followed by their H high halves."""
    halves = np.empty((*packed.shape[:-1], 2, packed.shape[-1]), np.uint8)
    np.bitwise_and(packed, 0x0F, out=halves[..., 0, :])
    np.right_shift(packed, 4, out=halves[..., 1, :])
    return halves


def split_bit_pairs(packed: UInt8[np.ndarray, "*N H"]) -> UInt8[np.ndarray, "*N 4 H"]:
    """H bytes to their bits 0-1, then their bits 2-3, 4-5 and 6-7."""
    pairs = np.empty((*packed.shape[:-1], 4, packed.shape[-1]), np.uint8)
    for index in range(4):
        np.right_shift(packed, 2 * index, out=pairs[..., index, :])
    pairs &= 0x03
    return pairs


def split_bits(packed: UInt8[np.ndarray, "*N H"]) -> UInt8[np.ndarray, "*N 8 H"]:
    """H bytes to their bits 0, then their bits 1, and so on to bit 7."""
    bits = np.empty((*packed.shape[:-1], 8, packed.shape[-1]), np.uint8)
    for index in range(8):
        np.right_shift(packed, index, out=bits[..., index, :])
    bits &= 0x01
    return bits
