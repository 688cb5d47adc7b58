"""From logits to the next token."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import UsageError

if TYPE_CHECKING:
    from jaxtyping import Float32

DEFAULT_SEED = 299792458


class Sampler:
    """Greedy at temperature 0; above it, a draw from softmax(logits / temperature)."""

    def __init__(self, *, temperature: float = 0.0, seed: int = DEFAULT_SEED) -> None:
        """Args: temperature, at least 0; seed of the draws, at least 0.

        Raises:
            UsageError: the temperature is negative or no finite number, or the seed negative.
        """
        if not (math.isfinite(temperature) and temperature >= 0):
            raise UsageError(
                "the temperature cannot be used",
                where="--temperature",
                expected="a finite number of at least 0",
                found=str(temperature),
                hint="0 is greedy: the most likely token each time",
            )
        if seed < 0:
            raise UsageError(
                "the seed cannot be used",
                where="--seed",
                expected="a whole number of at least 0",
                found=str(seed),
                hint="leave it out for the same draws every time",
            )
        self._temperature = temperature
        self._random = np.random.default_rng(seed)

    def choose(self, logits_V: Float32[np.ndarray, "V"]) -> int:
        """The next token; of equally likely ones greedy takes the lowest id."""
        if self._temperature == 0:
            return int(logits_V.argmax())
        # With the maximum off first, a tiny temperature can overflow to -inf only: weight 0.
        with np.errstate(over="ignore"):
            scaled = (logits_V.astype(np.float64) - logits_V.max()) / self._temperature
        cumulative = np.cumsum(np.exp(scaled))
        point = self._random.random() * cumulative[-1]
        return int(np.searchsorted(cumulative, point, side="right"))
