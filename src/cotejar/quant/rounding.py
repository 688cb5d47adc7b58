"""The roundings of ggml's reference encoders, in float32.

Shape letters: N blocks, W values of a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8


def round_half_away(values: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """C's `roundf`: to the nearest integer, halves away from zero.

    `trunc(x + 0.5)` is not it: 0.49999997 + 0.5 is 1 in float32. The fraction below is
    exact.
    """
    whole: np.ndarray = np.trunc(values)
    fraction = values - whole
    whole += fraction >= np.float32(0.5)
    whole -= fraction <= np.float32(-0.5)
    return whole


def reciprocal(scale: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """1 / scale; 0 where the scale is 0, or so small that its reciprocal overflows."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    inverse[~np.isfinite(inverse)] = 0
    return inverse


def signed_maximum(values_NW: Float32[np.ndarray, "N W"]) -> Float32[np.ndarray, "N 1"]:
    """Of each block, the value of largest magnitude, with its sign; the first of equals."""
    index_N1 = np.abs(values_NW).argmax(axis=1)[:, None]
    return np.take_along_axis(values_NW, index_N1, axis=1)


def float16_bytes(values_N1: Float32[np.ndarray, "N 1"]) -> UInt8[np.ndarray, "N 2"]:
    """Rounded to the nearest float16, ties to even; Inf beyond 65,519."""
    with np.errstate(over="ignore"):
        return values_N1.astype("<f2").view(np.uint8)
