"""The product `q8` over weights in floats (F32, F16, BF16), and `f32` over all, in numpy.

`products` states the arithmetic: 16 lanes, each summed in column order, folded by halves.
BLAS is not used, since its order of sums is its own.

Shape letters: T tokens, R rows, C columns, K steps of 16 columns, L = 16 lanes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.quant.block_type import BlockType
from cotejar.quant.floats import round_to_bfloat16, round_to_float16

if TYPE_CHECKING:
    from jaxtyping import Float32

    from cotejar.quant.block_matrix import BlockMatrix

NUM_LANES = 16

_SUMS_AT_A_TIME = 1 << 17
"""Lane sums held at a time: 512 KiB of float32, so that they stay in a core's own cache."""

_VALUES_AT_A_TIME = 1 << 20
"""Weights decoded at a time, at most."""


def multiply_in_lanes(
    weight: BlockMatrix, activations: Float32[np.ndarray, "T C"]
) -> Float32[np.ndarray, "T R"]:
    """`activations @ weight.T`; see `products.multiply_q8`, which checks the shapes."""
    if weight.block_type is BlockType.F16:
        activations = round_to_float16(activations)
    elif weight.block_type is BlockType.BF16:
        activations = round_to_bfloat16(activations)
    return multiply_decoded_in_lanes(weight, activations)


def multiply_decoded_in_lanes(
    weight: BlockMatrix, activations: Float32[np.ndarray, "T C"]
) -> Float32[np.ndarray, "T R"]:
    """`activations @ weight.T` over the decoded weight, activations as they are."""
    tokens_KLT = _by_lane(activations)
    num_tokens = len(activations)
    tokens_at_a_time = min(max(num_tokens, 1), 64)
    rows_at_a_time = min(
        _SUMS_AT_A_TIME // (NUM_LANES * tokens_at_a_time),
        max(1, _VALUES_AT_A_TIME // weight.columns),
    )
    product_TR = np.empty((num_tokens, weight.rows), np.float32)
    for start in range(0, weight.rows, rows_at_a_time):
        stop = min(start + rows_at_a_time, weight.rows)
        rows_KLR = _by_lane(weight.decode_rows(start, stop))
        for first in range(0, num_tokens, tokens_at_a_time):
            part = slice(first, first + tokens_at_a_time)
            product_TR[part, start:stop] = _sum_of_lanes(rows_KLR, tokens_KLT[:, :, part])
    return product_TR


def _by_lane(values_NC: Float32[np.ndarray, "N C"]) -> Float32[np.ndarray, "K L N"]:
    """Columns as (step, lane), filled with zeros to whole steps.

    Zeros change no bit: a sum that starts at 0.0 is never -0.0, and adding 0.0 leaves it.
    """
    num_values, columns = values_NC.shape
    num_steps = -(-columns // NUM_LANES)
    by_lane = np.zeros((num_steps * NUM_LANES, num_values), np.float32)
    by_lane[:columns] = values_NC.T
    return by_lane.reshape(num_steps, NUM_LANES, num_values)


def _sum_of_lanes(
    rows_KLR: Float32[np.ndarray, "K L R"], tokens_KLT: Float32[np.ndarray, "K L T"]
) -> Float32[np.ndarray, "T R"]:
    num_tokens, num_rows = tokens_KLT.shape[2], rows_KLR.shape[2]
    sums_LTR: np.ndarray = np.zeros((NUM_LANES, num_tokens, num_rows), np.float32)
    products_LTR = np.empty_like(sums_LTR)
    for rows_LR, tokens_LT in zip(rows_KLR, tokens_KLT, strict=True):
        np.multiply(tokens_LT[:, :, None], rows_LR[:, None, :], out=products_LTR)
        sums_LTR += products_LTR
    half = NUM_LANES // 2
    while half:
        sums_LTR = sums_LTR[:half] + sums_LTR[half : 2 * half]
        half //= 2
    total_TR: np.ndarray = sums_LTR[0]
    return total_TR
