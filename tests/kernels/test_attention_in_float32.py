"""Attention in float32: equal bits on every instruction set, and near the one in float64."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotejar.kernels.instruction_set import NUMPY, runnable_isas
from cotejar.kernels.numpy_operations import exponential
from cotejar.kernels.operations import attend

if TYPE_CHECKING:
    from collections.abc import Callable

F32 = np.float32
COMPILED = [isa for isa in runnable_isas() if isa != NUMPY]
SEEDS = st.integers(0, 2**32)
UNIT = 2.0**-24
"""The relative error of one rounding to float32."""


def same_bits(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal bits; a NaN is a NaN."""
    is_nan = np.isnan(expected)
    found, expected = (np.where(is_nan & np.isnan(x), F32(0), x) for x in (found, expected))
    return found.shape == expected.shape and found.tobytes() == expected.tobytes()


def inputs(tokens: int, total: int, heads: int, kv_heads: int, size: int, seed: int):
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((tokens, heads, size)).astype(F32) * F32(2)
    k, v = rng.standard_normal((2, total, kv_heads, size)).astype(F32)
    return q, k, v


def fused(a: np.float32, b: np.float32, total: np.float32) -> np.float32:
    """By way of a fraction; float64 holds what is told from a tie here."""
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(total))
    near = F32(float(exact))
    around = [near, np.nextafter(near, F32(-np.inf)), np.nextafter(near, F32(np.inf))]
    return min(around, key=lambda x: (abs(Fraction(float(x)) - exact), int(x.view("u4")) & 1))


def rounded_twice(a: np.float32, b: np.float32, total: np.float32) -> np.float32:
    return a * b + total


def by_the_definition(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, add: Callable[..., np.float32]
) -> np.ndarray:
    """The last token's one head, a number at a time."""
    scores = []
    for key in k[:, 0]:
        score = F32(0)
        for e, value in enumerate(q[-1, 0]):
            score = add(value, key[e], score)
        scores.append(score / F32(np.sqrt(len(key))))
    weights = exponential(np.array(scores) - max(scores))
    context = np.zeros(q.shape[2], F32)
    total = F32(0)
    for weight, value in zip(weights, v[:, 0], strict=True):
        total = total + weight
        context = np.array([add(weight, x, c) for x, c in zip(value, context, strict=True)])
    return context / total


@pytest.mark.parametrize("isa", [*COMPILED, NUMPY])
@pytest.mark.parametrize("size", [3, 16])
def test_it_is_the_definition(isa: str, size: int) -> None:
    q, k, v = inputs(1, 9, 1, 1, size, seed=2)
    found = attend(q, k, v, isa=isa, in_float32=True)[-1, 0]

    assert same_bits(found, by_the_definition(q, k, v, fused))
    assert not same_bits(found, by_the_definition(q, k, v, rounded_twice))


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(1, 40),
    before=st.integers(0, 40),
    kv_heads=st.integers(1, 2),
    group=st.sampled_from([1, 3, 7, 9]),
    size=st.sampled_from([1, 3, 16, 40, 64, 80, 128]),
    window=st.one_of(st.none(), st.integers(1, 30)),
    scale=st.sampled_from([1, 1e-22, 1e19]),  # with scores that underflow, or overflow
    scale_of_values=st.sampled_from([1, 1e-44, 5e37]),
    seed=SEEDS,
)
def test_it_has_the_bits_of_numpy(
    tokens: int,
    before: int,
    kv_heads: int,
    group: int,
    size: int,
    window: int | None,
    scale: float,
    scale_of_values: float,
    seed: int,
) -> None:
    q, k, v = inputs(tokens, before + tokens, kv_heads * group, kv_heads, size, seed)
    q, k = q * F32(scale), k * F32(scale)
    v = v * F32(scale_of_values)
    expected = attend(q, k, v, window=window, isa=NUMPY, in_float32=True)

    for isa in COMPILED:
        assert same_bits(attend(q, k, v, window=window, isa=isa, in_float32=True), expected)


@pytest.mark.parametrize("size", [1, 3, 16, 40, 64, 80, 128])
@pytest.mark.parametrize(("group", "window"), [(1, 9), (3, None), (7, 30), (9, None)])
def test_every_size_of_heads_and_groups_has_the_bits_of_numpy(
    size: int, group: int, window: int | None
) -> None:
    q, k, v = inputs(19, 19 + size, 2 * group, 2, size, seed=size)
    expected = attend(q, k, v, window=window, isa=NUMPY, in_float32=True)

    for isa in COMPILED:
        assert same_bits(attend(q, k, v, window=window, isa=isa, in_float32=True), expected)


@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("size", [16, 80])
def test_it_is_near_the_one_in_float64(isa: str, size: int) -> None:
    q, k, v = inputs(20, 50, 4, 2, size, seed=6)
    by_head = k.repeat(2, axis=1)
    most = np.einsum("the,she->ths", np.abs(q), np.abs(by_head)).max() / np.sqrt(size)

    found = attend(q, k, v, isa=isa, in_float32=True)
    error = np.abs(found - attend(q, k, v, isa=isa)).max()

    # A score: a rounding for each of E, of sqrt(E) and of the quotient, all of at most `most`.
    # Both: the difference to the greatest, at most 2 `most`, and exp's 2 ulp, so 4 units. A
    # factor on each weight moves a mean by twice itself; and both sums of 50 are rounded.
    of_weight = (size + 2) * most + 2 * (2 * most + 4)
    assert error <= 1.01 * np.abs(v).max() * (2 * of_weight + 2 * (2 * 50 + 1)) * UNIT
    assert error > 0  # it is another arithmetic
