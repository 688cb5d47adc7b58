"""How two lists of numbers differ, element by element, measured a chunk at a time.

A is the reference: error = B - A, in float64. Distances are over the pairs in which both
are finite. A pair with a NaN or an infinity is *alike* when both are NaN, or the same
infinity, and *unlike* otherwise; unlike pairs are counted, and count as the largest of all
differences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import UsageError
from cotejar.parity.metrics import divide

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Float, Float64


@dataclass(frozen=True, kw_only=True, slots=True)
class ElementPair:
    """One element on both sides."""

    index: int
    """In row-major order, from 0."""
    a: float
    b: float

    @property
    def abs_diff(self) -> float:
        """|B - A|; NaN where that is no number."""
        return abs(self.b - self.a)


@dataclass(frozen=True, kw_only=True, slots=True)
class ElementwiseDistance:
    """The distance between two lists of the same length."""

    num_elements: int
    num_compared: int
    """Pairs in which both are finite."""
    num_different: int
    """Pairs whose values differ, unlike pairs included; 0.0 and -0.0 do not."""
    num_unlike: int
    """Pairs with a NaN or an infinity that the other side does not have in that place."""
    nan_count_a: int
    nan_count_b: int
    inf_count_a: int
    inf_count_b: int
    max_abs: float
    """Largest |B - A| of the compared pairs; 0 where there are none."""
    max_abs_index: int | None
    sum_squared_error: float
    sum_squared_a: float
    sum_squared_b: float
    sum_products: float
    worst: tuple[ElementPair, ...]
    """The largest differences, unlike pairs first; none where nothing differs."""

    @property
    def rel_l2(self) -> float:
        """L2 norm of the error over A's: 0/0 is 0, x/0 infinite; NaN of nothing compared."""
        if self.num_compared == 0:
            return math.nan
        return divide(math.sqrt(self.sum_squared_error), math.sqrt(self.sum_squared_a))

    @property
    def nmse(self) -> float:
        """Sum of squared errors over A's sum of squares: the square of `rel_l2`."""
        if self.num_compared == 0:
            return math.nan
        return divide(self.sum_squared_error, self.sum_squared_a)

    @property
    def rms_diff(self) -> float:
        """Root mean square of the error; NaN of nothing compared."""
        if self.num_compared == 0:
            return math.nan
        return math.sqrt(self.sum_squared_error / self.num_compared)

    @property
    def cosine(self) -> float:
        """Of the angle between the two: two zero vectors count as 1, one as 0."""
        if self.num_compared == 0:
            return math.nan
        if self.sum_squared_a == 0 or self.sum_squared_b == 0:
            return 1.0 if self.sum_squared_a == self.sum_squared_b else 0.0
        norms = math.sqrt(self.sum_squared_a) * math.sqrt(self.sum_squared_b)
        return max(-1.0, min(1.0, self.sum_products / norms))

    @property
    def is_zero(self) -> bool:
        """No value differs."""
        return self.num_different == 0

    @property
    def severity(self) -> tuple[bool, float]:
        """Sorts the worst last: unlike pairs, or nothing compared, are worse than all."""
        rel_l2 = 0.0 if self.num_compared == 0 else self.rel_l2
        return self.num_unlike > 0 or self.num_compared == 0, rel_l2

    def is_within(self, threshold: float | None) -> bool:
        """Nothing differs; or, with a threshold, `rel_l2` is at most that."""
        if threshold is None or self.num_unlike:
            return self.is_zero
        return self.is_zero or self.rel_l2 <= threshold

    def as_json(self) -> dict[str, object]:
        """The measures, for `--json`."""
        return {
            "num_elements": self.num_elements,
            "num_compared": self.num_compared,
            "num_different": self.num_different,
            "rel_l2": self.rel_l2,
            "max_abs": self.max_abs,
            "max_abs_index": self.max_abs_index,
            "rms_diff": self.rms_diff,
            "cosine": self.cosine,
            "nmse": self.nmse,
            **self.nonfinite_counts(),
        }

    def nonfinite_counts(self) -> dict[str, int]:
        """How many are no numbers; every key that is not 0 is a warning."""
        return {
            "nan_count_a": self.nan_count_a,
            "nan_count_b": self.nan_count_b,
            "inf_count_a": self.inf_count_a,
            "inf_count_b": self.inf_count_b,
            "nonfinite_mismatches": self.num_unlike,
        }


def require_threshold(threshold: float | None) -> None:
    """Refuse a threshold that decides nothing.

    Raises:
        UsageError: it is negative, NaN or infinite.
    """
    if threshold is None or (threshold >= 0 and math.isfinite(threshold)):
        return
    raise UsageError(
        f"a threshold of {threshold} decides nothing",
        where="--threshold",
        expected="a finite relative L2, 0 or more",
        found=str(threshold),
        hint="0 asks for equality; Q8_0 lies some 0.005 from its source, Q4_0 some 0.1",
    )


