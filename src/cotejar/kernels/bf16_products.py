"""The product `bf16` over any weights, in numpy; `products` has the face.

Decoded weights and activations are rounded to bfloat16, to nearest, ties to even. Products are
exact; sums are float32, in the order that AMX's `TDPBF16PS` has in Intel's manual, so that
the tile instruction and all that stands in for it have the same bits:

    columns in chunks of 32, filled with zeros; within a chunk, from 0,
        even = fma(w[0], x[0], 0), fma(w[2], x[2], even), ... of the 16 even columns
        odd  = the same of the 16 odd ones
    total = total + (even + odd), chunk after chunk, from 0

fma rounds a product and its sum together, once. A float32 below 2**-126 counts as 0: of the
inputs before they are rounded, and of every result.

The AVX512-BF16 instruction `VDPBF16PS` has another order, odd column before even into one sum,
and is used for no product: on the Intel CPU that it was measured on, it multiplies half as
fast as float32's fma.

Shape letters: T tokens, R rows, C columns, K chunks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.kernels.fused_sums import add_rounded_to_odd
from cotejar.quant.floats import round_to_bfloat16

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64

    from cotejar.quant.block_matrix import BlockMatrix

CHUNK = 32
"""Columns of one tile instruction."""

SMALLEST = 2.0**-126
"""The least normal float32."""

_SUMS_AT_A_TIME = 1 << 16
"""Sums held at a time; there are a dozen arrays of them."""


def round_to_normal_bfloat16(values: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Each value as the nearest bfloat16; a subnormal float32 as 0."""
    return round_to_bfloat16(_flushed(values))


def multiply_in_bfloat16(
    weight: BlockMatrix, activations: Float32[np.ndarray, "T C"]
) -> Float32[np.ndarray, "T R"]:
    """`activations @ weight.T`; see `products.multiply_bf16`, which checks the shapes."""
    tokens_KCT = _by_chunk(activations)
    num_tokens = len(activations)
    tokens_at_a_time = min(max(num_tokens, 1), 64)
    rows_at_a_time = _SUMS_AT_A_TIME // tokens_at_a_time
    product_TR = np.empty((num_tokens, weight.rows), np.float32)
    for start in range(0, weight.rows, rows_at_a_time):
        stop = min(start + rows_at_a_time, weight.rows)
        rows_KCR = _by_chunk(weight.decode_rows(start, stop))
        for first in range(0, num_tokens, tokens_at_a_time):
            part = slice(first, first + tokens_at_a_time)
            product_TR[part, start:stop] = _sum_of_chunks(rows_KCR, tokens_KCT[:, :, part])
    return product_TR


def _by_chunk(values_NC: Float32[np.ndarray, "N C"]) -> Float64[np.ndarray, "K C N"]:
    num_values, columns = values_NC.shape
    num_chunks = -(-columns // CHUNK)
    by_column = np.zeros((num_chunks * CHUNK, num_values))
    by_column[:columns] = round_to_normal_bfloat16(values_NC).T
    return by_column.reshape(num_chunks, CHUNK, num_values)


def _sum_of_chunks(
    rows_KCR: Float64[np.ndarray, "K C R"], tokens_KCT: Float64[np.ndarray, "K C T"]
) -> Float32[np.ndarray, "T R"]:
    shape = tokens_KCT.shape[2], rows_KCR.shape[2]
    total_TR = np.zeros(shape, np.float32)
    for rows_CR, tokens_CT in zip(rows_KCR, tokens_KCT, strict=True):
        sums = [np.zeros(shape, np.float32), np.zeros(shape, np.float32)]
        for column in range(CHUNK):
            # Exact: two factors of 8 bits, and float64 holds their exponents.
            products_TR = tokens_CT[column][:, None] * rows_CR[column]
            sums[column % 2] = _fused(sums[column % 2], products_TR)
        total_TR = _flushed(total_TR + _flushed(sums[0] + sums[1]))
    return total_TR


def _fused(
    a: Float32[np.ndarray, "T R"], products: Float64[np.ndarray, "T R"]
) -> Float32[np.ndarray, "T R"]:
    """A sum rounded to float32 once, subnormals to 0."""
    odd = add_rounded_to_odd(a, products)
    # What float32 would round up to the least normal number from further below than half a
    # unit of its own is subnormal all the same.
    is_tiny = np.abs(odd) < SMALLEST * (1 - 2.0**-25)
    rounded: np.ndarray = np.where(is_tiny, np.copysign(0, odd), odd).astype(np.float32)
    return rounded


def _flushed(values: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    is_tiny = np.abs(values) < np.float32(SMALLEST)
    return np.where(is_tiny, np.copysign(np.float32(0), values), values)
