"""Distances element by element: right sums, and no NaN that hides."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotejar.errors import UsageError
from cotejar.files.elementwise import (
    ElementPair,
    ElementwiseMeasure,
    measure_elements,
    require_threshold,
)

A = np.array([3.0, 4.0, 0.0, 0.0], np.float32)
NAN, INF = math.nan, math.inf


def measure(a: list[float], b: list[float], num_worst: int = 0):
    return measure_elements(
        [np.array(a, np.float32)], [np.array(b, np.float32)], num_worst=num_worst
    )


def test_every_measure_has_its_definition() -> None:
    distance = measure([3, 4, 0, 0], [3, 4, 0, 0.5])

    assert distance.num_elements == distance.num_compared == 4
    assert distance.num_different == 1
    assert (distance.max_abs, distance.max_abs_index) == (0.5, 3)
    assert distance.rel_l2 == 0.1
    assert distance.nmse == pytest.approx(0.01, rel=1e-15)  # one division of exact sums
    assert distance.rms_diff == 0.25
    # One square root each, of 25 and 25.25, and one product of the two: 4 roundings.
    assert distance.cosine == pytest.approx(25 / (5 * math.sqrt(25.25)), rel=4 * 2**-53)
    assert not distance.is_zero


def test_the_same_is_zero() -> None:
    distance = measure([3, 4, 0, -0.0], [3, 4, -0.0, 0])

    assert distance.is_zero
    assert (distance.max_abs, distance.max_abs_index, distance.rel_l2) == (0.0, None, 0.0)
    assert distance.cosine == 1.0


def test_the_smallest_difference_of_two_floats_is_seen() -> None:
    tiny = float(np.nextafter(np.float32(1), np.float32(2)))

    assert measure([1], [tiny]).num_different == 1
    assert measure([0], [2.0**-149]).max_abs == 2.0**-149


@pytest.mark.parametrize(
    ("a", "b", "cosine", "rel_l2"),
    [([0, 0], [0, 0], 1.0, 0.0), ([0, 0], [1, 0], 0.0, INF), ([1, 0], [0, 0], 0.0, 1.0)],
)
def test_zero_vectors_have_their_own_rules(
    a: list[float], b: list[float], cosine: float, rel_l2: float
) -> None:
    distance = measure(a, b)

    assert (distance.cosine, distance.rel_l2) == (cosine, rel_l2)


def test_one_nan_is_counted_and_is_the_worst_of_all() -> None:
    distance = measure([1, 2, 3], [1, NAN, 100], num_worst=2)

    assert distance.num_compared == 2
    assert distance.nonfinite_counts() == {
        "nan_count_a": 0,
        "nan_count_b": 1,
        "inf_count_a": 0,
        "inf_count_b": 0,
        "nonfinite_mismatches": 1,
    }
    assert [pair.index for pair in distance.worst] == [1, 2]
    assert math.isnan(distance.worst[0].abs_diff)
    assert not distance.is_within(1e9)
    assert distance.severity > measure([1], [1e9]).severity


def test_a_nan_on_both_sides_is_alike_and_still_counted() -> None:
    distance = measure([1, NAN, INF], [1, NAN, INF])

    assert distance.is_zero
    assert (distance.num_compared, distance.num_unlike) == (1, 0)
    assert (distance.nan_count_a, distance.nan_count_b) == (1, 1)
    assert (distance.inf_count_a, distance.inf_count_b) == (1, 1)


@pytest.mark.parametrize(("a", "b"), [(INF, -INF), (INF, NAN), (NAN, 1), (1, INF)])
def test_two_that_are_not_the_same_are_unlike(a: float, b: float) -> None:
    distance = measure([a, 1], [b, 1])

    assert (distance.num_unlike, distance.num_different) == (1, 1)


def test_where_nothing_is_finite_there_is_no_figure() -> None:
    distance = measure([NAN], [NAN])

    assert math.isnan(distance.rel_l2)
    assert math.isnan(distance.cosine)
    assert math.isnan(distance.rms_diff)
    assert math.isnan(distance.nmse)


@pytest.mark.parametrize(
    ("rel_l2", "threshold", "within"),
    [(0.1, 0.1, True), (0.1, 0.09, False), (0.1, None, False), (0.0, None, True)],
)
def test_a_threshold_bounds_the_relative_l2(
    rel_l2: float, threshold: float | None, *, within: bool
) -> None:
    assert measure([3, 4], [3, 4 + 5 * rel_l2]).rel_l2 == pytest.approx(rel_l2, abs=1e-7)
    exact = measure_elements([np.array([3.0, 4.0])], [np.array([3.0, 4.0 + 5 * rel_l2])])
    assert exact.is_within(threshold) is within


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40),
    st.integers(1, 40),
    st.integers(0, 5),
)
def test_chunks_add_up_to_the_whole(values: list[float], step: int, num_worst: int) -> None:
    a = np.array(values, np.float32)
    b = a[::-1].copy()
    whole = measure_elements([a], [b], num_worst=num_worst)

    measure = ElementwiseMeasure(num_worst)
    for start in range(0, a.size, step):
        measure.add(a[start : start + step], b[start : start + step])
    found = measure.result()

    assert found.worst == whole.worst
    assert (found.max_abs, found.max_abs_index) == (whole.max_abs, whole.max_abs_index)
    assert found.num_different == whole.num_different
    # 40 float64 additions in another order.
    assert found.sum_squared_error == pytest.approx(whole.sum_squared_error, rel=40 * 2**-52)


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40), st.integers(1, 5))
def test_the_worst_are_the_worst(values: list[float], num_worst: int) -> None:
    a = np.array(values)
    distance = measure_elements([np.zeros_like(a)], [a], num_worst=num_worst)

    expected = sorted(
        (ElementPair(index=i, a=0.0, b=float(v)) for i, v in enumerate(a) if v),
        key=lambda pair: (-pair.abs_diff, pair.index),
    )
    assert list(distance.worst) == expected[:num_worst]


def test_a_signalling_nan_is_one_too() -> None:
    a = np.array([0x7F800001, 0x3F800000], np.uint32).view(np.float32)

    distance = measure_elements([a], [np.array([1, 1], np.float32)])

    assert (distance.nan_count_a, distance.num_unlike, distance.num_compared) == (1, 1, 1)


@pytest.mark.parametrize("threshold", [-1.0, NAN, INF])
def test_a_threshold_that_decides_nothing_is_refused(threshold: float) -> None:
    with pytest.raises(UsageError) as caught:
        require_threshold(threshold)

    assert str(caught.value) == (
        f"error[APR-U001]: a threshold of {threshold} decides nothing\n"
        "  where     --threshold\n"
        "  expected  a finite relative L2, 0 or more\n"
        f"  found     {threshold}\n"
        "  try       0 asks for equality; Q8_0 lies some 0.005 from its source, Q4_0 some 0.1"
    )


def test_lists_of_unequal_length_are_a_defect_of_the_caller() -> None:
    with pytest.raises(ValueError, match=r"chunks of \(4,\) and \(0,\)"):
        measure_elements([A, A], [A])
