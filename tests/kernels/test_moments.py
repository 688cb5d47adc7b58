"""Statistics in one pass: exact counts and extremes, and sums as near as float64 allows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotejar.kernels import _compiled, operations
from cotejar.kernels.instruction_set import NUMPY, runnable_isas
from cotejar.kernels.moments import Moments, measure_moments

F32 = np.float32
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
        found = of_all(values, isa)
        assert found[:6] == expected[:6]
        # n roundings of float64 to each sum, of terms as large as the greatest value
        spread = max(abs(expected.least), abs(expected.greatest)) if count else 0
        spread = spread if math.isfinite(spread) else 0
        assert abs(found.mean - expected.mean) <= 2.0**-52 * (count + 8) * 2 * spread
        limit = 2.0**-52 * (count + 8) * count * 4 * spread**2
        assert abs(found.squared_deviations - expected.squared_deviations) <= limit


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


@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("rows", [1, 2, 700])
def test_the_last_row_is_measured_by_itself(rows: int, isa: str) -> None:
    values = np.random.default_rng(rows).standard_normal((rows, 37)).astype(F32)

    both = measure_moments(values, isa=isa)

    assert both == (of_all(values, isa), of_all(values[-1], isa))


@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("shape", [(1, 5), (3, 4096), (130, 100)])
def test_what_an_operation_measures_on_its_way_is_what_a_pass_of_its_own_measures(
    shape: tuple[int, int], isa: str
) -> None:
    a, b = np.random.default_rng(0).standard_normal((2, *shape)).astype(F32)
    activated = operations.silu(a, isa=isa)

    product, gated = operations.swiglu(a, b, measured=True, isa=isa)
    total, added = operations.add(a, b, measured=True, isa=isa)

    assert product.tobytes() == operations.multiply_elements(activated, b, isa=isa).tobytes()
    assert gated == [measure_moments(x, isa=isa) for x in (a, b, activated, product)]
    assert total.tobytes() == (a + b).tobytes()
    assert added == [measure_moments(x, isa=isa) for x in (b, total)]
    assert operations.swiglu(a, b, isa=isa)[1] is operations.add(a, b, isa=isa)[1] is None
