"""Mean and standard error of a stream, in constant memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float64


@dataclass(slots=True)
class RunningMean:
    """Chan, Golub and LeVeque (1979): parts are merged without loss of figures."""

    count: int = 0
    mean: float = 0.0
    sum_squares: float = 0.0
    """Of the distances from the mean."""

    def add(self, values_N: Float64[np.ndarray, "N"]) -> None:
        """Take in one part; a NaN makes everything NaN."""
        if not values_N.size:
            return
        mean = float(values_N.mean())
        squares = float(((values_N - mean) ** 2).sum())
        total = self.count + values_N.size
        apart = mean - self.mean
        self.sum_squares += squares + apart * apart * self.count * values_N.size / total
        self.mean += apart * values_N.size / total
        self.count = total

    @property
    def standard_error(self) -> float:
        """Of the mean; NaN of fewer than two values, whose spread nobody knows."""
        if self.count < 2:  # noqa: PLR2004 - one value has no spread
            return math.nan
        return math.sqrt(self.sum_squares / (self.count - 1) / self.count)
