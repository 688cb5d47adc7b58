"""The arrays of a trace file: read when asked for, and held against their statistics then."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from safetensors import SafetensorError, safe_open

from cotejar.errors import TraceError
from cotejar.trace.forward_trace import Scope
from cotejar.trace.stats import ActivationStats, measure_stats

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.trace.forward_trace import SiteRecord

RERECORD_HINT = "record it again with `apr trace MODEL --payload -o run.trace`"


class RecordedArrays(Mapping[str, np.ndarray]):
    """The arrays of a trace file by site name; the file stays open as long as this does."""

    def __init__(
        self, path: Path, records: Mapping[str, SiteRecord], *, ddof: int | None
    ) -> None:
        self._path = path
        self._records = records
        self._ddof = ddof
        self._file = safe_open(path, framework="numpy")

    def __getitem__(self, name: str) -> np.ndarray:
        """Read one array.

        Raises:
            TraceError: the array is not the one that the statistics were taken of.
        """
        record = self._records[name]
        try:
            array: np.ndarray = self._file.get_tensor(name)  # type: ignore[no-untyped-call]  # its stub is untyped
        except SafetensorError as error:
            self._fail(name, "an array that can be read", str(error))
        for scope, recorded in record.stats.items():
            measured = measure_stats(array[-1:] if scope is Scope.LAST else array)
            if not _same_stats(recorded, measured, array.dtype, self._ddof):
                self._fail(
                    name,
                    f"an array with the recorded statistics: {_brief(recorded)}",
                    f"{_brief(measured)} ({scope.value})",
                )
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def _fail(self, name: str, expected: str, found: str) -> NoReturn:
        raise TraceError(
            "an array of the trace is not what its statistics say",
            where=f"{self._path}, {name}",
            expected=expected,
            found=found,
            hint=RERECORD_HINT,
        )


def _same_stats(
    recorded: ActivationStats, measured: ActivationStats, dtype: np.dtype, ddof: int | None
) -> bool:
    """Do two sets of statistics speak of one array? Of an unknown ddof, any std may.

    A program may measure in a wider type than it stores, so values may differ by the stored
    type's rounding of the largest value, and by the roundings of a float64 sum in another
    order; counts of what is not finite may not.
    """
    counts = ("count", "nan_count", "inf_count")
    if any(getattr(recorded, c) != getattr(measured, c) for c in counts):
        return False
    if not recorded.finite_count:
        return True
    largest = max(abs(recorded.min), abs(recorded.max))
    roundings = float(np.finfo(dtype).eps) + recorded.count * float(np.finfo(np.float64).eps)
    tolerance = roundings * largest + float(np.finfo(dtype).tiny)
    pairs = [(getattr(recorded, f), getattr(measured, f)) for f in ("min", "max", "mean")]
    if ddof is not None:
        pairs.append((recorded.std, _std(measured, ddof)))
    return all(a == b or abs(a - b) <= tolerance for a, b in pairs)  # a std may be infinite


def _std(stats: ActivationStats, ddof: int) -> float:
    if stats.finite_count <= ddof:
        return 0.0
    return math.sqrt(stats.sum_squared_deviations / (stats.finite_count - ddof))


def _brief(stats: ActivationStats) -> str:
    bad = stats.nan_count + stats.inf_count
    return (
        f"{stats.count} values, {bad} not finite, {stats.min:.4g}..{stats.max:.4g}, "
        f"mean {stats.mean:.4g}, std {stats.std:.4g}"
    )
