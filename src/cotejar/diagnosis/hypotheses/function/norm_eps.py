"""The eps of a norm, told no more exactly than the record knows it.

Next to a mean square of 1 the eps of 1e-5 hardly moves a float32, and eps of 1e-6 and of 0 may
give one record. So every number is looked at that gives it as well as the best one does, and
the roundest of them is named; where they lie far apart, the title says between which.

Shape letters: T tokens, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.hypotheses.numbers import nice, power_of_ten
from cotejar.diagnosis.operations import Norm, vector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case

_DEVIATIONS = 9.0
"""Squared: what is left grows by so many of a token's part before a number is another."""
_LEAST = 1e-12
"""Below it no eps is told from 0."""
_GREATEST = 100.0
_APART = 1.2
"""Of two ends with less between them the number alone is said."""
_DIGITS = (1, 2, 3, 4)
_NO_EPS = 1e-8
"""No program's eps is smaller."""
_CLEARLY = 16.0
"""So much less, of squares, is left of another norm by an eps that it has too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownEps:
    """The roundest eps that gives what was recorded, and how well it is known."""

    value: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """`1e-05`, `1e-05 (or from 6e-06 to 2e-05)` or `0 (or anything below 3e-06)`."""
        shown = f"{self.value:.3g}"
        if self.low <= 0:
            if self.high < _NO_EPS:
                return shown
            return f"{shown} (or anything below {self.high:.1g})"
        if self.high > _APART * self.low:
            return f"{shown} (or from {self.low:.2g} to {self.high:.2g})"
        return shown


def known_eps(left: Callable[[float], float], fitted: float, tokens: int) -> KnownEps:
    """Every eps about `fitted` that leaves no more than chance does.

    Args:
        left: the summed squares that an eps leaves of what was recorded.
        fitted: the eps that leaves least.
        tokens: that were looked at. What a token's sum is off moves all its values alike, so
            a token counts as one measurement.
    """
    fitted = min(max(fitted, _LEAST), _GREATEST)
    enough = left(fitted) * (1 + _DEVIATIONS / max(tokens, 1)) + 1e-300
    if left(0.0) <= enough:
        return KnownEps(value=0.0, low=0.0, high=_end(left, fitted, _GREATEST, enough))
    low, high = (_end(left, fitted, bound, enough) for bound in (_LEAST, _GREATEST))
    return KnownEps(value=_roundest(fitted, low, high), low=low, high=high)


def _end(left: Callable[[float], float], inside: float, outside: float, enough: float) -> float:
    """The last number on the way that leaves little enough, by halving."""
    inside, outside = math.log(inside), math.log(outside)
    for _ in range(24):
        middle = (inside + outside) / 2
        if left(math.exp(middle)) <= enough:
            inside = middle
        else:
            outside = middle
    return math.exp(inside)


def _roundest(fitted: float, low: float, high: float) -> float:
    """A power of ten if one fits, else the number of fewest digits."""
    candidates = [power_of_ten(fitted), *(nice(fitted, digits) for digits in _DIGITS)]
    return next((one for one in candidates if low <= one <= high), fitted)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gains:
    """What tokens of one norm were multiplied by, beside what they ought to be."""

    gain: Float64[np.ndarray, "T"]
    """By least squares over the token's values."""
    square: Float64[np.ndarray, "T"]
    """Mean square of the input."""
    rest: float
    """The summed squares that no gain explains, relative to each token's length."""

    @classmethod
    def of(
        cls,
        recorded_TW: Float64[np.ndarray, "T W"],
        x_TW: Float64[np.ndarray, "T W"],
        weight_W: Float64[np.ndarray, "W"],
    ) -> Gains:
        """Of what was recorded, the norm's input and its weight."""
        plain_TW = x_TW * weight_W
        size_T = (plain_TW * plain_TW).sum(axis=1)
        gain_T = (recorded_TW * plain_TW).sum(axis=1) / size_T
        rest_T = ((recorded_TW - gain_T[:, None] * plain_TW) ** 2).sum(axis=1)
        return cls(
            gain=gain_T,
            square=np.mean(x_TW * x_TW, axis=1),
            rest=float((rest_T / (gain_T**2 * size_T)).sum()),
        )

    @property
    def fitted(self) -> float:
        """Gain = 1 / sqrt(mean square + eps): each token by how well it tells."""
        found_T = 1 / self.gain**2 - self.square
        weights_T = self.gain**4  # a gain's relative error moves eps by 2 / gain^2
        return float((weights_T * found_T).sum() / weights_T.sum())

    def left(self, eps: float) -> float:
        """The summed relative squares that this eps leaves."""
        off_T = 1 / np.sqrt(self.square + eps) / self.gain - 1
        return self.rest + float((off_T * off_T).sum())


def of_norm(case: Case, weight_W: Float64[np.ndarray, "W"], eps: float) -> KnownEps | None:
    """Of a norm, together with the others on that side that have the same wrong eps."""
    own = Gains.of(case.recorded, case.inputs[0], weight_W)
    fitted = own.fitted
    if not math.isfinite(fitted) or not math.isfinite(own.rest):
        return None
    alone = known_eps(own.left, fitted, len(own.gain))
    if not case.judge(exact.rms_norm(case.inputs[0], weight_W, alone.value)).accepted:
        return alone
    every = [own, *_of_others(case, alone.value, eps)]
    if len(every) == 1:
        return alone
    noises = [one.left(max(one.fitted, 0.0)) / len(one.gain) + 1e-300 for one in every]

    def left(value: float) -> float:
        return sum(one.left(value) / noise for one, noise in zip(every, noises, strict=True))

    told = [
        float((one.gain**4).sum()) / noise for one, noise in zip(every, noises, strict=True)
    ]
    fitted = float(np.average([one.fitted for one in every], weights=told))
    together = known_eps(left, fitted, sum(len(one.gain) for one in every))
    agree = together.low <= alone.high and alone.low <= together.high
    return together if agree else alone


def _of_others(case: Case, value: float, right: float) -> Iterator[Gains]:
    """Other norms with their inputs on record, which this eps suits better than the right."""
    truth, observed = case.observed.truth, case.observed
    for operation in truth.operations.values():
        step = operation.step
        if not isinstance(step, Norm) or step.eps != right or operation.name == case.error.site:
            continue
        recorded_TW, x_TW = (
            observed.recorded(operation.site),
            observed.recorded(operation.inputs[0]),
        )
        if recorded_TW is None or x_TW is None or recorded_TW.shape != x_TW.shape:
            continue
        found = Gains.of(recorded_TW, x_TW, vector(truth.weights, step.weight))
        if _CLEARLY * found.left(value) < found.left(right):
            yield found
