"""Every measure against a formula of its own, in exact sums of Python floats."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cotejar.parity.metrics import (
    divide,
    measure_distance,
    measure_logits,
    same_bits,
    std_ratio,
)
from cotejar.trace.stats import measure_stats

if TYPE_CHECKING:
    from collections.abc import Sequence

EPS = 2.0**-52
VALUES = st.floats(-1e6, 1e6, width=32)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=6))
    arrays = hnp.arrays(np.float32, shape, elements=VALUES)
    return draw(arrays), draw(arrays)


def norm(values: Sequence[float]) -> float:
    return math.sqrt(math.fsum(v * v for v in values))


@given(pairs())
def test_the_relative_error_of_each_token_is_its_l2_norm_over_the_references(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    reference, candidate = pair

    rel_l2 = measure_distance(reference, candidate).rel_l2

    for a, b, found in zip(reference.tolist(), candidate.tolist(), rel_l2, strict=True):
        error, size = norm([y - x for x, y in zip(a, b, strict=True)]), norm(a)
        expected = error / size if size else (math.inf if error else 0.0)
        # At most 6 squares are summed and then a root and a quotient taken: 6 + 4 roundings.
        assert found == pytest.approx(expected, rel=10 * EPS, abs=0)


@given(pairs())
def test_the_largest_error_and_the_normalised_squared_error(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    a, b = (x.astype(float).ravel().tolist() for x in pair)
    errors = [y - x for x, y in zip(a, b, strict=True)]
    squares, reference = math.fsum(e * e for e in errors), math.fsum(x * x for x in a)

    distance = measure_distance(*pair)

    assert distance.max_abs == max(abs(e) for e in errors)  # float32s differ exactly in f64
    expected = squares / reference if reference else (math.inf if squares else 0.0)
    # 36 squares at most: each sum has 36 + 1 roundings.
    assert distance.nmse == pytest.approx(expected, rel=80 * EPS, abs=0)
    assert distance.num_compared == len(a)


@given(pairs())
def test_the_smallest_cosine(pair: tuple[np.ndarray, np.ndarray]) -> None:
    expected = []
    for a, b in zip(*(x.astype(float).tolist() for x in pair), strict=True):
        sizes = norm(a) * norm(b)
        dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
        expected.append(dot / sizes if sizes else float(norm(a) == norm(b)))

    # By Cauchy and Schwarz a sum of 6 products errs by 6 eps of the product of the norms.
    assert measure_distance(*pair).cosine_min == pytest.approx(min(expected), abs=20 * EPS)


def test_two_zero_rows_agree_and_one_does_not() -> None:
    zeros, ones = np.zeros((1, 4)), np.ones((1, 4))

    both, one = measure_distance(zeros, zeros), measure_distance(zeros, ones)

    assert (both.rel_l2_max, both.max_abs, both.cosine_min, both.nmse) == (0, 0, 1, 0)
    assert (one.rel_l2_max, one.max_abs, one.cosine_min, one.nmse) == (math.inf, 1, 0, math.inf)
    assert measure_distance(ones, zeros).rel_l2_max == 1


def test_a_single_number_is_measured() -> None:
    distance = measure_distance(np.array([[4.0]]), np.array([[5.0]]))

    assert (distance.rel_l2_max, distance.nmse, distance.num_compared) == (0.25, 1 / 16, 1)


def test_the_worst_token_is_named() -> None:
    reference, candidate = np.ones((4, 8)), np.ones((4, 8))
    candidate[2, 5] = 1.5

    assert measure_distance(reference, candidate).worst_token == 2


def test_one_changed_token_of_three_does_not_move_the_median_and_two_do() -> None:
    reference, candidate = np.ones((3, 4)), np.ones((3, 4))

    candidate[1, 0] = 1e150
    one = measure_distance(reference, candidate)
    candidate[2, 0] = 1 + 2.0**-40
    two = measure_distance(reference, candidate)

    assert one.rel_l2_median == 0
    assert two.rel_l2_median == 2.0**-41  # an error of 2^-40 beside a norm of 2
    assert one.rel_l2_max == two.rel_l2_max == 5e149


@given(pairs())
def test_the_median_token_is_the_median(pair: tuple[np.ndarray, np.ndarray]) -> None:
    distance = measure_distance(*pair)

    assert distance.rel_l2_median == statistics.median(distance.rel_l2.tolist())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sides", ["reference", "candidate", "both"])
def test_no_measure_of_a_number_that_is_none_is_small(bad: float, sides: str) -> None:
    reference, candidate = np.ones((3, 3)), np.ones((3, 3))
    for array, side in ((reference, "reference"), (candidate, "candidate")):
        if sides in {side, "both"}:
            array[1, 1] = bad

    distance = measure_distance(reference, candidate)

    values = (distance.rel_l2_max, distance.max_abs, 1 - distance.cosine_min, distance.nmse)
    assert not any(value <= 1e300 for value in values)
    assert math.isnan(distance.rel_l2_median)
    assert distance.worst_token == 1


@given(hnp.arrays(np.float32, (2, 3), elements=VALUES), st.integers(0, 5), st.integers(0, 31))
def test_one_flipped_bit_is_seen(array: np.ndarray, element: int, bit: int) -> None:
    other = array.copy()
    other.view(np.uint32).reshape(-1)[element] ^= np.uint32(1 << bit)

    assert measure_distance(array, array.copy()).bit_identical
    assert not measure_distance(array, other).bit_identical


def test_bits_differ_where_numbers_do_not() -> None:
    zero = np.zeros((1, 2), np.float32)

    assert not same_bits(zero, -zero)
    assert not same_bits(zero, zero.astype(np.float64))
    assert not same_bits(zero, zero.view(np.int32))
    assert not same_bits(zero, np.zeros((2, 1), np.float32))
    assert same_bits(np.array([[np.nan]]), np.array([[np.nan]]))
    assert same_bits(zero, np.zeros((2, 2), np.float32)[::2, :])


def test_a_ratio_of_nothing_by_nothing_is_0_and_never_hides_a_nan() -> None:
    assert divide(0.0, 0.0) == 0
    assert divide(1.0, 0.0) == math.inf
    assert math.isnan(divide(math.nan, 0.0))
    assert math.isnan(divide(1.0, math.nan))


def test_the_ratio_of_standard_deviations_has_the_reference_below() -> None:
    # Of [0, x] the standard deviation with ddof 1 is x / sqrt(2).
    one, three, none = (measure_stats(np.array([0.0, x])) for x in (1, 3, 0))

    assert std_ratio(one, three) == pytest.approx(3)
    assert (std_ratio(none, none), std_ratio(none, one), std_ratio(one, none)) == (
        1,
        math.inf,
        0,
    )


LOGITS = hnp.arrays(np.float32, (2, 7), elements=st.floats(-30, 30, width=32))


def log_softmax(row: Sequence[float]) -> list[float]:
    total = math.fsum(math.exp(v) for v in row)
    return [v - math.log(total) for v in row]


@given(LOGITS, LOGITS)
def test_the_divergence_of_two_distributions(reference: np.ndarray, other: np.ndarray) -> None:
    found = measure_logits(reference, other).kl

    for a, b, kl in zip(reference.tolist(), other.tolist(), found, strict=True):
        p, q = log_softmax(a), log_softmax(b)
        expected = math.fsum(math.exp(x) * (x - y) for x, y in zip(p, q, strict=True))
        # Logarithms are below 62 in size and a handful of operations apart: 62 x 16 eps.
        assert kl == pytest.approx(max(expected, 0), abs=1000 * EPS)


def test_equal_logits_do_not_diverge() -> None:
    row = np.array([[1.0, 2.0, 3.0]])

    distance = measure_logits(row, row + 5)  # a constant does not change a distribution

    assert distance.kl.tolist() == pytest.approx([0], abs=4 * EPS)
    assert (distance.top1_equal.tolist(), distance.top5_overlap.tolist()) == ([True], [1.0])


def test_a_token_that_one_side_calls_impossible_diverges_without_end() -> None:
    reference, candidate = np.zeros((1, 3)), np.array([[0.0, 0.0, -np.inf]])

    assert measure_logits(reference, candidate).kl.tolist() == [math.inf]
    assert measure_logits(candidate, reference).kl == pytest.approx([math.log(1.5)])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("sides", ["reference", "candidate", "both"])
def test_logits_that_are_no_numbers_agree_with_nothing(bad: float, sides: str) -> None:
    reference, candidate = np.zeros((2, 7)), np.zeros((2, 7))
    for array, side in ((reference, "reference"), (candidate, "candidate")):
        if sides in {side, "both"}:
            array[0, 0] = bad

    distance = measure_logits(reference, candidate)

    assert (math.isnan(distance.kl[0]), distance.kl[1]) == (True, 0)
    assert distance.top1_equal.tolist() == [False, True]
    assert distance.top5_overlap.tolist() == [0, 1]


def test_of_equally_likely_tokens_the_lowest_ids_are_on_top() -> None:
    flat, last = np.zeros((1, 7)), np.array([[0, 0, 0, 0, 0, 0, 1.0]])

    distance = measure_logits(flat, last)

    # The five of the flat one are 0..4, of the other 6 and 0..3.
    assert (distance.top1_equal.tolist(), distance.top5_overlap.tolist()) == ([False], [0.8])


@pytest.mark.parametrize(("vocabulary", "shared"), [(1, 1.0), (2, 1.0), (5, 1.0), (6, 0.8)])
def test_a_vocabulary_may_be_smaller_than_five(vocabulary: int, shared: float) -> None:
    reference = np.arange(vocabulary, dtype=float)[None]

    assert measure_logits(reference, -reference).top5_overlap.tolist() == [shared]


def test_the_margin_is_the_references_gap_between_its_two_largest() -> None:
    reference = np.array([[1.0, 4.0, 3.5], [2.0, 2.0, 0.0]])

    distance = measure_logits(reference, np.array([[9.0, 0, 0], [0, 9, 0]]))

    assert distance.margin.tolist() == [0.5, 0.0]


def test_the_largest_lead_that_was_lost_is_the_flip_margin() -> None:
    reference = np.array([[9.0, 0, 0], [2, 1.5, 0], [3, 0, 1], [0, 0.25, 0]])
    flipped = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])

    distance = measure_logits(reference, flipped)

    # The first token leads by 9 and is not flipped; 0.5, 2 and 0.25 are.
    assert distance.top1_equal.tolist() == [True, False, False, False]
    assert distance.flip_margin == 2
    assert distance.last.flip_margin == 0.25
    assert measure_logits(reference, reference).flip_margin == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("sides", ["reference", "candidate", "both"])
def test_a_flip_to_or_from_no_number_has_no_margin(bad: float, sides: str) -> None:
    """With equal logits the lead is 0, and 0 would pass a gate of limit 0."""
    reference, candidate = np.zeros((2, 7)), np.zeros((2, 7))
    for array, side in ((reference, "reference"), (candidate, "candidate")):
        if sides in {side, "both"}:
            array[0, 3] = bad

    distance = measure_logits(reference, candidate)

    assert math.isnan(distance.flip_margin)
    assert distance.last.flip_margin == 0


def ranked(row: Sequence[float]) -> list[int]:
    """Ids of the five largest, of equals the lowest first."""
    return sorted(range(len(row)), key=lambda i: (-row[i], i))[:5]


@given(
    hnp.arrays(np.int64, (2, 9), elements=st.integers(0, 3)),
    hnp.arrays(np.int64, (2, 9), elements=st.integers(0, 3)),
)
def test_of_equals_the_lowest_ids_count(reference: np.ndarray, candidate: np.ndarray) -> None:
    """Nine logits of four values: ties within the five and at their edge."""
    distance = measure_logits(reference.astype(float), candidate.astype(float))

    tops = [(ranked(a), ranked(b)) for a, b in zip(reference, candidate, strict=True)]
    assert distance.top1_equal.tolist() == [a[0] == b[0] for a, b in tops]
    assert distance.top5_overlap.tolist() == [len({*a} & {*b}) / 5 for a, b in tops]


@given(LOGITS, LOGITS)
def test_a_row_is_measured_as_if_it_were_alone(a: np.ndarray, b: np.ndarray) -> None:
    together = measure_logits(a, b)

    for row in range(2):
        alone = measure_logits(a[row : row + 1], b[row : row + 1])
        assert alone.kl[0] == together.kl[row]
        assert alone.margin[0] == together.margin[row]


# --- arrays that are looked at by rows ----------------------------------------------------


def test_a_large_pair_is_measured_as_its_rows_are() -> None:
    """Five rows of 3.2 MB: it is taken apart, and the worst part is the worst of all."""
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(5, 400_000))
    candidate = reference + 1e-6 * rng.normal(size=reference.shape)
    candidate[3, 7] += 0.5

    whole = measure_distance(reference, candidate)
    rows = [measure_distance(reference[i : i + 1], candidate[i : i + 1]) for i in range(5)]

    assert whole.num_compared == reference.size
    np.testing.assert_array_equal(whole.rel_l2, np.concatenate([row.rel_l2 for row in rows]))
    assert (whole.worst_token, whole.max_abs) == (3, rows[3].max_abs)
    assert whole.cosine_min == min(row.cosine_min for row in rows)
    # Sums of 5 parts in float64, each at most 400,000 roundings off in its last bits.
    expected = np.sum((candidate - reference) ** 2) / np.sum(reference**2)
    assert whole.nmse == pytest.approx(expected, rel=1e-10)
    assert not whole.bit_identical


@pytest.mark.parametrize("token", [0, 4])
def test_one_changed_bit_of_a_large_pair_is_seen(token: int) -> None:
    reference = np.ones((5, 400_000))
    candidate = reference.copy()
    assert same_bits(reference, candidate)
    assert measure_distance(reference, candidate).bit_identical

    candidate[token, -1] = np.nextafter(1, 2)

    assert not same_bits(reference, candidate)
    assert not measure_distance(reference, candidate).bit_identical


def test_a_nan_in_one_part_is_a_nan_of_the_whole() -> None:
    reference = np.ones((5, 400_000))
    candidate = reference.copy()
    candidate[2, 5] = np.nan

    measured = measure_distance(reference, candidate)

    assert math.isnan(measured.max_abs)
    assert math.isnan(measured.nmse)
    assert math.isnan(measured.cosine_min)
    assert (math.isnan(measured.rel_l2_max), measured.worst_token) == (True, 2)


def test_logits_of_many_tokens_are_measured_as_each_token_is() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(5, 400_000))
    candidate = reference + 0.01 * rng.normal(size=reference.shape)

    whole = measure_logits(reference, candidate)
    rows = [measure_logits(reference[i : i + 1], candidate[i : i + 1]) for i in range(5)]

    for name in ("kl", "top1_equal", "top5_overlap", "margin"):
        parts = [getattr(row, name) for row in rows]
        np.testing.assert_array_equal(getattr(whole, name), np.concatenate(parts))
