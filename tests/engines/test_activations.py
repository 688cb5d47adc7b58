"""GELU and the cap of logits: close to float64, and the same bits on every instruction set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cotejar.engines.native.activations import gelu_tanh, softcap

if TYPE_CHECKING:
    import pytest

F32 = np.float32
ROWS = arrays(F32, 37, elements=st.floats(-(2.0**40), 2.0**40, width=32))


def exact_gelu(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@given(ROWS)
def test_gelu_is_the_formula_within_its_rounding(values: np.ndarray) -> None:
    found = gelu_tanh(values).astype(np.float64)

    # exp(-z), within 2 ulp, has a relative error of z u more for the rounding of z = x t,
    # where z <= 104 before it is 0; t, the sum and the two quotients add 8 u. u = 6e-8.
    # Where tanh is all but -1, the formula itself loses digits in float64: 1e-15 of x.
    bound = 120 * 2.0**-24 * np.abs(exact_gelu(values)) + 1e-15 * np.abs(values)
    assert np.all(np.abs(found - exact_gelu(values)) <= bound + 2.0**-126)


def test_gelu_far_out_is_x_or_nothing() -> None:
    values = np.array([1e10, 1e37, np.inf, -1e10, -1e37, 0.0], F32)

    # A last bit is lost where x t / t rounds twice.
    np.testing.assert_array_max_ulp(
        gelu_tanh(values), np.array([1e10, 1e37, np.inf, 0, 0, 0], F32), maxulp=1
    )


def test_a_nan_stays_one() -> None:
    values = np.array([np.nan, 1.0], F32)

    assert np.isnan(gelu_tanh(values)).tolist() == [True, False]
    assert np.isnan(softcap(values, 30.0)).tolist() == [True, False]


@given(ROWS, st.sampled_from([3.0, 30.0, 50.0]))
def test_a_cap_is_the_formula_within_its_rounding(values: np.ndarray, cap: float) -> None:
    found = softcap(values, cap).astype(np.float64)

    exact = cap * np.tanh(values.astype(np.float64) / cap)
    # 1 - e^-2y loses the digits that 1 and e^-2y share: an error of some u of the cap.
    assert np.all(np.abs(found - exact) <= 8 * 2.0**-24 * cap)
    assert np.all(np.abs(found) <= cap)


def test_numpy_and_the_compiled_kernels_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(0).normal(scale=6, size=4099).astype(F32)
    compiled = [gelu_tanh(values), softcap(values, 3.0)]

    monkeypatch.setenv("COTEJAR_ISA", "numpy")

    in_numpy = [gelu_tanh(values), softcap(values, 3.0)]
    assert [a.tobytes() for a in in_numpy] == [a.tobytes() for a in compiled]
