"""Activations rounded to blocks of 8-bit integers, as ggml does before its integer dots.

    Q8_0   32 values    d = amax / 127; code = roundf(x * (1 / d)); d kept as float16
    Q8_1   32 values    the same, and s = float16(d * sum of codes), from the unrounded d
    Q8_K   256 values   i = -127 / m, m the value of largest magnitude with its sign;
                        code = min(127, round_half_even(i * x)); d = 1 / i, kept as float32;
                        and the sum of codes of every 16 values

These are `quantize_row_q8_0_ref`, `quantize_row_q8_1_ref` and `quantize_row_q8_K_ref` of
`ggml-quants.c`, float32 operation by float32 operation; ggml's SIMD versions differ from
them in the last bit of some codes. A block whose `1 / d` overflows has codes 0.

A block that holds NaN or Inf gets d = NaN and codes 0, so that every product with it is
NaN. ggml would round such a block to finite codes, and a broken activation would go on
looking like a number.

Shape letters: T tokens, C columns, B blocks of a row, W values of a block, S = 16 groups.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import TensorShapeError
from cotejar.quant.floats import round_to_float16
from cotejar.quant.rounding import reciprocal, round_half_away, signed_maximum

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int8, Int16


class ActivationType(enum.Enum):
    """A block format of activations; the value is the number of values in a block."""

    Q8_0 = "Q8_0"
    Q8_1 = "Q8_1"
    Q8_K = "Q8_K"

    @property
    def elements_per_block(self) -> int:
        """Values that one block holds."""
        return 256 if self is ActivationType.Q8_K else 32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QuantizedActivations:
    """The blocks of T tokens; x is about `scale * code`."""

    codes: Int8[np.ndarray, "T B W"]
    """-127..127."""
    scale: Float32[np.ndarray, "T B"]
    """d: a float16 value for Q8_0 and Q8_1, any float32 for Q8_K; NaN marks a broken block."""
    scaled_sum: Float32[np.ndarray, "T B"] | None = None
    """Q8_1 only: s, a float16 value."""
    group_sums: Int16[np.ndarray, "T B 16"] | None = None
    """Q8_K only: the sum of every 16 codes."""


def quantize_activations(
    activation_type: ActivationType, activations: Float32[np.ndarray, "T C"]
) -> QuantizedActivations:
    """Round activations to blocks.

    Raises:
        TensorShapeError: a row is no whole number of blocks.
    """
    require_whole_blocks(activation_type, activations.shape)
    num_tokens, columns = activations.shape
    width = activation_type.elements_per_block
    values_TBW = np.ascontiguousarray(activations).reshape(num_tokens, columns // width, width)
    is_broken_TB = ~np.isfinite(values_TBW).all(axis=2)
    values_TBW = np.where(is_broken_TB[:, :, None], np.float32(0), values_TBW)
    if activation_type is ActivationType.Q8_K:
        return _quantize_q8_k(values_TBW, is_broken_TB)
    return _quantize_q8_0(values_TBW, is_broken_TB, activation_type)


def require_whole_blocks(activation_type: ActivationType, shape: tuple[int, ...]) -> None:
    """Refuse rows of activations that are no whole number of blocks.

    Raises:
        TensorShapeError: they are not.
    """
    num_tokens, columns = shape
    width = activation_type.elements_per_block
    if columns % width:
        raise TensorShapeError(
            f"rows of {columns} values are no whole {activation_type.value} blocks",
            where="activations of a matrix product",
            expected=f"a multiple of {width} columns",
            found=f"{num_tokens} rows of {columns} columns",
            hint="run this model in the numerics f32",
        )


def _quantize_q8_0(
    values_TBW: Float32[np.ndarray, "T B 32"],
    is_broken_TB: Bool[np.ndarray, "T B"],
    activation_type: ActivationType,
) -> QuantizedActivations:
    exact_scale_TB = np.abs(values_TBW).max(axis=2) / np.float32(127)
    inverse_TB1 = reciprocal(exact_scale_TB)[:, :, None]
    codes_TBW = round_half_away(values_TBW * inverse_TB1).astype(np.int8)
    scale_TB = round_to_float16(exact_scale_TB)
    scale_TB[is_broken_TB] = np.nan
    if activation_type is ActivationType.Q8_0:
        return QuantizedActivations(codes=codes_TBW, scale=scale_TB)
    sum_TB = codes_TBW.sum(axis=2, dtype=np.int32).astype(np.float32)
    scaled_sum_TB = round_to_float16(sum_TB * exact_scale_TB)
    scaled_sum_TB[is_broken_TB] = np.nan
    return QuantizedActivations(codes=codes_TBW, scale=scale_TB, scaled_sum=scaled_sum_TB)


def _quantize_q8_k(
    values_TBW: Float32[np.ndarray, "T B 256"], is_broken_TB: Bool[np.ndarray, "T B"]
) -> QuantizedActivations:
    num_tokens, num_blocks, width = values_TBW.shape
    extreme_TB = signed_maximum(values_TBW.reshape(-1, width)).reshape(num_tokens, num_blocks)
    is_zero_TB = extreme_TB == 0
    with np.errstate(over="ignore"):
        inverse_TB = np.float32(-127) / np.where(is_zero_TB, np.float32(1), extreme_TB)
    scale_TB = np.where(is_zero_TB, np.float32(0), np.float32(1) / inverse_TB)
    inverse_TB[~np.isfinite(inverse_TB)] = 0
    rounded_TBW = np.rint(values_TBW * inverse_TB[:, :, None])
    codes_TBW = np.minimum(rounded_TBW, np.float32(127)).astype(np.int8)
    groups = codes_TBW.reshape(num_tokens, num_blocks, 16, width // 16)
    scale_TB[is_broken_TB] = np.nan
    return QuantizedActivations(
        codes=codes_TBW, scale=scale_TB, group_sums=groups.sum(axis=3, dtype=np.int16)
    )
