"""The product `w8a8` over any weights, in numpy; `products` has the face.

Weights and activations are 8-bit integers in groups of 64 columns, each with one scale of its
own, so that 64 products are one integer dot and need one multiplication of scales. The last
group is filled with zeros where columns are left over.

**Activations**: scale = m * (1 / 127), m the greatest magnitude of the group; code =
round_half_even(x * (127 / m)).

**Weights in blocks** are not decoded: what their codes become is a line over whole numbers. A
block, or sub-block, holds weights s * c + o (`quant.block_parts`; o is 0 for most types), whose
codes reach magnitude `most`. m is the greatest magnitude that its group's blocks could hold:
s * most, or of o and o + s * most the greater. With i = 127 * 2**(11 - shift) / m:

    factor = round_half_even(s * i)
    addend = round_half_even(o * (i * 2**(shift - 7)))
    code   = ((((c << (8 + shift)) * factor + 2**14) >> 15) + addend + 8) >> 4

and the group's scale is m * (1 / 127). `shift` is the least with which every factor fits 16
bits. The line is off by less than 1/8 of a code, so codes lie in -127..127.

**Weights in floats** (F32, F16, BF16), and those whose rows share a block (of APR_Q4 some),
become groups as activations do.

All of the above is float32, an operation after another. A group that holds a NaN or an
infinity, or scales that could make one, has scale NaN and codes 0; where 127 / m, or i,
overflows, codes are 0.

For a row and a token, group after group from 0:

    total = fma(scale_w * scale_x, sum(code_w * code_x), total)

the sum being exact, and fma rounding its product and sum together, once.

Shape letters: T tokens, R rows, C columns, G groups, W = 64 values of a group, S sub-blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.kernels.fused_sums import fused_multiply_add
from cotejar.quant.block_type import BlockType
from cotejar.quant.floats import FLOAT_TYPES

if TYPE_CHECKING:
    from jaxtyping import Float32, Int8

    from cotejar.quant.block_matrix import BlockMatrix
    from cotejar.quant.block_parts import BlockParts

GROUP = 64
"""Columns under one scale."""

MOST = {
    BlockType.Q4_0: 8,
    BlockType.Q4_1: 15,
    BlockType.Q5_0: 16,
    BlockType.Q5_1: 31,
    BlockType.Q8_0: 128,
    BlockType.Q2_K: 3,
    BlockType.Q3_K: 4,
    BlockType.Q4_K: 15,
    BlockType.Q5_K: 31,
    BlockType.Q6_K: 32,
    BlockType.APR_Q4: 8,
    BlockType.APR_Q8: 128,
}
"""The greatest magnitude of a type's codes."""

_VALUES_AT_A_TIME = 1 << 19
"""Weights unpacked at a time."""

_TOKENS_AT_A_TIME = 128

_SMALLEST_BLOCK = 32

_F = np.float32


