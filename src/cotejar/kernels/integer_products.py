"""The product `q8` over quantised weights, in numpy; `products` states the arithmetic.

Integer dots run through BLAS and are exact there in whatever order it adds: a block of 32
codes gives at most 32 * 128 * 127 < 2**24, which float32 holds, and a super-block of 256,
its sub-scales multiplied into its codes, stays far below the 2**53 of float64.

Rows are unpacked a chunk at a time and shared by all tokens, so scratch memory stays at a
few MiB whatever the matrix.

Shape letters: T tokens, R rows, B blocks of a row, W values of a block, S sub-blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cotejar.quant.activations import ActivationType, quantize_activations
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from jaxtyping import Float, Float32

    from cotejar.quant.block_matrix import BlockMatrix

ACTIVATION_TYPES = {
    BlockType.Q4_0: ActivationType.Q8_0,
    BlockType.Q4_1: ActivationType.Q8_1,
    BlockType.Q5_0: ActivationType.Q8_0,
    BlockType.Q5_1: ActivationType.Q8_1,
    BlockType.Q8_0: ActivationType.Q8_0,
    BlockType.Q2_K: ActivationType.Q8_K,
    BlockType.Q3_K: ActivationType.Q8_K,
    BlockType.Q4_K: ActivationType.Q8_K,
    BlockType.Q5_K: ActivationType.Q8_K,
    BlockType.Q6_K: ActivationType.Q8_K,
    BlockType.APR_Q4: ActivationType.Q8_0,
    BlockType.APR_Q8: ActivationType.Q8_0,
}
"""How activations are rounded for each type of weight; ggml's `vec_dot_type`."""

_VALUES_AT_A_TIME = 1 << 19
"""Weights unpacked at a time."""

_TOKENS_AT_A_TIME = 128


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Rows:
    """A chunk of the weight's rows, block by block."""

    codes: Float[np.ndarray, "B R W"]
    """Integers, the sub-scales multiplied in; float32, or float64 for super-blocks."""
    scale: Float32[np.ndarray, "B R"]
    offset: Float32[np.ndarray, "B R"] | None
    sub_offsets: Float32[np.ndarray, "B R S"] | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Tokens:
    """The rounded activations, block by block."""

    codes: Float[np.ndarray, "B T W"]
    scale: Float32[np.ndarray, "B T 1"]
    offset_scale: Float32[np.ndarray, "B T 1"]
    """What multiplies the weight's offset: s of Q8_1, d of Q8_K."""
    sums: Float32[np.ndarray, "B T S"] | None
    """Q8_K: the sum of the codes under each sub-offset."""


def multiply_integer_blocks(
    weight: BlockMatrix, activations: Float32[np.ndarray, "T C"]
) -> Float32[np.ndarray, "T R"]:
    """`activations @ weight.T`; see `products.multiply_q8`, which checks the shapes."""
    tokens = _round_activations(weight.block_type, activations)
    num_tokens = len(activations)
    product_TR = np.empty((num_tokens, weight.rows), np.float32)
    rows_at_a_time = max(1, _VALUES_AT_A_TIME // weight.columns)
    for start in range(0, weight.rows, rows_at_a_time):
        stop = min(start + rows_at_a_time, weight.rows)
        rows = _unpack_rows(weight, start, stop)
        for first in range(0, num_tokens, _TOKENS_AT_A_TIME):
            part = slice(first, min(first + _TOKENS_AT_A_TIME, num_tokens))
            product_TR[part, start:stop] = _sum_of_blocks(rows, tokens, part)
    return product_TR


def _round_activations(
    block_type: BlockType, activations: Float32[np.ndarray, "T C"]
) -> _Tokens:
    activation_type = ACTIVATION_TYPES[block_type]
    blocks = quantize_activations(activation_type, activations)
    dtype = np.float64 if activation_type is ActivationType.Q8_K else np.float32
    offset_scale, sums = blocks.scale, None
    if blocks.scaled_sum is not None:
        offset_scale = blocks.scaled_sum
    if blocks.group_sums is not None:
        sums_TBS = blocks.group_sums.astype(np.float32)
        if block_type is not BlockType.Q2_K:  # its sub-blocks are 16 wide; the others', 32
            sums_TBS = sums_TBS[:, :, 0::2] + sums_TBS[:, :, 1::2]
        sums = _block_major(sums_TBS)
    return _Tokens(
        codes=_block_major(blocks.codes.astype(dtype)),
        scale=_block_major(blocks.scale[:, :, None]),
        offset_scale=_block_major(offset_scale[:, :, None]),
        sums=sums,
    )


def _unpack_rows(weight: BlockMatrix, start: int, stop: int) -> _Rows:
    parts = weight.unpack_rows(start, stop)
    num_rows, width = stop - start, parts.codes.shape[1]
    by_block = (num_rows, weight.columns // width, -1)
    codes_NW: np.ndarray = parts.codes
    dtype: type[np.floating] = np.float32
    if parts.sub_scales is not None:
        codes_NSV = codes_NW.reshape(len(codes_NW), parts.sub_scales.shape[1], -1)
        # At most 128 * 32 in magnitude, so int16 holds the product.
        codes_NW = codes_NSV.astype(np.int16)
        codes_NW *= parts.sub_scales[:, :, None]
        dtype = np.float64
    sub_offsets = parts.sub_offsets
    if sub_offsets is not None:
        sub_offsets = _block_major(sub_offsets.astype(np.float32).reshape(by_block))
    return _Rows(
        codes=_block_major(codes_NW.reshape(by_block), dtype),
        scale=_block_major(parts.scale.reshape(by_block[:2])),
        offset=None
        if parts.offset is None
        else _block_major(parts.offset.reshape(by_block[:2])),
        sub_offsets=sub_offsets,
    )


def _block_major(array: np.ndarray, dtype: type | None = None) -> np.ndarray:
    """Contiguous, the first two axes swapped: from row by row to block by block."""
    return array.swapaxes(0, 1).astype(dtype or array.dtype, order="C")


def _sum_of_blocks(rows: _Rows, tokens: _Tokens, part: slice) -> Float32[np.ndarray, "T R"]:
    num_tokens, num_rows = part.stop - part.start, rows.scale.shape[1]
    total_TR = np.zeros((num_tokens, num_rows), np.float32)
    dot_TR = np.empty((num_tokens, num_rows), rows.codes.dtype)
    term_TR, offset_TR = np.empty_like(total_TR), np.empty_like(total_TR)
    for block in range(len(rows.codes)):
        np.matmul(tokens.codes[block, part], rows.codes[block].T, out=dot_TR)
        np.multiply(tokens.scale[block, part], rows.scale[block], out=term_TR)
        term_TR *= dot_TR.astype(np.float32, copy=False)
        if rows.offset is not None:
            np.multiply(tokens.offset_scale[block, part], rows.offset[block], out=offset_TR)
            if rows.sub_offsets is not None and tokens.sums is not None:
                offset_TR *= tokens.sums[block, part] @ rows.sub_offsets[block].T
            term_TR += offset_TR
        total_TR += term_TR
    return total_TR
