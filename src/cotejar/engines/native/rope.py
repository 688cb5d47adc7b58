"""What rotary positions need beside `kernels.operations.rotate`: the angles, and the order.

Shape letters: T new tokens, H heads, E head size, P pairs, W = H * E.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32

    from cotejar.model.config import RopeConfig


def rope_tables(
    rope: RopeConfig, start: int, num_tokens: int
) -> tuple[Float32[np.ndarray, "T P"], Float32[np.ndarray, "T P"]]:
    """Cosine and sine of every angle, computed in float64 and rounded once."""
    exponents_P = np.arange(0, rope.dim, 2, dtype=np.float64) / rope.dim
    frequencies_P = 1.0 / rope.theta**exponents_P
    if rope.frequency_divisors:
        frequencies_P /= np.asarray(rope.frequency_divisors, np.float64)
    angles_TP = np.outer(np.arange(start, start + num_tokens), frequencies_P)
    return np.cos(angles_TP).astype(np.float32), np.sin(angles_TP).astype(np.float32)


def in_canonical_order(
    values_THE: Float32[np.ndarray, "T H E"], rope: RopeConfig
) -> Float32[np.ndarray, "T W"]:
    """For a capture: half-split head order, (tokens, heads * E)."""
    first, second = _pair_slices(rope)
    half = rope.dim // 2
    ordered = values_THE.copy()
    ordered[..., :half] = values_THE[..., first]
    ordered[..., half : rope.dim] = values_THE[..., second]
    return ordered.reshape(len(ordered), -1)


def _pair_slices(rope: RopeConfig) -> tuple[slice, slice]:
    """Where the first and the second values of all pairs are within a head."""
    if rope.pairing == "adjacent":
        return slice(0, rope.dim, 2), slice(1, rope.dim, 2)
    half = rope.dim // 2
    return slice(0, half), slice(half, rope.dim)
