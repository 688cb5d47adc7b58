"""The arrays of a trace file: read when asked for, and held against their statistics then.

The file is read, not mapped: it is not ours, and a mapped file that shrinks ends the process.
An array that is large is copied into a temporary file of our own, by rows, and mapped there.
"""

from __future__ import annotations

import json
import math
import os
import threading
import weakref
from collections.abc import Iterator, Mapping
from functools import reduce
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from cotejar.errors import TraceError, TruncatedError
from cotejar.formats.mapped_file import open_error, open_mapped
from cotejar.kernels.moments import MEAN_ERROR, STD_ERROR
from cotejar.trace.array_store import MANY_BYTES, ArrayStore, token_parts
from cotejar.trace.forward_trace import Scope
from cotejar.trace.stats import ActivationStats, measure_rows, measured_parts

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.formats.mapped_file import MappedFile
    from cotejar.trace.forward_trace import SiteRecord

RERECORD_HINT = "record it again with `apr trace MODEL --payload -o run.trace`"


_LENGTH_BYTES = 8
"""Of the header's length, at the beginning of the file; the data follow the header."""

_DTYPES = {
    name: np.dtype(code) for name, code in (("F64", "<f8"), ("F32", "<f4"), ("F16", "<f2"))
}


class RecordedArrays(Mapping[str, np.ndarray]):
    """The arrays of a trace file by site name; the file stays open as long as this does."""

    def __init__(
        self, path: Path, records: Mapping[str, SiteRecord], *, ddof: int | None
    ) -> None:
        """Open the file, which the safetensors library has read and found whole.

        Raises:
            FileError: it cannot be read any more.
            TraceError: its header is another by now.
        """
        self._path = path
        self._records = records
        self._ddof = ddof
        try:
            with open_mapped(path) as mapped:
                self._places = _read_places(mapped, records)
        except (KeyError, TypeError, ValueError, TruncatedError) as error:
            self._fail("header", "the places of the arrays", repr(error))
        try:
            # As in `open_mapped`: should a pipe take the file's place just now, nobody waits.
            self._handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise open_error(path, error) from error
        weakref.finalize(self, os.close, self._handle)
        self._checked: set[str] = set()
        self._large = ArrayStore(memory_bytes=0)
        self._copying = threading.Lock()

    def __getitem__(self, name: str) -> np.ndarray:
        """Read one array; it is held against its statistics the first time.

        Raises:
            TraceError: the array is not the one that the statistics were taken of.
        """
        record = self._records[name]
        begin, end, dtype = self._places[name]
        if end - begin != math.prod(record.shape) * dtype.itemsize:
            self._fail(name, f"{record.shape} of {dtype}", f"{end - begin} bytes")
        if end - begin > MANY_BYTES:
            return self._copied(name, record, begin, dtype)
        array = self._read(name, begin, record.shape, dtype)
        if name not in self._checked:
            self._check(name, record, measure_rows(array))
            self._checked.add(name)
        return array

    def _copied(self, name: str, record: SiteRecord, begin: int, dtype: np.dtype) -> np.ndarray:
        """A large array, in our own file; it is measured on the way there."""
        with self._copying:
            if name not in self._large:
                parts: list[tuple[ActivationStats, ActivationStats]] = []
                rows = self._read_parts(name, record, begin, dtype)
                counted = measured_parts(rows, parts)
                self._large.write_rows(name, dtype, record.shape, counted)
                every = reduce(ActivationStats.merged, (part[0] for part in parts))
                try:
                    self._check(name, record, (every, parts[-1][1]))
                except TraceError:
                    del self._large[name]
                    raise
            return self._large[name]

    def _read_parts(
        self, name: str, record: SiteRecord, begin: int, dtype: np.dtype
    ) -> Iterator[np.ndarray]:
        tokens, width = record.shape
        row_bytes = width * dtype.itemsize
        for rows in token_parts(tokens, row_bytes, MANY_BYTES):
            shape = (rows.stop - rows.start, width)
            yield self._read(name, begin + rows.start * row_bytes, shape, dtype)

    def _read(
        self, name: str, offset: int, shape: tuple[int, ...], dtype: np.dtype
    ) -> np.ndarray:
        array = np.empty(shape, dtype)
        self._read_into(name, offset, array.reshape(-1).view(np.uint8).data)
        return array

    def _read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """Fill the buffer from that byte of the file on; several threads may do so."""
        done = 0
        while done < len(buffer):
            count = os.preadv(self._handle, [buffer[done:]], offset + done)
            if count == 0:
                self._fail(name, f"{len(buffer)} bytes", f"the file ends after {done}")
            done += count

    def _check(
        self,
        name: str,
        record: SiteRecord,
        of_rows: tuple[ActivationStats, ActivationStats],
    ) -> None:
        """Hold the statistics of all rows, and of the last, against the recorded ones."""
        dtype = self._places[name][2]
        for scope, recorded in record.stats.items():
            measured = of_rows[1 if scope is Scope.LAST else 0]
            if not _same_stats(recorded, measured, dtype, self._ddof):
                self._fail(
                    name,
                    f"an array with the recorded statistics: {_brief(recorded)}",
                    f"{_brief(measured)} ({scope.value})",
                )

    def __contains__(self, name: object) -> bool:
        return name in self._records

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


def _read_places(
    mapped: MappedFile, records: Mapping[str, SiteRecord]
) -> dict[str, tuple[int, int, np.dtype]]:
    """First byte, end and type of each array; `formats.safetensors.header` has the layout."""
    length = mapped.u64(0, "the header's length")
    header = json.loads(mapped.bytes(_LENGTH_BYTES, length, "the header"))
    start = _LENGTH_BYTES + length
    places = {}
    for name in records:
        begin, end = header[name]["data_offsets"]
        places[name] = (start + int(begin), start + int(end), _DTYPES[header[name]["dtype"]])
    return places


def _same_stats(
    recorded: ActivationStats, measured: ActivationStats, dtype: np.dtype, ddof: int | None
) -> bool:
    """Do two sets of statistics speak of one array? Of an unknown ddof, any std may.

    A program may measure in a wider type than it stores, so values may differ by the stored
    type's rounding of the largest value, and by the roundings of a float64 sum in another
    order; counts of what is not finite may not. Of float32 values a kernel may have taken
    either, or both in other blocks, each within its own error.
    """
    counts = ("count", "nan_count", "inf_count")
    if any(getattr(recorded, c) != getattr(measured, c) for c in counts):
        return False
    if not recorded.finite_count:
        return True
    largest = max(abs(recorded.min), abs(recorded.max))
    roundings = float(np.finfo(dtype).eps) + recorded.count * float(np.finfo(np.float64).eps)
    tolerance = roundings * largest + float(np.finfo(dtype).tiny)
    by_kernels = 2 * measured.rms if dtype == np.float32 else 0.0
    of_mean, of_std = by_kernels * MEAN_ERROR, by_kernels * STD_ERROR
    pairs = [
        (recorded.min, measured.min, tolerance),
        (recorded.max, measured.max, tolerance),
        (recorded.mean, measured.mean, tolerance + of_mean),
    ]
    if ddof is not None:
        pairs.append((recorded.std, _std(measured, ddof), tolerance + of_std))
    return all(a == b or abs(a - b) <= limit for a, b, limit in pairs)  # inf equals inf


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