class ElementwiseMeasure:
    """Adds up chunks; each is a few elements of both lists, in order."""

    def __init__(self, num_worst: int = 0) -> None:
        """Keep the `num_worst` largest differences."""
        self._num_worst = num_worst
        self._worst: list[tuple[float, ElementPair]] = []
        self._counts = dict.fromkeys(
            ("elements", "compared", "different", "unlike", "nan_a", "nan_b", "inf_a", "inf_b"),
            0,
        )
        self._sums = np.zeros(4)  # error^2, a^2, b^2, a * b
        self._max_abs = 0.0
        self._max_abs_index: int | None = None

    def add(self, a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"]) -> None:
        """Add the next chunk of both lists.

        Raises:
            ValueError: the two are of different length.
        """
        if a.shape != b.shape:
            raise ValueError(f"chunks of {a.shape} and {b.shape}")
        start = self._counts["elements"]
        self._counts["elements"] += a.size
        with np.errstate(over="ignore", invalid="ignore"):  # a signalling NaN is one, too
            a, b = a.astype(np.float64), b.astype(np.float64)
            error = b - a
            magnitude = np.abs(error)
            # One NaN or infinity anywhere makes the sum one, which costs no mask.
            if not math.isfinite(float(a.sum())) or not math.isfinite(float(b.sum())):
                values = a, b, error, magnitude
                a, b, error, magnitude = self._set_aside_nonfinite(*values, start)
            else:
                self._counts["compared"] += a.size
            self._counts["different"] += int(np.count_nonzero(magnitude))
            self._sums += [error @ error, a @ a, b @ b, a @ b]
        self._take_largest(magnitude, a, b, start)

    def result(self) -> ElementwiseDistance:
        """The distance over all that was added."""
        counts = self._counts
        return ElementwiseDistance(
            num_elements=counts["elements"],
            num_compared=counts["compared"],
            num_different=counts["different"],
            num_unlike=counts["unlike"],
            nan_count_a=counts["nan_a"],
            nan_count_b=counts["nan_b"],
            inf_count_a=counts["inf_a"],
            inf_count_b=counts["inf_b"],
            max_abs=self._max_abs,
            max_abs_index=self._max_abs_index,
            sum_squared_error=float(self._sums[0]),
            sum_squared_a=float(self._sums[1]),
            sum_squared_b=float(self._sums[2]),
            sum_products=float(self._sums[3]),
            worst=tuple(pair for _, pair in self._worst),
        )

    def _set_aside_nonfinite(
        self,
        a: Float64[np.ndarray, "n"],
        b: Float64[np.ndarray, "n"],
        error: Float64[np.ndarray, "n"],
        magnitude: Float64[np.ndarray, "n"],
        start: int,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Count the pairs that are not finite, and make them zeros in what is summed."""
        finite = np.isfinite(a) & np.isfinite(b)
        unlike = ~(finite | (a == b) | (np.isnan(a) & np.isnan(b)))
        for side, values in (("a", a), ("b", b)):
            self._counts[f"nan_{side}"] += int(np.isnan(values).sum())
            self._counts[f"inf_{side}"] += int(np.isinf(values).sum())
        self._counts["compared"] += int(finite.sum())
        self._counts["unlike"] += int(unlike.sum())
        self._counts["different"] += int(unlike.sum())
        for i in np.flatnonzero(unlike)[: self._num_worst]:
            pair = ElementPair(index=start + int(i), a=float(a[i]), b=float(b[i]))
            self._keep(math.inf, pair)
        a, b, error, magnitude = (np.where(finite, x, 0.0) for x in (a, b, error, magnitude))
        return a, b, error, magnitude

    def _take_largest(
        self,
        magnitude: Float64[np.ndarray, "n"],
        a: Float64[np.ndarray, "n"],
        b: Float64[np.ndarray, "n"],
        start: int,
    ) -> None:
        if magnitude.size == 0:
            return
        largest = int(magnitude.argmax())
        if magnitude[largest] > self._max_abs:
            self._max_abs = float(magnitude[largest])
            self._max_abs_index = start + largest
        is_full = len(self._worst) >= self._num_worst
        bar = self._worst[-1][0] if is_full and self._worst else 0.0
        if self._num_worst == 0 or not magnitude[largest] > bar:
            return
        order = np.argsort(-magnitude, kind="stable")[: self._num_worst]
        for i in order[magnitude[order] > bar]:
            pair = ElementPair(index=start + int(i), a=float(a[i]), b=float(b[i]))
            self._keep(float(magnitude[i]), pair)

    def _keep(self, rank: float, pair: ElementPair) -> None:
        self._worst.append((rank, pair))
        self._worst.sort(key=lambda item: (-item[0], item[1].index))
        del self._worst[self._num_worst :]


def measure_elements(
    a: Iterable[Float[np.ndarray, "n"]],
    b: Iterable[Float[np.ndarray, "n"]],
    *,
    num_worst: int = 0,
) -> ElementwiseDistance:
    """Measure two lists that come in chunks of the same sizes."""
    measure = ElementwiseMeasure(num_worst)
    for chunk_a, chunk_b in zip_longest(a, b, fillvalue=np.empty(0)):
        measure.add(chunk_a, chunk_b)
    return measure.result()
