"""Rounded activations against ggml's reference, written out one value at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotejar.errors import TensorShapeError
from cotejar.quant.activations import ActivationType, quantize_activations
from cotejar.quant.rounding import round_half_away

F32 = np.float32


def roundf(value: np.float32) -> int:
    magnitude = math.floor(abs(float(value)) + 0.5)  # float64: the sum is exact here
    return magnitude if value >= 0 else -magnitude


def reference_q8_1(block: np.ndarray) -> tuple[list[int], np.float16, np.float16]:
    """Codes, d and s of `quantize_row_q8_1_ref`; Q8_0 is the same without s."""
    scale = max(abs(value) for value in block) / F32(127)
    inverse = F32(1) / scale if scale else F32(0)
    codes = [roundf(value * inverse) for value in block]
    return codes, np.float16(scale), np.float16(F32(sum(codes)) * scale)


def reference_q8_k(block: np.ndarray) -> tuple[list[int], np.float32]:
    """Codes and d of `quantize_row_q8_K_ref`."""
    extreme = F32(0)
    for value in block:
        if abs(value) > abs(extreme):
            extreme = value
    if extreme == 0:
        return [0] * len(block), F32(0)
    inverse = F32(-127) / extreme
    # Python's round() goes to even on ties, as nearest_int does.
    return [min(127, round(float(inverse * value))) for value in block], F32(1) / inverse


def sample(kind: str) -> np.ndarray:
    rng = np.random.default_rng(11)
    values = {
        "normal": rng.standard_normal((3, 512)),
        "of many sizes": rng.standard_normal((3, 512)) * 10.0 ** rng.integers(-6, 4, (3, 512)),
        "ties": rng.integers(-254, 255, (3, 512)) / 2,  # d is about 1: halves are ties
        "one large": np.where(np.arange(512) == 77, -3000.0, rng.standard_normal((3, 512))),
        "zero": np.zeros((3, 512)),
    }
    return values[kind].astype(F32)


KINDS = ["normal", "of many sizes", "ties", "one large", "zero"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation_type", [ActivationType.Q8_0, ActivationType.Q8_1])
def test_blocks_of_32_are_those_of_the_reference(
    kind: str, activation_type: ActivationType
) -> None:
    values = sample(kind)

    blocks = quantize_activations(activation_type, values)

    for token, block in np.ndindex(3, 16):
        part = values[token, 32 * block : 32 * (block + 1)]
        codes, scale, scaled_sum = reference_q8_1(part)
        assert blocks.codes[token, block].tolist() == codes
        assert blocks.scale[token, block] == scale
        if activation_type is ActivationType.Q8_1:
            assert blocks.scaled_sum is not None
            assert blocks.scaled_sum[token, block] == scaled_sum


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_256_are_those_of_the_reference(kind: str) -> None:
    values = sample(kind)

    blocks = quantize_activations(ActivationType.Q8_K, values)

    assert blocks.group_sums is not None
    for token, block in np.ndindex(3, 2):
        part = values[token, 256 * block : 256 * (block + 1)]
        codes, scale = reference_q8_k(part)
        assert blocks.codes[token, block].tolist() == codes
        assert blocks.scale[token, block] == scale
        sums = [sum(codes[first : first + 16]) for first in range(0, 256, 16)]
        assert blocks.group_sums[token, block].tolist() == sums


@pytest.mark.parametrize("activation_type", list(ActivationType))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_broken_value_marks_its_block_and_no_other(
    activation_type: ActivationType, bad: float
) -> None:
    values = sample("normal")
    clean = quantize_activations(activation_type, values)
    values[1, 300] = bad
    broken_block = 300 // activation_type.elements_per_block

    blocks = quantize_activations(activation_type, values)

    is_nan = np.isnan(blocks.scale)
    assert np.argwhere(is_nan).tolist() == [[1, broken_block]]
    assert not blocks.codes[is_nan].any()
    assert np.array_equal(blocks.codes[~is_nan], clean.codes[~is_nan])
    if activation_type is ActivationType.Q8_1:
        assert blocks.scaled_sum is not None
        assert np.array_equal(np.isnan(blocks.scaled_sum), is_nan)


@pytest.mark.parametrize("activation_type", list(ActivationType))
def test_values_too_small_for_a_reciprocal_become_zeros(
    activation_type: ActivationType,
) -> None:
    values = np.full((1, 256), 1e-40, F32)

    blocks = quantize_activations(activation_type, values)

    assert not blocks.codes.any()
    assert np.isfinite(blocks.scale).all()


def test_part_of_a_block_is_refused() -> None:
    with pytest.raises(TensorShapeError) as caught:
        quantize_activations(ActivationType.Q8_K, np.zeros((2, 384), F32))

    assert str(caught.value) == (
        "error[APR-F018]: rows of 384 values are no whole Q8_K blocks\n"
        "  where     activations of a matrix product\n"
        "  expected  a multiple of 256 columns\n"
        "  found     2 rows of 384 columns\n"
        "  try       run this model in the numerics f32"
    )


@given(st.floats(-(2**20), 2**20, width=32))
def test_halves_are_rounded_away_from_zero(value: float) -> None:
    assert round_half_away(np.array([value], F32))[0] == roundf(F32(value))


def test_the_float_below_a_half_is_rounded_to_zero() -> None:
    below = np.nextafter(F32(0.5), F32(0))

    rounded = round_half_away(np.array([below, -below, 0.5, -0.5], F32))

    assert rounded.tolist() == [0.0, 0.0, 1.0, -1.0]
