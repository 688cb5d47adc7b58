"""What few architectures need beside SiLU: GELU with tanh in it, and the cap of logits.

float32 in numpy, around exponentials of the kernels', so the bits are the same on every
machine and instruction set: of numpy's own functions only +, *, / and clip are used, which
round one way everywhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cotejar.kernels.numpy_operations import exponential
from cotejar.kernels.operations import silu

if TYPE_CHECKING:
    from jaxtyping import Float32

_F = np.float32
_SLOPE = _F(2 * math.sqrt(2 / math.pi))
_CUBE = _F(0.044715)
_FLAT = _F(16)
"""Beyond it GELU is x or 0 to the last bit, and x^3 need not be formed."""


def gelu_tanh(values: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """GELU, 0.5 x (1 + tanh(u)) with u = sqrt(2 / pi) (x + 0.044715 x^3).

    As (1 + tanh(u)) / 2 is the sigmoid of 2 u, and 2 u is x t with t = 2 sqrt(2 / pi)
    (1 + 0.044715 x^2), this is silu(x t) / t. ggml looks its GELU up in a table of float16;
    the model has no such rounding, and neither has this.
    """
    near = np.clip(values, -_FLAT, _FLAT)
    t = _SLOPE * (_F(1) + _CUBE * (near * near))
    result: np.ndarray = silu(values * t) / t
    return result


def softcap(values: Float32[np.ndarray, "..."], cap: float) -> Float32[np.ndarray, "..."]:
    """Compute cap * tanh(values / cap)."""
    ratio = values / _F(cap)
    rest = exponential(_F(-2) * np.abs(ratio))  # tanh(y) = (1 - e^-2y) / (1 + e^-2y)
    result: np.ndarray = np.copysign((_F(1) - rest) / (_F(1) + rest), ratio) * _F(cap)
    return result
