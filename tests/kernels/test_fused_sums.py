"""A fused multiply-add in numpy: the exact result, rounded once."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cotejar.kernels.fused_sums import fused_multiply_add

F32 = np.float32
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def nearest(exact: Fraction) -> np.float32:
    """The float32 next to it, of two the one whose last bit is 0."""
    with np.errstate(over="ignore"):
        near = F32(float(exact))
        around = [near, np.nextafter(near, F32(-np.inf)), np.nextafter(near, F32(np.inf))]
    finite = [value for value in around if np.isfinite(value)]
    return min(
        finite,
        key=lambda value: (abs(Fraction(float(value)) - exact), int(value.view("u4")) & 1),
    )


def fused(a: float, b: float, total: float) -> np.float32:
    with np.errstate(all="ignore"):
        return fused_multiply_add(F32([a]), F32([b]), F32([total]))[0]


@given(a=FINITE, b=FINITE, total=FINITE)
@settings(max_examples=300, deadline=None)
@example(a=1 + 2**-23, b=2**-24, total=1.0)  # just above a tie
@example(a=1 - 2**-24, b=2**-24, total=1.0)  # just below
@example(a=2**-100, b=2**-100, total=1 + 2**-23)  # far below
@example(a=2**-75, b=-(2**-75), total=0.0)  # a tie, to 0
@example(a=2**-75, b=2**-75 * (1 + 2**-23), total=0.0)  # above it: the least subnormal
@example(a=2**-70, b=2**-70 * 3, total=2**-126)  # between two subnormals' distance
@example(a=2**127, b=2**127, total=-1.0)  # beyond the greatest
def test_it_is_the_exact_result_rounded_once(a: float, b: float, total: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(total)
    found = fused(a, b, total)

    # Half a unit beyond the greatest float32 is rounded to infinity.
    if abs(exact) >= Fraction(2) ** 128 - Fraction(2) ** 103:
        assert found == (np.inf if exact > 0 else -np.inf)
    else:
        assert found == nearest(exact)


def test_two_roundings_are_another_result() -> None:
    a = F32(1 + 2**-12)

    assert fused(a, a, -1) == F32(2**-11 + 2**-24)
    assert a * a - F32(1) == F32(2**-11)


def test_what_is_no_number_stays_so() -> None:
    assert np.isnan(fused(np.nan, 1, 1))
    assert np.isnan(fused(np.inf, 0, 1))
    assert np.isnan(fused(np.inf, 1, -np.inf))
    assert fused(np.inf, 1, 1) == np.inf


def test_shapes_are_broadcast() -> None:
    rows = fused_multiply_add(np.ones((3, 1), F32), np.ones((1, 2), F32), np.ones((3, 2), F32))

    assert rows.dtype == F32
    assert rows.tolist() == [[2, 2]] * 3
