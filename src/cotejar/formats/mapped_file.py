"""A regular file, mapped read-only, with reads that cannot leave it.

Every reader of a binary format goes through this module: a path that is no regular file
is refused without ever blocking on it, and an offset or a length out of a hostile file
is compared with the file's size before a byte is touched. Integers are little-endian.

The file must not shrink while it is mapped; the system answers that with SIGBUS. Writers
that replace a file by renaming (`cotejar.formats.atomic`) are safe: the mapping keeps the
old file.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import (
    MissingFileError,
    NotAFileError,
    TruncatedError,
    UnreadableFileError,
)

if TYPE_CHECKING:
    import builtins
    from pathlib import Path
    from typing import Self

    from jaxtyping import UInt8

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


class Closing(ABC):
    """What is closed at the end of a `with`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Let go of what is open."""


class MappedFile(Closing):
    """A mapped file. `what` names the thing read, for the message of an error.

    Close it, or use it as a context manager. A read after closing is a ValueError.
    """

    def __init__(self, path: Path, mapping: mmap.mmap) -> None:
        self.path = path
        self.size_bytes = len(mapping)
        self._view: memoryview | None = memoryview(mapping)

    @property
    def view(self) -> memoryview:
        """The whole file, read-only."""
        if self._view is None:
            raise ValueError(f"{self.path} is closed")
        return self._view

    def require(self, offset: int, length: int, what: str) -> None:
        """Refuse a range that is not wholly inside the file.

        Raises:
            TruncatedError: it is not.
        """
        if not (offset >= 0 and length >= 0 and offset + length <= self.size_bytes):
            raise TruncatedError(
                f"{what} runs past the end of the file",
                where=f"{self.path}, byte {offset}",
                expected=f"bytes {offset}..{offset + length}",
                found=f"the file ends at byte {self.size_bytes}",
                hint="the file is cut short or damaged: fetch or copy it again",
            )

    def array(
        self, offset: int, length: int, what: str = "a run of bytes"
    ) -> UInt8[np.ndarray, "length"]:
        """View `length` bytes from `offset`, read-only, nothing copied or read yet."""
        self.require(offset, length, what)
        return np.frombuffer(self.view, dtype=np.uint8, count=length, offset=offset)

    def u8(self, offset: int, what: str) -> int:
        """Read one byte."""
        return self._unsigned(offset, 1, what)

    def u16(self, offset: int, what: str) -> int:
        """Read 2 bytes, little-endian."""
        return self._unsigned(offset, 2, what)

    def u32(self, offset: int, what: str) -> int:
        """Read 4 bytes, little-endian."""
        return self._unsigned(offset, 4, what)

    def u64(self, offset: int, what: str) -> int:
        """Read 8 bytes, little-endian."""
        return self._unsigned(offset, 8, what)

    def bytes(self, offset: int, length: int, what: str) -> builtins.bytes:
        """Copy `length` bytes from `offset`."""
        self.require(offset, length, what)
        return self.view[offset : offset + length].tobytes()

    def close(self) -> None:
        """Let go of the mapping. Arrays handed out keep it alive until they are dropped."""
        self._view = None

    def _unsigned(self, offset: int, width: int, what: str) -> int:
        self.require(offset, width, what)
        return int.from_bytes(self.view[offset : offset + width], "little")


def open_mapped(path: Path) -> MappedFile:
    """Map a regular file for reading.

    Raises:
        MissingFileError: there is no such file.
        NotAFileError: it is a folder, a pipe, a device or a socket.
        UnreadableFileError: the system refuses to read or map it.
        TruncatedError: it holds nothing.
    """
    try:
        # Asked before opening: opening a device can have effects of its own.
        _require_regular(path, path.stat().st_mode)
        # O_NONBLOCK: should a pipe take the file's place just now, we still do not wait.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            _require_regular(path, status.st_mode)
            if status.st_size == 0:
                raise TruncatedError(
                    "the file is empty",
                    where=str(path),
                    expected="a model file",
                    found="0 bytes",
                    hint="fetch or copy the file again",
                )
            return MappedFile(path, mmap.mmap(handle, 0, access=mmap.ACCESS_READ))
        finally:
            os.close(handle)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise open_error(path, error) from error


def release_pages(values: np.ndarray) -> None:
    """Let go of the pages of a mapped file that `values` lies in, until they are read again.

    They count as memory of this process as long as it may still want them; whoever reads a
    whole file once does not. Does nothing to what is no view of a mapped file.
    """
    base: object = values
    while isinstance(base, np.ndarray):
        base = base.base
    mapping = base.obj if isinstance(base, memoryview) else base
    if isinstance(mapping, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def kind_of_file(mode: int) -> str:
    """Say what a `st_mode` is, for a message."""
    return next((name for test, name in _KINDS if test(mode)), "a regular file")


def open_error(
    path: Path, error: OSError | ValueError
) -> MissingFileError | UnreadableFileError:
    """Make our error of what the system said when it was asked to open `path`."""
    missing = (errno.ENOENT, errno.ENOTDIR)
    if isinstance(error, ValueError) or error.errno in missing:
        return MissingFileError(
            "there is no such file",
            where=str(path),
            expected="a file that can be read",
            found="nothing at that path",
            hint=f"look at what is there: `ls {path.parent}`",
        )
    return UnreadableFileError(
        "the system refuses to read the file",
        where=str(path),
        expected="a file that can be read",
        found=error.strerror or str(error),
        hint=f"look at its permissions: `ls -l {path}`",
    )


def _require_regular(path: Path, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    raise NotAFileError(
        "the path is not a regular file",
        where=str(path),
        expected="a regular file",
        found=kind_of_file(mode),
        hint="give the path of the model file itself",
    )
