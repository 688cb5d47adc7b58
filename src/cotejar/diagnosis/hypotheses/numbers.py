"""Fitted numbers as people write them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

_NAMES = {
    math.sqrt(2): "sqrt(2)",
    1 / math.sqrt(2): "1/sqrt(2)",
}


_GREATEST_DIVISOR = 4096
_NEAR_ONE = 0.01
"""What is as near to 1 has its digits behind zeros or nines."""
_GOLDEN = (5**0.5 - 1) / 2


def nice(value: float, digits: int = 2) -> float:
    """The same number with so many significant digits: what somebody may have typed."""
    if value == 0 or not math.isfinite(value):
        return value
    return float(f"{value:.{digits - 1}e}")


def whole_or_part(value: float) -> float:
    """The nearest of 2, 3, 4, ... and of 1/2, 1/3, 1/4, ...: factors that somebody may mean."""
    if not 1 / _GREATEST_DIVISOR < value < _GREATEST_DIVISOR:
        return value
    return float(max(round(value), 2)) if value > 1 else 1 / max(round(1 / value), 2)


def power_of_ten(value: float) -> float:
    """The nearest one: what an epsilon mostly is."""
    return 10.0 ** round(math.log10(value)) if 0 < value < math.inf else value


def factor_text(value: float) -> str:
    """`2`, `1/8`, `sqrt(2)` or `1.06`."""
    for exact, name in _NAMES.items():
        if math.isclose(value, exact, rel_tol=1e-4):
            return name
    if 1 / (2 * _GREATEST_DIVISOR) < abs(value) < 1:
        divisor = round(1 / value)
        if abs(divisor) <= _GREATEST_DIVISOR and math.isclose(divisor * value, 1, rel_tol=1e-4):
            return f"1/{divisor}" if divisor > 0 else f"-1/{-divisor}"
    return f"{value:.7g}" if abs(value - 1) < _NEAR_ONE else f"{value:.4g}"


def as_known(value: float, known: float) -> str:
    """With as many digits, three at most, as are known if it may be off by `known`."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    place = math.floor(math.log10(abs(value)))
    for digits in (3, 2, 1):
        if 10.0 ** (place - digits + 1) / 2 >= known:
            return f"{value:.{digits}g}"
    return f"about {value:.1g}"


def search_number(distance: Callable[[float], float], low: float, high: float) -> float:
    """The least distance over one positive number: a grid, then golden sections of it."""
    grid = np.geomspace(low, high, 37)
    best = int(np.argmin([distance(float(g)) for g in grid]))
    a, b = np.log(grid[max(best - 1, 0)]), np.log(grid[min(best + 1, len(grid) - 1)])
    while b - a > 1e-10:  # noqa: PLR2004 - relative to the number
        left, right = b - _GOLDEN * (b - a), a + _GOLDEN * (b - a)
        if distance(float(np.exp(left))) < distance(float(np.exp(right))):
            b = right
        else:
            a = left
    return float(np.exp((a + b) / 2))
