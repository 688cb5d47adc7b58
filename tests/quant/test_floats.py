"""Rounding float32 to the 16-bit floats."""

from __future__ import annotations

import numpy as np
import pytest

from cotejar.quant.floats import round_to_bfloat16, round_to_float16


@pytest.mark.parametrize("bits", [0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_nan_whose_payload_is_rounded_away_stays_nan(bits: int) -> None:
    """Rounding the bits alone would make Inf of the first two, and 0 of the last two."""
    values = np.array([bits], np.uint32).view(np.float32)

    assert np.isnan(round_to_bfloat16(values)).all()


def test_values_beyond_the_greatest_become_inf() -> None:
    values = np.array([3.4e38, -3.4e38], np.float32)

    assert round_to_bfloat16(values).tolist() == [np.inf, -np.inf]
    assert round_to_float16(values).tolist() == [np.inf, -np.inf]


def test_ties_go_to_even() -> None:
    """BF16 keeps 7 bits of fraction, F16 keeps 10."""
    of_bf16 = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8], np.float32)
    of_f16 = np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11], np.float32)

    assert round_to_bfloat16(of_bf16).tolist() == [1.0, 1 + 2.0**-6]
    assert round_to_float16(of_f16).tolist() == [1.0, 1 + 2.0**-9]
