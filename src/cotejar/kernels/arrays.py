"""Arrays for results, large ones in memory that earlier results have left.

The C library gives large memory back to the system at once, and fetching it again, page by
page, costs more than filling it (measured: 14 % of a prefill of 128 tokens).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cotejar.kernels import _compiled

if TYPE_CHECKING:
    from jaxtyping import Float32

_SMALL_BYTES = 1 << 17
"""What the C library keeps for itself; its own threshold."""


def empty_array(shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    """Make a float32 array that may hold anything."""
    if 4 * math.prod(shape) < _SMALL_BYTES:
        return np.empty(shape, np.float32)
    return _compiled.empty(shape)


def add_arrays(
    a: Float32[np.ndarray, "*S"], b: Float32[np.ndarray, "*S"]
) -> Float32[np.ndarray, "*S"]:
    """Compute a + b, of one shape."""
    out = empty_array(a.shape)
    np.add(a, b, out=out)
    return out
