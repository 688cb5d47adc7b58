"""The searches by which ggml's K-quant encoders choose a scale.

A sub-block's values are rounded to integer codes under a number of candidate scales; for
each, the best scale for those codes follows from least squares, and the candidate with
the least weighted squared error wins. `search_scale_and_minimum` follows ggml's
`make_qkx2_quants`, `search_scale` its `make_qx_quants` (`ggml-quants.c`), float32 operation
by float32 operation: sums run over a sub-block's values in order, so the encoders yield
ggml's bytes. All sub-blocks are searched at once; the loop runs over the candidates.

Shape letters: M sub-blocks, V values of one, with V first so that a sum in order is a sum
of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int32

NEGLIGIBLE = np.float32(1e-15)
"""ggml's GROUP_MAX_EPS: a sub-block below it counts as zero."""

_NEAREST_INT_MAGIC = np.float32(1.5 * 2**23)
"""Added to a float32 below 2**22, it leaves the nearest integer in the low mantissa bits."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FoundScale:
    """What a search found for every sub-block."""

    scale: Float32[np.ndarray, "M"]
    minimum: Float32[np.ndarray, "M"]
    """To subtract, >= 0; all 0 where only a scale was sought."""
    codes: Int32[np.ndarray, "V M"]


def ordered_sum(terms_VM: Float32[np.ndarray, "V M"]) -> Float32[np.ndarray, "M"]:
    """The sum over V, one term after another, each step rounded to float32."""
    total_M = np.zeros(terms_VM.shape[1], np.float32)
    for term_M in terms_VM:
        total_M += term_M
    return total_M


def round_to_int(values: Float32[np.ndarray, "..."]) -> Int32[np.ndarray, "..."]:
    """Round as ggml's `nearest_int` does: to nearest, ties to even, by way of the bits.

    Exact below 2**22. A search whose minimum has come near the maximum can leave that
    range, where the trick gives what it gives; the clamps that follow keep codes valid,
    and only this very trick gives ggml's bytes.
    """
    bits: np.ndarray = (values + _NEAREST_INT_MAGIC).view(np.int32)
    bits &= 0x007FFFFF
    bits -= 0x00400000
    return bits


@np.errstate(divide="ignore", over="ignore", invalid="ignore")
def search_scale_and_minimum(
    values_VM: Float32[np.ndarray, "V M"],
    *,
    weights_VM: Float32[np.ndarray, "V M"],
    greatest_code: int,
    first_step: float,
    num_steps: int,
) -> FoundScale:
    """Fit `value = scale * code - minimum` with codes 0..greatest_code, minimum >= 0.

    Args:
        values_VM: finite values.
        weights_VM: weight of each value's squared error.
        greatest_code: 15 for four bits.
        first_step: the first candidate spreads the values over `greatest_code + first_step`.
        num_steps: further candidates, each 0.1 wider.
    """
    top = np.float32(greatest_code)
    greatest_M = values_VM.max(axis=0)
    least_M = np.minimum(values_VM.min(axis=0), np.float32(0))
    weight_M, weighted_M = ordered_sum(weights_VM), ordered_sum(weights_VM * values_VM)

    # Equal values, none positive, have no spread: scale and codes come out 0, as they should.
    inverse_M = top / (greatest_M - least_M)
    scale_M, floor_M = np.float32(1) / inverse_M, least_M.copy()
    codes_VM = _codes(values_VM, floor_M, inverse_M, greatest_code)
    error_M = _squared_error(values_VM, weights_VM, codes_VM, scale_M, floor_M)
    for step in range(num_steps + 1):
        width = np.float32(first_step) + np.float32(0.1) * np.float32(step) + top
        # The floor found so far, not the least value, is where the next candidate starts.
        inverse_M = width / (greatest_M - floor_M)
        tried_VM = _codes(values_VM, floor_M, inverse_M, greatest_code)
        new_scale_M, new_floor_M, is_solved_M = _least_squares(
            values_VM, weights_VM, tried_VM, weight_M, weighted_M
        )
        new_error_M = _squared_error(values_VM, weights_VM, tried_VM, new_scale_M, new_floor_M)
        is_better_M = is_solved_M & (new_error_M < error_M)
        new = (tried_VM, new_error_M, new_scale_M, new_floor_M)
        _keep(new, into=(codes_VM, error_M, scale_M, floor_M), where=is_better_M)
    return FoundScale(scale=scale_M, minimum=-floor_M, codes=codes_VM)


def _keep(
    new: tuple[np.ndarray, ...], *, into: tuple[np.ndarray, ...], where: Bool[np.ndarray, "M"]
) -> None:
    for best, candidate in zip(into, new, strict=True):
        np.copyto(best, candidate, where=where)


def _codes(
    values_VM: Float32[np.ndarray, "V M"],
    floor_M: Float32[np.ndarray, "M"],
    inverse_M: Float32[np.ndarray, "M"],
    greatest_code: int,
) -> Int32[np.ndarray, "V M"]:
    codes_VM = round_to_int(inverse_M * (values_VM - floor_M))
    return np.clip(codes_VM, 0, greatest_code, out=codes_VM)


def _squared_error(
    values_VM: Float32[np.ndarray, "V M"],
    weights_VM: Float32[np.ndarray, "V M"],
    codes_VM: Int32[np.ndarray, "V M"],
    scale_M: Float32[np.ndarray, "M"],
    floor_M: Float32[np.ndarray, "M"],
) -> Float32[np.ndarray, "M"]:
    error_VM = codes_VM.astype(np.float32)
    error_VM *= scale_M
    error_VM += floor_M
    error_VM -= values_VM
    error_VM *= error_VM
    error_VM *= weights_VM
    return ordered_sum(error_VM)


def _least_squares(
    values_VM: Float32[np.ndarray, "V M"],
    weights_VM: Float32[np.ndarray, "V M"],
    codes_VM: Int32[np.ndarray, "V M"],
    weight_M: Float32[np.ndarray, "M"],
    weighted_M: Float32[np.ndarray, "M"],
) -> tuple[Float32[np.ndarray, "M"], Float32[np.ndarray, "M"], Bool[np.ndarray, "M"]]:
    """The weighted best (scale, floor <= 0) for given codes, and whether there is one."""
    codes = codes_VM.astype(np.float32)
    wl_VM = weights_VM * codes
    sum_l_M = ordered_sum(wl_VM)
    sum_l2_M = ordered_sum(wl_VM * codes)
    sum_xl_M = ordered_sum(wl_VM * values_VM)
    determinant_M = weight_M * sum_l2_M - sum_l_M * sum_l_M
    scale_M = (weight_M * sum_xl_M - weighted_M * sum_l_M) / determinant_M
    floor_M = (sum_l2_M * weighted_M - sum_l_M * sum_xl_M) / determinant_M
    is_positive_M = floor_M > 0
    np.copyto(scale_M, sum_xl_M / sum_l2_M, where=is_positive_M)
    floor_M[is_positive_M] = 0
    return scale_M, floor_M, determinant_M > 0


@np.errstate(divide="ignore", over="ignore", invalid="ignore")
def search_scale(values_VM: Float32[np.ndarray, "V M"], *, half_range: int) -> FoundScale:
    """Fit `value = scale * (code - half_range)`, codes 0..2 * half_range - 1.

    A value's squared error weighs with the value's square. Sub-blocks that hold nothing
    above 1e-15 get scale 0 and codes 0.
    """
    index_1M = np.abs(values_VM).argmax(axis=0)[None]
    extreme_M = np.take_along_axis(values_VM, index_1M, axis=0)[0]
    is_zero_M = np.abs(extreme_M) < NEGLIGIBLE
    extreme_M[is_zero_M] = 1
    weights_VM = values_VM * values_VM

    codes_VM = _signed_codes(values_VM, np.float32(-half_range) / extreme_M, half_range)
    sum_xl_M, sum_l2_M = _moments(values_VM, weights_VM, codes_VM)
    scale_M = np.where(sum_l2_M != 0, sum_xl_M / sum_l2_M, np.float32(0))
    best_M = scale_M * sum_xl_M
    for step in [*range(-9, 0), *range(1, 10)]:
        width = np.float32(half_range) + np.float32(0.1) * np.float32(step)
        tried_VM = _signed_codes(values_VM, -width / extreme_M, half_range)
        sum_xl_M, sum_l2_M = _moments(values_VM, weights_VM, tried_VM)
        is_better_M = (sum_l2_M > 0) & (sum_xl_M * sum_xl_M > best_M * sum_l2_M)
        new_scale_M = sum_xl_M / sum_l2_M
        new = (tried_VM, new_scale_M, new_scale_M * sum_xl_M)
        _keep(new, into=(codes_VM, scale_M, best_M), where=is_better_M)

    codes_VM += half_range
    codes_VM[:, is_zero_M] = 0
    scale_M[is_zero_M] = 0
    return FoundScale(scale=scale_M, minimum=np.zeros_like(scale_M), codes=codes_VM)


def _signed_codes(
    values_VM: Float32[np.ndarray, "V M"], inverse_M: Float32[np.ndarray, "M"], half_range: int
) -> Int32[np.ndarray, "V M"]:
    codes_VM = round_to_int(inverse_M * values_VM)
    return np.clip(codes_VM, -half_range, half_range - 1, out=codes_VM)


def _moments(
    values_VM: Float32[np.ndarray, "V M"],
    weights_VM: Float32[np.ndarray, "V M"],
    codes_VM: Int32[np.ndarray, "V M"],
) -> tuple[Float32[np.ndarray, "M"], Float32[np.ndarray, "M"]]:
    codes = codes_VM.astype(np.float32)
    sum_xl_M = ordered_sum(weights_VM * values_VM * codes)
    sum_l2_M = ordered_sum(weights_VM * codes * codes)
    return sum_xl_M, sum_l2_M
