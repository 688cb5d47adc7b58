"""The wrong functions are the ones they are named after, by torch's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cotejar.faults import activation
from cotejar.faults.rounding import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable

torch = pytest.importorskip("torch")

X = np.linspace(-12, 12, 1001)
FUNCTIONS = {
    "gelu_erf": lambda x: torch.nn.functional.gelu(x),
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "gelu_quick": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": torch.nn.functional.relu,
    "silu": torch.nn.functional.silu,
    "sigmoid": torch.sigmoid,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_activation_is_torchs(name: str) -> None:
    function: Callable[[np.ndarray], np.ndarray] = getattr(activation, name)

    expected = FUNCTIONS[name](torch.from_numpy(X)).numpy()

    # Both are float64; some steps of rounding of numbers up to 12.
    assert np.allclose(function(X), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("name", "dtype"), [("f16", "float16"), ("bf16", "bfloat16")])
def test_rounding_to_a_float_is_torchs(name: str, dtype: str) -> None:
    values = X.astype(np.float32).reshape(7, 143)

    expected = torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy()

    assert np.array_equal(FORMATS[name][1](values), expected)


ROWS = arrays(np.float32, (3, 8), elements=st.floats(-1000, 1000, width=32))


@pytest.mark.parametrize(("name", "most"), [("int8", 127), ("int4", 7)])
@given(values=ROWS)
def test_a_value_returns_within_half_a_step(name: str, most: int, values: np.ndarray) -> None:
    step = np.abs(values).max(axis=1, keepdims=True) / most

    rounded = FORMATS[name][1](values)

    # Half a step for the code; quotient and product are rounded to float32 once each, which
    # a code of at most 127 makes 127 * 2**-23 of a step. Among subnormals each rounds to a
    # multiple of 2**-149, and half of one in the step counts once a code.
    subnormal = (most + 1) * 2.0**-149
    assert np.all(np.abs(rounded - values) <= (0.5 + 2**-15) * step + subnormal)
    assert len(np.unique(rounded[0])) <= 2 * most + 1
