"""One rotation to explain: the heads before it, the heads after it, and the angles between.

Shape letters: T tokens, H heads, E head size, P pairs, W = H * E.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Complex128, Float64


@dataclass(frozen=True, kw_only=True, eq=False)
class Turning:
    """One rotation to explain: heads before, heads after."""

    before: Float64[np.ndarray, "T H E"]
    after: Float64[np.ndarray, "T H E"]
    frequencies: Float64[np.ndarray, "P"]
    theta: float
    first_position: int
    passes: tuple[int, ...]
    """Tokens that were fed at once, in turn, as the trace says."""

    @property
    def positions(self) -> Float64[np.ndarray, "T"]:
        """Of every row, as it ought to be."""
        return self.first_position + np.arange(len(self.before), dtype=np.float64)

    def turned(
        self,
        frequencies_P: Float64[np.ndarray, "P"] | None = None,
        positions_T: Float64[np.ndarray, "T"] | None = None,
    ) -> Float64[np.ndarray, "T W"]:
        """By other frequencies, or from other positions."""
        frequencies_P = self.frequencies if frequencies_P is None else frequencies_P
        positions_T = self.positions if positions_T is None else positions_T
        return exact.join_heads(exact.turn(self.before, np.outer(positions_T, frequencies_P)))

    @property
    def quotients(self) -> Complex128[np.ndarray, "T P"]:
        """Summed over heads, after times the conjugate of before: its argument is the angle."""
        pairs = len(self.frequencies)
        x, y = self.before, self.after
        before = x[..., :pairs] + 1j * x[..., pairs : 2 * pairs]
        after = y[..., :pairs] + 1j * y[..., pairs : 2 * pairs]
        quotient_TP: np.ndarray = (after * before.conj()).sum(axis=1)
        return quotient_TP


def wrong_scalings(
    frequencies_P: Float64[np.ndarray, "P"], theta: float
) -> Iterator[tuple[str, Float64[np.ndarray, "P"]]]:
    """What becomes of a scaling that a model declares: a title, and the frequencies.

    Nothing where `theta` alone gives the frequencies.
    """
    unscaled_P = exact.frequencies(theta, 2 * len(frequencies_P))
    scale_P = frequencies_P / unscaled_P
    if np.allclose(scale_P, 1, rtol=1e-6, atol=0):
        return
    yield "the RoPE scaling that the model declares is left out", unscaled_P
    yield (
        "the RoPE scaling that the model declares is the wrong way round: what divides the "
        "frequencies multiplies them",
        unscaled_P / scale_P,
    )
    yield "the RoPE scaling that the model declares is applied twice", scale_P * frequencies_P
    if np.ptp(scale_P) > 0:
        strongest = scale_P[np.abs(np.log(scale_P)).argmax()]
        yield (
            "the RoPE scaling that the model declares for some pairs is applied to all alike",
            strongest * unscaled_P,
        )
