"""A product and a sum rounded to float32 together, once: fma, in numpy.

The product of two float32 is exact in float64. Its sum with a third is rounded to odd there:
where it is not exact it gets an odd last bit, by which the rounding to float32 sees that it is
neither a tie nor representable (Boldo and Melquiond, 2008).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64


def fused_multiply_add(
    a: Float32[np.ndarray, "..."],
    b: Float32[np.ndarray, "..."],
    c: Float32[np.ndarray, "..."],
) -> Float32[np.ndarray, "..."]:
    """Compute a * b + c, rounded to float32 once; shapes are broadcast."""
    rounded: np.ndarray = add_rounded_to_odd(c, a.astype(np.float64) * b).astype(np.float32)
    return rounded


def add_rounded_to_odd(
    c: Float32[np.ndarray, "..."], products: Float64[np.ndarray, "..."]
) -> Float64[np.ndarray, "..."]:
    """Compute c + products in float64, rounded to odd: to float32 it can then be rounded."""
    wide = c.astype(np.float64)
    total = wide + products
    back = total - wide
    lost = (wide - (total - back)) + (products - back)
    bits = total.view(np.int64)
    is_even = (lost != 0) & (bits & 1 == 0) & np.isfinite(total)
    away = np.where((lost > 0) == (total > 0), 1, -1)
    odd: np.ndarray = (bits + np.where(is_even, away, 0)).view(np.float64)
    return odd