def multiply_groups(
    weight: BlockMatrix, activations: Float32[np.ndarray, "T C"]
) -> Float32[np.ndarray, "T R"]:
    """`activations @ weight.T`; see `products.multiply_w8a8`, which checks the shapes."""
    codes_TGW, scale_TG = group_values(activations)
    product_TR = np.empty((len(activations), weight.rows), _F)
    rows_at_a_time = max(1, _VALUES_AT_A_TIME // weight.columns)
    for start in range(0, weight.rows, rows_at_a_time):
        stop = min(start + rows_at_a_time, weight.rows)
        rows = group_rows(weight, start, stop)
        for first in range(0, len(activations), _TOKENS_AT_A_TIME):
            part = slice(first, first + _TOKENS_AT_A_TIME)
            product_TR[part, start:stop] = _sum_of_groups(
                rows, (codes_TGW[part], scale_TG[part])
            )
    return product_TR


@np.errstate(all="ignore")
def group_values(
    values_NC: Float32[np.ndarray, "N C"],
) -> tuple[Int8[np.ndarray, "N G W"], Float32[np.ndarray, "N G"]]:
    """Rows of floats to codes and scales."""
    values_NGW = _in_groups(values_NC, GROUP)
    most_NG = np.abs(values_NGW).max(axis=2)
    scale_NG, inverse_NG = _scale_of(most_NG, 1)
    values_NGW = np.where(np.isfinite(most_NG)[:, :, None], values_NGW, _F(0))
    return np.rint(values_NGW * inverse_NG[:, :, None]).astype(np.int8), scale_NG


@np.errstate(all="ignore")
def group_rows(
    weight: BlockMatrix, start: int, stop: int
) -> tuple[Int8[np.ndarray, "R G W"], Float32[np.ndarray, "R G"]]:
    """Rows start..stop of a weight to codes and scales."""
    if weight.block_type in FLOAT_TYPES or weight.columns % _SMALLEST_BLOCK:
        return group_values(weight.decode_rows(start, stop))
    return group_parts(weight.unpack_rows(start, stop), weight.block_type, stop - start)


@np.errstate(all="ignore")
def group_parts(
    parts: BlockParts, block_type: BlockType, num_rows: int
) -> tuple[Int8[np.ndarray, "R G W"], Float32[np.ndarray, "R G"]]:
    """Rows in blocks to codes and scales."""
    scale_NS, offset_NS = parts.scale[:, None], None
    if parts.sub_scales is not None:
        scale_NS = scale_NS * parts.sub_scales.astype(_F)
    if parts.offset is not None:
        offset_NS = parts.offset[:, None]
        if parts.sub_offsets is not None:
            offset_NS = offset_NS * parts.sub_offsets.astype(_F)

    width = parts.codes.shape[1] // scale_NS.shape[1]
    each = GROUP // width  # sub-blocks of a group
    scale_RGS = _in_groups(scale_NS.reshape(num_rows, -1), each)
    most_RGS = np.abs(scale_RGS * _F(MOST[block_type]))
    if offset_NS is not None:
        offset_RGS = _in_groups(offset_NS.reshape(num_rows, -1), each)
        furthest_RGS = offset_RGS + scale_RGS * _F(MOST[block_type])
        most_RGS = np.maximum(np.abs(offset_RGS), np.abs(furthest_RGS))
    most_RG = most_RGS.max(axis=2)
    shift = factor_shift(MOST[block_type], has_offset=offset_NS is not None)
    unit = 2048 >> shift
    group_scale_RG, inverse_RG = _scale_of(most_RG, unit)

    inverse_RG1, fine_RG1 = inverse_RG[:, :, None], np.isfinite(most_RG)[:, :, None]
    factor_RGS = _whole(scale_RGS * inverse_RG1, fine_RG1)
    addend_RGS = np.zeros_like(factor_RGS)
    if offset_NS is not None:
        addend_RGS = _whole(offset_RGS * (inverse_RG1 * _F(16 / unit)), fine_RG1)
    codes_RGSV = _in_groups(parts.codes.reshape(num_rows, -1), GROUP).astype(np.int32)
    codes_RGSV = codes_RGSV.reshape(*factor_RGS.shape, width)
    codes_RGSV <<= 8 + shift
    codes_RGSV = (codes_RGSV * factor_RGS[..., None] + (1 << 14)) >> 15
    codes_RGSV = (codes_RGSV + addend_RGS[..., None] + 8) >> 4
    return codes_RGSV.reshape(num_rows, -1, GROUP).astype(np.int8), group_scale_RG


def factor_shift(most: int, *, has_offset: bool) -> int:
    """How far codes up to `most` are shifted, so that every factor fits 16 bits.

    A weight reaches 127 in codes, and without its offset twice that.
    """
    shift = 0
    while (254 if has_offset else 127) * (2048 >> shift) > 32767 * most:
        shift += 1
    return shift


def _in_groups(values_NC: np.ndarray, width: int) -> np.ndarray:
    """Columns in groups of `width`, filled with zeros."""
    filled = np.pad(values_NC, ((0, 0), (0, -values_NC.shape[1] % width)))
    return filled.reshape(len(values_NC), -1, width)


def _scale_of(
    most: Float32[np.ndarray, "N G"], unit: int
) -> tuple[Float32[np.ndarray, "N G"], Float32[np.ndarray, "N G"]]:
    """Scales of groups, NaN for those that are not finite, and what gives their codes."""
    is_fine = np.isfinite(most)
    inverse = _F(127 * unit) / np.where(is_fine, most, _F(0))
    inverse[~np.isfinite(inverse)] = 0
    return np.where(is_fine, most * _F(1 / 127), _F(np.nan)), inverse


def _whole(values: Float32[np.ndarray, "R G S"], is_fine: np.ndarray) -> np.ndarray:
    return np.rint(np.where(is_fine, values, _F(0))).astype(np.int32)


def _sum_of_groups(
    rows: tuple[Int8[np.ndarray, "R G W"], Float32[np.ndarray, "R G"]],
    tokens: tuple[Int8[np.ndarray, "T G W"], Float32[np.ndarray, "T G"]],
) -> Float32[np.ndarray, "T R"]:
    (codes_RGW, scale_RG), (codes_TGW, scale_TG) = rows, tokens
    total_TR = np.zeros((len(codes_TGW), len(codes_RGW)), _F)
    for group in range(codes_RGW.shape[1]):
        # Exact in whatever order: 64 * 127 * 127 < 2**24.
        dot_TR = codes_TGW[:, group].astype(_F) @ codes_RGW[:, group].astype(_F).T
        scale_TR = scale_TG[:, group, None] * scale_RG[:, group]
        total_TR = fused_multiply_add(scale_TR, dot_TR, total_TR)
    return total_TR
