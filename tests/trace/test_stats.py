"""Statistics against numpy, against exact rationals, and over parts."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotejar.kernels.moments import MEAN_ERROR, STD_ERROR
from cotejar.trace.stats import ActivationStats, measure_stats, stats_from_row

U = 2.0**-53
VALUES = st.lists(st.floats(-1e6, 1e6), max_size=60)
NOT_FINITE = st.sampled_from([math.nan, math.inf, -math.inf])


def exact(values: list[float]) -> tuple[float, float]:
    """Mean and sum of squared deviations, in rationals."""
    if not values:
        return 0.0, 0.0
    numbers = [Fraction(v) for v in values]
    mean = sum(numbers, Fraction(0)) / len(numbers)
    return float(mean), float(sum((v - mean) ** 2 for v in numbers))


def require_near_exact(stats: ActivationStats, values: list[float]) -> None:
    """Within what float64 may err.

    With n values of at most m: a mean errs by n u m at most, so every deviation by (n + 1)
    u m, and a sum of n squares of at most (2 m)^2 by 2 n (2 m) (n + 1) u m + n u n (2 m)^2.
    A merge repeats both once. 1e-300 is for what vanishes below 2^-1074.
    """
    mean, deviations = exact(values)
    n, m = len(values), max(map(abs, values), default=0.0)
    assert abs(stats.mean - mean) <= 3 * n * U * m + 1e-300
    assert (
        abs(stats.sum_squared_deviations - deviations) <= 24 * n * (n + 1) * U * m * m + 1e-300
    )


def test_statistics_are_numpys() -> None:
    values = np.random.default_rng(1).normal(3, 20, (7, 3584)).astype(np.float32)
    values[2, :5] = 0
    wide = values.astype(np.float64)

    stats = measure_stats(values)

    assert (stats.count, stats.finite_count, stats.zero_count) == (25088, 25088, 5)
    assert (stats.nan_count, stats.inf_count) == (0, 0)
    assert (stats.min, stats.max) == (wide.min(), wide.max())
    # Beside what a kernel errs, float64 sums in another order: n u for 25,088 terms is 3e-12.
    rms = np.sqrt(np.mean(wide**2))
    assert stats.mean == pytest.approx(wide.mean(), abs=(MEAN_ERROR + 3e-12) * rms)
    assert stats.std == pytest.approx(wide.std(ddof=1), abs=(STD_ERROR + 3e-12) * rms)
    assert stats.rms == pytest.approx(rms, abs=(STD_ERROR + 3e-12) * rms)


def test_statistics_of_float64_are_numpys_in_float64() -> None:
    values = np.random.default_rng(1).normal(3, 20, (7, 3584))

    stats = measure_stats(values)

    # In another order at most: n u for 25,088 terms is 3e-12.
    assert stats.mean == pytest.approx(values.mean(), rel=3e-12)
    assert stats.std == pytest.approx(values.std(ddof=1), rel=3e-12)


def test_ddof_is_one() -> None:
    assert measure_stats(np.array([1.0, 2.0, 4.0])).std == pytest.approx(math.sqrt(7 / 3))


def test_a_large_mean_does_not_swallow_a_small_spread() -> None:
    """The textbook sum of squares minus square of sums would give 0 or worse."""
    stats = measure_stats(np.array([1e9, 1e9 + 1, 1e9 + 2]))

    assert stats.std == 1.0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], (0, 0, 0, 0, math.inf, -math.inf, 0.0, 0.0, 0.0)),
        ([5.0], (1, 0, 0, 0, 5.0, 5.0, 5.0, 0.0, 5.0)),
        ([0.0, -0.0], (2, 0, 0, 2, 0.0, 0.0, 0.0, 0.0, 0.0)),
        ([math.nan], (1, 1, 0, 0, math.inf, -math.inf, 0.0, 0.0, 0.0)),
        (
            [math.inf, 3.0, -math.inf, math.nan, 0.0],
            (5, 1, 2, 1, 0.0, 3.0, 1.5, math.sqrt(4.5), math.sqrt(4.5)),
        ),
    ],
    ids=["nothing", "one", "zeros", "nan", "mixed"],
)
def test_non_finite_values_are_counted_and_left_out(
    values: list[float], expected: tuple[float, ...]
) -> None:
    stats = measure_stats(np.array(values, np.float64))

    assert stats.row() == pytest.approx(list(expected), rel=2 * U)


def test_the_largest_numbers_give_no_error_and_no_nan() -> None:
    largest = np.finfo(np.float64).max

    stats = measure_stats(np.array([largest, largest, -largest, largest]))

    assert stats.finite_count == 4
    assert stats.mean == pytest.approx(largest / 2)
    assert (stats.std, stats.rms) == (math.inf, math.inf)
    assert stats_from_row(stats.row()).row() == stats.row()


def test_merging_with_nothing_changes_nothing_however_large() -> None:
    stats, nothing = measure_stats(np.array([1e200, 3e200])), measure_stats(np.array([]))

    assert stats.merged(nothing) == stats
    assert nothing.merged(stats) == stats


@given(VALUES)
def test_the_whole_is_measured_within_its_bound(values: list[float]) -> None:
    require_near_exact(measure_stats(np.array(values, np.float64)), values)


@given(VALUES, VALUES)
def test_merged_parts_are_the_whole(left: list[float], right: list[float]) -> None:
    parts = [measure_stats(np.array(part, np.float64)) for part in (left, right)]
    whole = measure_stats(np.array(left + right, np.float64))

    merged = parts[0].merged(parts[1])

    require_near_exact(merged, left + right)
    assert (merged.count, merged.zero_count) == (whole.count, whole.zero_count)
    assert (merged.min, merged.max) == (whole.min, whole.max)


@given(st.lists(st.one_of(st.floats(-10, 10), NOT_FINITE), max_size=30), st.integers(0, 30))
def test_merged_counts_are_the_wholes(values: list[float], cut: int) -> None:
    parts = [measure_stats(np.array(p, np.float64)) for p in (values[:cut], values[cut:])]
    whole = measure_stats(np.array(values, np.float64))

    merged = parts[0].merged(parts[1])

    assert merged.row()[:6] == whole.row()[:6]
    assert merged.finite_count == sum(map(math.isfinite, values))


@given(VALUES)
def test_a_row_is_read_back(values: list[float]) -> None:
    stats = measure_stats(np.array(values, np.float64))

    back = stats_from_row(stats.row())

    assert back.row()[:7] == stats.row()[:7]
    # A square root, a square and two products of it: 6 roundings, half of which a root halves.
    assert back.row()[7:] == pytest.approx(stats.row()[7:], rel=6 * U, abs=1e-150)
