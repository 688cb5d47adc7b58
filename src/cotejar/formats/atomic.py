"""Files that appear whole or not at all.

The bytes go to a temporary file in the folder of the output, are flushed to the disk, and
the file is renamed over the output: a reader sees the old file or the new one, never a
part. Whatever goes wrong on the way, Ctrl-C included, the temporary file is removed and
an older output is left as it was. A check of what was written runs before the renaming, so
that a file which fails it never appears, and never takes the place of a good one.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cotejar.errors import (
    FileError,
    MissingFileError,
    NotAFileError,
    OutputExistsError,
    UsageError,
    WriteError,
)
from cotejar.formats.mapped_file import kind_of_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from typing_extensions import Buffer

_BUFFER_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def atomic_write(
    path: Path, *, overwrite: bool = False, check: Callable[[Path], None] | None = None
) -> Iterator[BinaryIO]:
    """Open `path` for writing bytes; it is there, whole, once the block has ended well.

    A symbolic link is followed: the file that it points to is replaced. The new file has
    the permissions that the umask leaves of 0666.

    Args:
        path: the output.
        overwrite: replace an output that is there.
        check: called with the path of the whole file, still under its temporary name; what
            it raises leaves nothing behind.

    Raises:
        OutputExistsError: the output is there, and `overwrite` is false.
        NotAFileError: the output is a folder, a device or a pipe.
        MissingFileError: the folder to write in is not there.
        WriteError: the system refuses: disk full, no permission, read-only.
    """
    target = Path(os.path.realpath(path))
    _require_writable(path, target, overwrite=overwrite)
    # Named here and not by mkstemp, so that there is no moment at which the file is there
    # and its name not yet known; and created with 0666, which the umask then narrows.
    temporary = target.parent / f".cotejar-{secrets.token_hex(8)}.tmp"
    raw: _CountingFile | None = None
    try:
        with _as_write_error(path, 0):
            raw = _CountingFile(path, _create(temporary))
        with io.BufferedWriter(raw, _BUFFER_BYTES) as output:
            try:
                yield output
                output.flush()
                with _as_write_error(path, raw.num_written):
                    os.fsync(raw.fileno())
            except BaseException:
                raw.close()  # else closing the buffer would write what is left in it
                raise
        if check is not None:
            check(temporary)
        _require_writable(path, target, overwrite=overwrite)  # it may have come meanwhile
        with _as_write_error(path, raw.num_written):
            temporary.replace(target)
        _flush_folder(target.parent)
    finally:
        if raw is not None:
            raw.close()
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def atomic_write_text(path: Path, text: str, *, overwrite: bool = False) -> None:
    """Write `text` as UTF-8, whole or not at all; errors as `atomic_write`."""
    data = text.encode("utf-8")
    with atomic_write(path, overwrite=overwrite) as output:
        output.write(data)


def atomic_write_json(path: Path, value: object, *, overwrite: bool = False) -> None:
    """Write `value` as JSON with an indent of 2, whole or not at all.

    Errors as `atomic_write`; NaN and infinity are a ValueError, for JSON has none.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write_text(path, text + "\n", overwrite=overwrite)


class _CountingFile(io.FileIO):
    """The temporary file. A failed write names the output and what had been written."""

    def __init__(self, target: Path, handle: int) -> None:
        super().__init__(handle, "wb")
        self._target = target
        self.num_written = 0

    def write(self, data: Buffer, /) -> int:
        with _as_write_error(self._target, self.num_written):
            num_written = super().write(data)
        self.num_written += num_written
        return num_written


def require_writable(
    path: Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()
) -> None:
    """Refuse an output that cannot be written, before the work that it is for.

    Args:
        path: the output.
        overwrite: replace an output that is there.
        inputs: the files that the work reads: none of them may be replaced, under whatever
            name. Those of a model are its `input_files`.

    Raises:
        UsageError: the output is one of the inputs.
        OutputExistsError, NotAFileError, MissingFileError, WriteError: as `atomic_write`.
    """
    _require_not_an_input(path, inputs)
    _require_writable(path, Path(os.path.realpath(path)), overwrite=overwrite)


def _require_not_an_input(path: Path, inputs: Iterable[Path]) -> None:
    """Links, symbolic and hard, are seen through: one file has one device and inode."""
    try:
        output = path.stat()
    except (OSError, ValueError):
        return  # nothing is there that could be an input, or whatever is wrong is said later
    for name in inputs:
        try:
            is_same = os.path.samestat(output, name.stat())
        except (OSError, ValueError):
            continue  # reading it will say what is wrong with it
        if is_same:
            raise UsageError(
                "the output is one of the files that are read",
                where=str(path),
                expected="another file than every input",
                found=f"the same file as {name}",
                hint="name another output; --force replaces older outputs, never an input",
            )


def _create(temporary: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.open(temporary, flags, 0o666)


def _require_writable(path: Path, target: Path, *, overwrite: bool) -> None:
    """Refuse what renaming would destroy, or could not reach."""
    with _as_write_error(path, 0):
        try:
            status = target.stat()
        except (FileNotFoundError, NotADirectoryError):
            _require_folder(path, target.parent)
            return
    if not stat.S_ISREG(status.st_mode):
        raise NotAFileError(
            "the output is not a regular file",
            where=str(path),
            expected="a new file, or a regular file to replace",
            found=kind_of_file(status.st_mode),
            hint="name a file to write, inside a folder that is there",
        )
    if not overwrite:
        raise OutputExistsError(
            "the output is there already",
            where=str(path),
            expected="no file of that name",
            found=f"a file of {status.st_size} bytes",
            hint="name another output, or allow it to be replaced with --force",
        )


def _require_folder(path: Path, folder: Path) -> None:
    if folder.is_dir():
        return
    raise MissingFileError(
        "the folder to write in is not there",
        where=str(path),
        expected=f"a folder {folder}",
        found="a file of that name" if folder.exists() else "nothing of that name",
        hint=f"make it first: `mkdir -p {folder}`",
    )


@contextlib.contextmanager
def _as_write_error(path: Path, num_written: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _write_error(path, num_written, error) from error


def _write_error(path: Path, num_written: int, error: OSError) -> FileError:
    found = error.strerror or str(error)
    if num_written:
        found += f", after {num_written} bytes"
    if error.errno not in _FULL:
        return WriteError(
            "the system refuses to write the output; nothing was left behind",
            where=str(path),
            expected=f"to write in {path.parent}",
            found=found,
            hint=f"look at its permissions (`ls -ld {path.parent}`), or write elsewhere",
        )
    with contextlib.suppress(OSError):
        disk = os.statvfs(path.parent)
        found += f"; {disk.f_bavail * disk.f_frsize} bytes free"
    return WriteError(
        "the disk is full; nothing was left behind",
        where=str(path),
        expected="room for the whole file",
        found=found,
        hint="free some space, or write to another disk",
    )


def _flush_folder(folder: Path) -> None:
    # Some file systems cannot flush a folder. The output is whole by now, so that is no
    # failure: only a power cut in the next seconds could still bring the older file back.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
