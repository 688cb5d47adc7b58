"""Greedy is the most likely token; above temperature 0 a draw follows softmax."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from cotejar.errors import UsageError
from cotejar.generation.sampler import Sampler
from cotejar.generation.sampling_options import DEFAULT_SEED, SamplingOptions


def logits(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def draws(sampler: Sampler, logits_V: np.ndarray, count: int) -> list[int]:
    return [sampler.choose(logits_V) for _ in range(count)]


def test_greedy_takes_the_most_likely_token() -> None:
    assert Sampler().choose(logits(0.5, -1, 3, 2.5)) == 2


def test_greedy_takes_the_lowest_id_of_a_tie() -> None:
    assert Sampler().choose(logits(1, 7, 7, 7)) == 1
    assert Sampler().choose(logits(-0.0, 0.0)) == 0


@pytest.mark.parametrize(
    "changed",
    [{"temperature": 0.1}, {"logit_bias": ((3, 1.0),)}, {"repetition_penalty": 1.1}],
)
def test_only_unchanged_logits_have_their_greatest_taken(changed: dict[str, Any]) -> None:
    assert Sampler(SamplingOptions(top_k=5, top_p=0.5)).takes_greatest
    assert not Sampler(SamplingOptions(**changed)).takes_greatest


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_softmax_of_the_logits_over_the_temperature(temperature: float) -> None:
    row, count = logits(2, 1, 0, -1), 20_000
    weights = [math.exp(v / temperature) for v in row.tolist()]
    sampler = Sampler(SamplingOptions(temperature=temperature, seed=7))

    found = np.bincount(draws(sampler, row, count), minlength=4)

    for weight, times in zip(weights, found, strict=True):
        p = weight / math.fsum(weights)
        # A binomial count lies within 5 deviations but for one seed in 1.7 million.
        assert abs(times - count * p) < 5 * math.sqrt(count * p * (1 - p))


def test_a_seed_repeats_its_draws_and_another_does_not() -> None:
    flat = np.zeros(50, np.float32)

    one, again, other = (
        draws(Sampler(SamplingOptions(temperature=1, seed=seed)), flat, 20)
        for seed in (1, 1, 2)
    )

    assert one == again
    assert one != other
    assert draws(Sampler(SamplingOptions(temperature=1)), flat, 20) == draws(
        Sampler(SamplingOptions(temperature=1, seed=DEFAULT_SEED)), flat, 20
    )


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-30])
def test_a_tiny_temperature_is_greedy_and_does_not_overflow(temperature: float) -> None:
    sampler = Sampler(SamplingOptions(temperature=temperature))

    assert set(draws(sampler, logits(1, 90, -90, 89), 50)) == {1}


def test_a_huge_temperature_draws_evenly() -> None:
    found = draws(
        Sampler(SamplingOptions(temperature=1e300, seed=3)), logits(-100, 0, 100), 300
    )

    assert set(found) == {0, 1, 2}


def test_a_token_that_cannot_be_is_never_drawn() -> None:
    row = logits(-np.inf, 0, -np.inf, 0, -np.inf)

    assert set(draws(Sampler(SamplingOptions(temperature=1)), row, 300)) == {1, 3}


def test_a_draw_at_the_very_edge_takes_no_token_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Least:
        def random(self) -> float:
            return 0.0

    sampler = Sampler(SamplingOptions(temperature=1))
    monkeypatch.setattr(sampler, "_random", Least())

    assert sampler.choose(logits(-np.inf, 0, 1)) == 1


@pytest.mark.parametrize("temperature", [-1e-9, math.nan, math.inf])
def test_a_temperature_that_means_nothing_is_refused(temperature: float) -> None:
    with pytest.raises(UsageError) as caught:
        Sampler(SamplingOptions(temperature=temperature))

    assert str(caught.value) == (
        "error[APR-U001]: the temperature cannot be used\n"
        "  where     --temperature\n"
        "  expected  a finite number of at least 0\n"
        f"  found     {temperature}\n"
        "  try       0 is greedy: the most likely token each time"
    )


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        Sampler(SamplingOptions(temperature=1, seed=-1))

    assert str(caught.value) == (
        "error[APR-U001]: the seed cannot be used\n"
        "  where     --seed\n"
        "  expected  a whole number of at least 0\n"
        "  found     -1\n"
        "  try       leave it out for the same draws every time"
    )
