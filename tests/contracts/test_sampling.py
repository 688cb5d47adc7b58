"""contracts/sampling-v1.yaml: of equally likely tokens greedy takes the lowest id."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from cotejar.engines.native.engine import NativeEngine
from cotejar.generation.generate import generate
from cotejar.generation.sampler import Sampler
from cotejar.model.language_model import open_language_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

VALUES = (-math.inf, -1.0, -0.0, 0.0, 1.0)
ROWS = list(itertools.product(VALUES, repeat=5))


def first_maximum(row: Sequence[float]) -> int:
    """The contract's words, in plain Python."""
    best = 0
    for index, value in enumerate(row):
        if value > row[best]:
            best = index
    return best


def is_greedy(choose: Callable[[np.ndarray], int]) -> bool:
    return all(choose(np.array(row, np.float32)) == first_maximum(row) for row in ROWS)


def test_falsify_001_greedy_is_the_first_maximum_of_every_small_row() -> None:
    assert len(ROWS) == 3125
    assert is_greedy(Sampler().choose)


def test_001_sees_the_last_of_equal_maxima_and_a_zero_that_has_a_sign() -> None:
    def last(row: np.ndarray) -> int:
        return len(row) - 1 - int(row[::-1].argmax())

    def by_bits(row: np.ndarray) -> int:
        """0.0 before -0.0, as an order of bit patterns has it."""
        return max(range(len(row)), key=lambda i: (row[i], -int(np.signbit(row[i])), -i))

    assert not is_greedy(last)
    assert not is_greedy(by_bits)


def test_falsify_002_greedy_on_a_real_model_is_the_first_maximum(demo_model: Path) -> None:
    model = open_language_model(demo_model)
    engine = NativeEngine(model, numerics="q8")
    ids = model.tokenizer.encode("The capital of France is")

    made = generate(engine, ids, sampler=Sampler(), max_tokens=2, end_ids=set())

    session, text = engine.start(), list(ids)
    for token in made.token_ids:
        logits = session.append(text)
        assert token == first_maximum(logits.tolist())
        text = [token]
    assert len(made.token_ids) == 2
