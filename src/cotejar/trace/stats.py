"""Statistics of an activation, constant in size whatever they cover.

They are float64. Of float32 values a kernel counts them, within the small errors that
`kernels.moments` derives; of others numpy does, in float64 throughout.

`count`, the non-finite counts and `zero_count` cover every value; `min`, `max`, `mean`,
`std` and `rms` cover the finite ones only. `std` has ddof 1 and is 0 for fewer than two
finite values. With no finite value at all, `min` is +inf, `max` -inf and the rest 0.

Two parts merge by Chan, Golub and LeVeque's formula (1979), so that the statistics of
chunks are the statistics of the whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from cotejar.kernels.moments import measure_raw, read_pairs
from cotejar.trace.array_store import by_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jaxtyping import Float

    from cotejar.kernels.moments import Moments

DDOF = 1
"""Delta degrees of freedom of `std`."""

FIELDS = (
    "count",
    "nan_count",
    "inf_count",
    "zero_count",
    "min",
    "max",
    "mean",
    "std",
    "rms",
)
"""Column names of a trace file's `stats` tensor."""


# Not frozen: a frozen one takes ten times as long to make, and a pass makes a thousand.
@dataclass(kw_only=True, slots=True)
class ActivationStats:
    """Statistics of one site over one scope. Nobody changes one."""

    count: int
    nan_count: int
    inf_count: int
    zero_count: int
    min: float
    max: float
    mean: float
    sum_squared_deviations: float
    """Sum over the finite values of (value - mean) ** 2."""

    @property
    def finite_count(self) -> int:
        """Values that are neither NaN nor infinite."""
        return self.count - self.nan_count - self.inf_count

    @property
    def std(self) -> float:
        """Standard deviation of the finite values, ddof 1."""
        if self.finite_count <= DDOF:
            return 0.0
        return math.sqrt(self.sum_squared_deviations / (self.finite_count - DDOF))

    @property
    def rms(self) -> float:
        """Root mean square of the finite values."""
        if self.finite_count == 0:
            return 0.0
        mean_square = self.mean * self.mean  # not `**`, which raises where this gives inf
        return math.sqrt(self.sum_squared_deviations / self.finite_count + mean_square)

    def row(self) -> list[float]:
        """The values of `FIELDS`, in order."""
        return [float(getattr(self, field)) for field in FIELDS]

    def merged(self, other: ActivationStats) -> ActivationStats:
        """The statistics of both parts together."""
        n_a, n_b = self.finite_count, other.finite_count
        n = n_a + n_b
        delta = other.mean - self.mean
        share = n_b / n if n else 0.0
        between = delta * delta * n_a * share if n_a and n_b else 0.0
        return ActivationStats(
            count=self.count + other.count,
            nan_count=self.nan_count + other.nan_count,
            inf_count=self.inf_count + other.inf_count,
            zero_count=self.zero_count + other.zero_count,
            min=min(self.min, other.min),
            max=max(self.max, other.max),
            mean=self.mean + delta * share,
            sum_squared_deviations=self.sum_squared_deviations
            + other.sum_squared_deviations
            + between,
        )


def measure_stats(values: Float[np.ndarray, "..."]) -> ActivationStats:
    """Measure an array of any shape; an empty one gives a count of 0."""
    return measure_rows(np.asarray(values).reshape(1, -1))[0]


def measure_rows(
    values_TW: Float[np.ndarray, "T W"],
) -> tuple[ActivationStats, ActivationStats]:
    """Measure all rows, and the last one by itself; of no row, both have a count of 0.

    A large array is measured by rows, since the numbers in between are as many as its own.
    """
    if (raw := measure_in_kernel(values_TW)) is not None:
        return read_stats(raw)[0]
    parts = [_measure_in_numpy(part.reshape(-1)) for part in by_rows(values_TW)]
    stats = reduce(ActivationStats.merged, parts or [_measure_in_numpy(np.empty(0))])
    if len(values_TW) <= 1:
        return stats, stats
    return stats, _measure_in_numpy(values_TW[-1].reshape(-1))


def measured_parts(
    parts: Iterable[Float[np.ndarray, "N W"]],
    measured: list[tuple[ActivationStats, ActivationStats]],
) -> Iterator[Float[np.ndarray, "N W"]]:
    """The parts, as they are; what `measure_rows` says of each is put on the list."""
    for part in parts:
        measured.append(measure_rows(part))
        yield part


def measure_in_kernel(values_TW: Float[np.ndarray, "T W"]) -> bytes | None:
    """What a compiled kernel counts, for `read_stats`; None where none can."""
    if values_TW.dtype == np.float32 and values_TW.flags.c_contiguous:
        return measure_raw(values_TW)
    return None


def read_stats(raw: bytes) -> list[tuple[ActivationStats, ActivationStats]]:
    """The statistics of what kernels measured: of all rows and of the last, an array a pair."""
    return [(_from_moments(every), _from_moments(last)) for every, last in read_pairs(raw)]


def _from_moments(moments: Moments) -> ActivationStats:
    count, nan_count, inf_count, zero_count, least, greatest, mean, deviations = moments
    return ActivationStats(
        count=count,
        nan_count=nan_count,
        inf_count=inf_count,
        zero_count=zero_count,
        min=least,
        max=greatest,
        mean=mean,
        sum_squared_deviations=deviations,
    )


def _measure_in_numpy(flat: Float[np.ndarray, "n"]) -> ActivationStats:
    wide = flat.astype(np.float64)
    finite = wide
    nan_count = inf_count = 0
    # A sum is non-finite when any value is; it may also overflow, which costs one mask.
    with np.errstate(over="ignore", invalid="ignore"):
        total = wide.sum()
    if not math.isfinite(total):
        mask = np.isfinite(wide)
        nan_count = int(np.isnan(wide).sum())
        inf_count = int(wide.size - mask.sum()) - nan_count
        finite = wide[mask]
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(finite.mean()) if finite.size else 0.0
        if not math.isfinite(mean):
            mean = float((finite / finite.size).sum())
        deviations = finite - mean
        sum_squared_deviations = float(np.dot(deviations, deviations))
    return ActivationStats(
        count=int(flat.size),
        nan_count=nan_count,
        inf_count=inf_count,
        zero_count=int(flat.size - np.count_nonzero(flat)),
        min=float(finite.min()) if finite.size else math.inf,
        max=float(finite.max()) if finite.size else -math.inf,
        mean=mean,
        sum_squared_deviations=sum_squared_deviations,
    )


def stats_from_row(row: list[float]) -> ActivationStats:
    """Read back what `ActivationStats.row` wrote."""
    values = dict(zip(FIELDS, row, strict=True))
    counts = {f: int(values[f]) for f in FIELDS[:4]}
    finite = counts["count"] - counts["nan_count"] - counts["inf_count"]
    return ActivationStats(
        **counts,
        min=values["min"],
        max=values["max"],
        mean=values["mean"],
        sum_squared_deviations=values["std"] * values["std"] * max(finite - DDOF, 0),
    )
