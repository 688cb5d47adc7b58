"""The arrays of a run: a few in memory, the rest in a temporary file.

A long prompt's arrays are many times a model's size, and whoever looks at them looks at one
operation at a time. So what goes beyond `MEMORY_BYTES` is written to a file without a name in
the temporary folder (`TMPDIR`), and mapped when it is asked for: its pages count as memory of
this process until the array is dropped, or `release_pages` lets go of them.
"""

from __future__ import annotations

import math
import mmap
import tempfile
import weakref
from collections.abc import Iterator, MutableMapping
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

from cotejar.errors import WriteError
from cotejar.formats.mapped_file import release_pages

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jaxtyping import Float

MEMORY_BYTES = 4 << 20
"""Of the arrays that one store holds in memory."""
MANY_BYTES = 4 << 20
"""An array of more is looked at by parts."""

PART_BYTES = 32 << 20
"""So much of a larger array is computed at a time by who need not hold it whole: a part of the
logits costs decoding the head once."""

_ROWS_OF_COLUMNS = 64
"""Rows from which columns are read before their pages are let go of."""

_ALIGNMENT = 64
SEGMENT_BYTES = 32 << 20
MOST_SEGMENTS = 64
"""The file is mapped in segments of so many bytes, or of one part in `MOST_SEGMENTS` of it: a
mapping costs a file descriptor, and a caller may hold every array of a run."""


class _Place(NamedTuple):
    """Where in the file an array lies."""

    segment: int
    """Where the segment begins."""
    offset: int
    """From there."""
    dtype: np.dtype
    shape: tuple[int, ...]


class ArrayStore(MutableMapping[str, np.ndarray]):
    """Arrays by site name, each a copy of what it was given, in the order of their coming."""

    def __init__(self, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._left_bytes = memory_bytes
        self._held: dict[str, np.ndarray | _Place] = {}
        self._file: IO[bytes] | None = None
        self._segment = self._end = 0
        self._stops: dict[int, int] = {}
        self._mappings: weakref.WeakValueDictionary[int, mmap.mmap]
        self._mappings = weakref.WeakValueDictionary()

    def __setitem__(self, name: str, values: Float[np.ndarray, "..."]) -> None:
        """Keep a copy.

        Raises:
            WriteError: the temporary folder has no room.
        """
        self.keep_rows(name, [values])

    def keep_rows(self, name: str, parts: Sequence[Float[np.ndarray, "..."]]) -> None:
        """Keep a copy of arrays over consecutive tokens as one.

        Raises:
            WriteError: the temporary folder has no room.
        """
        size_bytes = sum(part.nbytes for part in parts)
        if size_bytes <= self._left_bytes:
            self._left_bytes -= size_bytes
            self._held[name] = np.concatenate(parts)
            return
        shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
        pieces = (piece for part in parts for piece in by_rows(part))
        self.write_rows(name, parts[0].dtype, shape, pieces)

    def write_rows(
        self,
        name: str,
        dtype: np.dtype,
        shape: tuple[int, ...],
        parts: Iterable[Float[np.ndarray, "..."]],
    ) -> None:
        """Keep an array on the disk that comes by parts, first rows first.

        Raises:
            WriteError: the temporary folder has no room.
        """
        place = self._next_place(dtype, shape)
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="cotejar-", buffering=0)  # noqa: SIM115 - it lives as long as this
                weakref.finalize(self, self._file.close)
            self._file.seek(self._end)
            for part in parts:
                self._write(np.ascontiguousarray(part, dtype).reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise WriteError(
                "the arrays of a run do not fit into the temporary folder",
                where=f"{tempfile.gettempdir()}, {name}",
                expected=f"room for {math.prod(shape) * dtype.itemsize:,} more bytes",
                found=error.strerror or str(error),
                hint="free some space, or let TMPDIR name a folder on another disk",
            ) from None
        self._held[name] = place
        self._stops[place.segment] = self._end

    def _next_place(self, dtype: np.dtype, shape: tuple[int, ...]) -> _Place:
        self._end += -self._end % _ALIGNMENT
        if self._end - self._segment >= max(SEGMENT_BYTES, self._end // MOST_SEGMENTS):
            # A mapping begins at a multiple of its granularity.
            self._end += -self._end % mmap.ALLOCATIONGRANULARITY
            self._segment = self._end
        return _Place(self._segment, self._end - self._segment, dtype, shape)

    def _write(self, data: memoryview) -> None:
        assert self._file is not None, "it was opened before"
        while len(data):
            count = self._file.write(data)
            self._end, data = self._end + count, data[count:]

    def __getitem__(self, name: str) -> np.ndarray:
        """The array; of one in the file a view, which nobody can write to."""
        held = self._held[name]
        if isinstance(held, np.ndarray):
            return held
        count = math.prod(held.shape)
        if self._file is None or not count:
            return np.empty(held.shape, held.dtype)
        mapping = self._mapping(held, held.offset + count * held.dtype.itemsize)
        values = np.frombuffer(memoryview(mapping), held.dtype, count, held.offset)
        return values.reshape(held.shape)

    def _mapping(self, place: _Place, size_bytes: int) -> mmap.mmap:
        """Of the place's segment: the one that somebody still holds, unless it grew since."""
        mapping = self._mappings.get(place.segment)
        if mapping is None or len(mapping) < size_bytes:
            assert self._file is not None, "something was written"
            mapping = mmap.mmap(
                self._file.fileno(),
                self._stops[place.segment] - place.segment,
                access=mmap.ACCESS_READ,
                offset=place.segment,
            )
            self._mappings[place.segment] = mapping
        return mapping

    def __delitem__(self, name: str) -> None:
        del self._held[name]

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


def by_rows(values: Float[np.ndarray, "T ..."]) -> Iterator[np.ndarray]:
    """Consecutive rows of an array, `MANY_BYTES` of it or one row at a time."""
    yield from (values[rows] for rows in row_parts(values))


def row_parts(values: Float[np.ndarray, "T ..."]) -> Iterator[slice]:
    """Which rows those are; none of an array that holds nothing."""
    tokens = len(values)
    yield from token_parts(tokens, values.nbytes // max(tokens, 1), MANY_BYTES)


def token_parts(tokens: int, row_bytes: int, most_bytes: int = PART_BYTES) -> Iterator[slice]:
    """Consecutive rows of so many bytes each, `most_bytes` or one row at a time."""
    at_once = max(1, most_bytes // max(row_bytes, 1))
    for start in range(0, tokens, at_once):
        yield slice(start, min(start + at_once, tokens))


def read_columns(values: Float[np.ndarray, "T W"], columns: slice) -> Float[np.ndarray, "T N"]:
    """Some columns of an array; a copy, where it is so large that it may be mapped.

    A page that is read brings its neighbours along, for every row of the array.
    """
    if values.nbytes <= MANY_BYTES:
        return values[:, columns]
    some = np.empty((len(values), columns.stop - columns.start), values.dtype)
    for start in range(0, len(values), _ROWS_OF_COLUMNS):
        rows = slice(start, start + _ROWS_OF_COLUMNS)
        some[rows] = values[rows, columns]
        release_pages(values)
    return some
