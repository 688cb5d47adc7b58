"""F32, F16 and BF16: plain little-endian floats, one value a block.

BF16 is the upper half of a float32. Encoding rounds to nearest, ties to even, as ggml
and the hardware do; ggml's own conversion of NaN (made quiet) needs no care, since
encoders take finite values only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

FLOAT_TYPES = frozenset({BlockType.F32, BlockType.F16, BlockType.BF16})


def decode_floats(
    block_type: BlockType, raw: UInt8[np.ndarray, "Y"], out: Float32[np.ndarray, "n"]
) -> None:
    """Write the values into `out`. Exact: float32 holds every F16 and BF16."""
    if block_type is BlockType.F32:
        out[...] = raw.view("<f4")
    elif block_type is BlockType.F16:
        out[...] = raw.view("<f2")
    else:
        bits = out.view(np.uint32)
        bits[...] = raw.view("<u2")
        bits <<= 16


def encode_floats(
    block_type: BlockType, values: Float32[np.ndarray, "n"]
) -> UInt8[np.ndarray, "Y"]:
    """Encode finite values; F16 gives Inf beyond 65,519, BF16 beyond 3.39e38."""
    if block_type is BlockType.F32:
        return values.astype("<f4").view(np.uint8)
    if block_type is BlockType.F16:
        with np.errstate(over="ignore"):
            return values.astype("<f2").view(np.uint8)
    return bfloat16_bits(values).astype("<u2").view(np.uint8)


def bfloat16_bits(values: Float32[np.ndarray, "*n"]) -> np.ndarray:
    """uint16: the nearest BF16, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    quiet = (bits >> 16) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)


def round_to_float16(values: Float32[np.ndarray, "*n"]) -> Float32[np.ndarray, "*n"]:
    """Each value as the nearest float16; Inf beyond 65,519."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float16).astype(np.float32)


def round_to_bfloat16(values: Float32[np.ndarray, "*n"]) -> Float32[np.ndarray, "*n"]:
    """Each value as the nearest BF16."""
    return (bfloat16_bits(values).astype(np.uint32) << 16).view(np.float32)
