"""Statistics in one pass: exact counts and extremes, and sums as near as float64 allows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotejar.kernels import _compiled, operations
from cotejar.kernels.instruction_set import NUMPY, runnable_isas
from cotejar.kernels.moments import Moments, measure_moments, measure_raw

F32 = np.float32
U = 2.0**-24
COMPILED = [isa for isa in runnable_isas() if isa != NUMPY]


def reference(values: np.ndarray) -> Moments:
    """Two passes, exact sums."""
    wide = values.astype(np.float64)
    finite = wide[np.isfinite(wide)].tolist()
    mean = math.fsum(finite) / len(finite) if finite else 0.0
    return Moments(
        len(values),
        int(np.isnan(values).sum()),
        int(np.isinf(values).sum()),
        int((values == 0).sum()),
        min(finite, default=math.inf),
        max(finite, default=-math.inf),
        mean,
        math.fsum((x - mean) ** 2 for x in finite),
    )


def of_all(values: np.ndarray, isa: str) -> Moments:
    both = measure_moments(values.reshape(1, -1), isa=isa)
    assert both is not None
    return both[0]


@settings(max_examples=60, deadline=None)
@given(
    count=st.one_of(st.integers(0, 70), st.integers(4080, 4120), st.integers(0, 60_000)),
    centre=st.sampled_from([0.0, 1.0, -300.0]),
    num_broken=st.integers(0, 3),
    num_zero=st.integers(0, 5),
    seed=st.integers(0, 2**32),
)
def test_moments_are_those_of_two_exact_passes(
    count: int, centre: float, num_broken: int, num_zero: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = (centre + rng.standard_normal(count)).astype(F32)
    if count:
        values[rng.integers(0, count, num_broken)] = [np.nan, np.inf, -np.inf][:num_broken]
        values[rng.integers(0, count, num_zero)] = 0
    expected = reference(values)

    for isa in COMPILED:
        assert near(of_all(values, isa), expected)


@pytest.mark.parametrize("count", [5, 4097, 50_001])
def test_every_instruction_set_and_number_of_threads_gives_the_same_bits(count: int) -> None:
    values = np.random.default_rng(count).standard_normal(count).astype(F32)
    before = _compiled.num_threads()
    found = set()
    for num_threads in (1, 3):
        _compiled.set_num_threads(num_threads)
        found |= {of_all(values, isa) for isa in COMPILED}
    _compiled.set_num_threads(before)

    assert len(found) == 1


@pytest.mark.parametrize("isa", COMPILED)
def test_a_small_spread_around_a_large_mean_is_not_rounded_away(isa: str) -> None:
    constant = np.full(5000, 300.1, F32)
    wavering = constant.copy()
    wavering[::2] += np.spacing(F32(300.1))

    assert of_all(constant, isa).squared_deviations == 0
    found, expected = of_all(wavering, isa), reference(wavering)
    assert found.squared_deviations == pytest.approx(expected.squared_deviations, rel=1e-6)


@pytest.mark.parametrize("where", [0, 8191, 8192])
def test_one_changed_value_is_seen(where: int) -> None:
    values = np.zeros(8193, F32)
    values[where] = 1e-3

    found = of_all(values, COMPILED[0])

    assert (found.zero_count, found.greatest) == (8192, float(F32(1e-3)))
    assert found.squared_deviations > 0


def near(found: Moments, expected: Moments) -> bool:
    """Counts and extremes alike, and sums within what float32 tiles and float64 totals err.

    With u = 2^-24, n finite values and Q the sum of their squares: a sum errs by 12 u of the
    sum of |x|, which is sqrt(n Q) at most; Q by 13 u, and so the deviations by 13 + 2 * 12,
    or by 2 * 12 more where they meet those of blocks that were measured in float64. Twice
    2^-52 a value is for float64's own sums, both ours and the expected one's.
    """
    n = expected.num_values - expected.nan_count - expected.inf_count
    squares = expected.squared_deviations + n * expected.mean**2
    wide = 2.0**-51 * (n + 8)
    return (
        found[:6] == expected[:6]
        and abs(found.mean - expected.mean) <= (12 * U + wide) * math.sqrt(squares / max(n, 1))
        and abs(found.squared_deviations - expected.squared_deviations)
        <= (61 * U + wide) * squares
    )


@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize(
    ("rows", "width"), [(1, 37), (2, 37), (2, 4100), (63, 16), (64, 32), (65, 31), (700, 37)]
)
def test_rows_are_measured_together_and_the_last_by_itself(
    rows: int, width: int, isa: str
) -> None:
    values = np.random.default_rng(rows).standard_normal((rows, width)).astype(F32)
    values[rows // 2, width // 3] = 0

    both = measure_moments(values, isa=isa)

    assert both is not None
    assert near(both[0], reference(values.reshape(-1)))
    assert both[1] == of_all(values[-1], isa)


@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf, 0.0, 3e38])
@pytest.mark.parametrize("where", [(0, 0), (64, 15), (129, 40)])
def test_one_value_that_is_unlike_the_others_is_counted_in_its_block(
    where: tuple[int, int], broken: float, isa: str
) -> None:
    values = np.random.default_rng(1).standard_normal((130, 41)).astype(F32)
    values[where] = broken

    both = measure_moments(values, isa=isa)

    assert both is not None
    assert near(both[0], reference(values.reshape(-1)))


@pytest.mark.parametrize("shape", [(130, 100), (40, 1600)])
def test_blocks_have_the_same_bits_on_every_instruction_set_and_number_of_threads(
    shape: tuple[int, int],
) -> None:
    values = np.random.default_rng(5).standard_normal(shape).astype(F32)
    before = _compiled.num_threads()
    found = set()
    for num_threads in (1, 3):
        _compiled.set_num_threads(num_threads)
        found |= {measure_raw(values, isa=isa) for isa in COMPILED}
    _compiled.set_num_threads(before)

    assert len(found) == 1


@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("tokens", [1, 2, 64, 150])
@pytest.mark.parametrize("heads", [(3,), (5, 2)])
def test_rotations_measure_on_their_way_what_a_pass_of_its_own_measures(
    heads: tuple[int, ...], tokens: int, isa: str
) -> None:
    rng = np.random.default_rng(tokens)
    arrays = [rng.standard_normal((tokens, count, 24)).astype(F32) for count in heads]
    tables = rng.standard_normal((2, tokens, 8)).astype(F32)

    turned, moments = operations.rotate_together(
        arrays, *tables, adjacent=True, measured=True, isa=isa
    )

    expected = [operations.rotate(one, *tables, adjacent=True, isa=isa) for one in arrays]
    assert [one.tobytes() for one in turned] == [one.tobytes() for one in expected]
    alone = [measure_raw(one.reshape(tokens, -1), isa=isa) or b"" for one in expected]
    assert moments == b"".join(alone)
    without, nothing = operations.rotate_together(arrays, *tables, adjacent=True, isa=isa)
    assert [one.tobytes() for one in without] == [one.tobytes() for one in expected]
    assert nothing is None


@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-12, 1e17, 1e30])
def test_squares_that_float32_does_not_hold_are_no_less_near(scale: float, isa: str) -> None:
    values = np.random.default_rng(2).standard_normal((130, 41)) * scale
    values[:, 16:32] = np.random.default_rng(3).standard_normal((130, 16))
    values = values.astype(F32)

    both = measure_moments(values, isa=isa)

    assert both is not None
    assert near(both[0], reference(values.reshape(-1)))
    assert near(both[1], reference(values[-1]))


@pytest.mark.parametrize("isa", COMPILED)
def test_roundings_that_all_go_one_way_stay_within_the_bound(isa: str) -> None:
    """Values of one size, whose squares are rounded alike everywhere."""
    signs = np.where(np.random.default_rng(4).random((128, 64)) < 0.5, -1, 1)

    for size in (0.1, 0.7, 1 / 3, 1.9999):
        values = (signs * size).astype(F32)
        both = measure_moments(values, isa=isa)
        assert both is not None
        assert near(both[0], reference(values.reshape(-1)))


@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("shape", [(130, 41), (1, 5000)])
def test_columns_that_hardly_spread_are_merged_with_those_that_do(
    shape: tuple[int, int], isa: str
) -> None:
    values = np.random.default_rng(6).standard_normal(shape).astype(F32)
    wavering = values[:, 8:30]
    wavering[...] = 300.1 + 1e-4 * wavering

    both = measure_moments(values, isa=isa)

    assert both is not None
    assert near(both[0], reference(values.reshape(-1)))


@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30])
@pytest.mark.parametrize("token", [0, 70, 149])
def test_a_rotation_measures_values_that_are_unlike_others(
    token: int, value: float, isa: str
) -> None:
    """What an infinite value does to the extremes of its piece is undone."""
    rng = np.random.default_rng(7)
    values = rng.standard_normal((150, 3, 24)).astype(F32)
    values[token, 1, 20] = value  # beyond the pairs: it is not turned
    tables = rng.standard_normal((2, 150, 8)).astype(F32)

    (turned,), moments = operations.rotate_together(
        [values], *tables, adjacent=False, measured=True, isa=isa
    )

    flat = turned.reshape(150, -1)
    assert moments == measure_raw(flat, isa=isa)
    measured = measure_moments(flat, isa=isa)
    assert measured is not None
    assert near(measured[0], reference(flat.reshape(-1)))
