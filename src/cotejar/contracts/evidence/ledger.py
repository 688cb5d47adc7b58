"""The file of one contract's runs: `evidence/<stem>.jsonl`, one record a line.

Lines are only ever appended, under a lock, each with one write. A last line that a crash
cut short is reported by whoever reads, and taken off by whoever appends next.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.contracts.evidence.record import EvidenceRecord, parse_record
from cotejar.errors import (
    EvidenceError,
    NotAFileError,
    UnreadableFileError,
    WriteError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_LEDGER_BYTES = 256 * 1024 * 1024
MAX_LINE_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """All records of one contract, oldest first."""

    file: str
    records: tuple[EvidenceRecord, ...]
    truncated: str | None
    """What is wrong with the last line, if a crash cut it short; it is not in `records`."""

    def latest(self, record_id: str, kind: type[EvidenceRecord]) -> EvidenceRecord | None:
        """The newest record of a test or harness."""
        for record in reversed(self.records):
            if record.id == record_id and isinstance(record, kind):
                return record
        return None


def ledger_path(folder: Path, stem: str) -> Path:
    """The file that holds a contract's records."""
    return folder / f"{stem}.jsonl"


def append_record(folder: Path, record: EvidenceRecord) -> Path:
    """Append one record to its contract's file; return the file.

    Raises:
        WriteError: the system refuses, or the disk is full; the file is as it was.
        NotAFileError: something else has the file's name.
        EvidenceError: the line would be too long, or the file too large.
    """
    path = ledger_path(folder, record.stamp.contract)
    text = json.dumps(record.as_json(), ensure_ascii=False, allow_nan=False)
    append_line(path, text, hint="name another folder with --evidence, or run with --no-record")
    return path


def append_line(path: Path, text: str, *, hint: str) -> None:
    """Append one line, under a lock; `hint` is what to try where the system refuses.

    Raises:
        WriteError: the system refuses, or the disk is full; the file is as it was.
        NotAFileError: something else has the file's name.
        EvidenceError: the line would be too long, or the file too large.
    """
    line = (text + "\n").encode("utf-8", errors="backslashreplace")
    if len(line) > MAX_LINE_BYTES:
        raise _bad_line(str(path), f"at most {MAX_LINE_BYTES} bytes", f"{len(line)} bytes")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise _write_error(path, error, hint) from None
    try:
        _require_regular(path, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        if size + len(line) > MAX_LEDGER_BYTES:
            raise _bad_line(str(path), f"room below {MAX_LEDGER_BYTES} bytes", f"{size} bytes")
        _append(descriptor, line)
    except OSError as error:
        raise _write_error(path, error, hint) from None
    finally:
        os.close(descriptor)


def read_ledger(folder: Path, stem: str) -> Ledger:
    """Read a contract's records; none if there is no file.

    Raises:
        EvidenceError: a line is no record, or too long, or the file too large.
        FileError: it cannot be read.
    """
    path = ledger_path(folder, stem)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return Ledger(file=str(path), records=(), truncated=None)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    try:
        _require_regular(path, descriptor)
        size = os.fstat(descriptor).st_size
        if size > MAX_LEDGER_BYTES:
            raise _bad_line(str(path), f"at most {MAX_LEDGER_BYTES} bytes", f"{size} bytes")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_LEDGER_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from None
    finally:
        os.close(descriptor)
    return _parse(path, content)


def _parse(path: Path, content: bytes) -> Ledger:
    records = []
    truncated = None
    for number, line in _lines(content):
        where = f"{path}:{number}"
        if not line.endswith(b"\n") and not _is_json(line):
            truncated = f"{where}: the last line is cut short after {len(line)} bytes"
            break
        records.append(_parse_line(line, where))
    return Ledger(file=str(path), records=tuple(records), truncated=truncated)


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        if line.strip():
            yield number, line


def _parse_line(line: bytes, where: str) -> EvidenceRecord:
    if len(line) > MAX_LINE_BYTES:
        raise _bad_line(where, f"at most {MAX_LINE_BYTES} bytes", f"{len(line)} bytes")
    try:
        facts = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _bad_line(where, "one JSON object", " ".join(str(error).split())) from None
    return parse_record(facts, where)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _append(descriptor: int, line: bytes) -> None:
    """Write one line; on failure leave the file as it was."""
    size = _drop_cut_line(descriptor)
    try:
        num_written = os.write(descriptor, line)
        if num_written < len(line):  # a nearly full disk takes a part, then says why
            os.write(descriptor, line[num_written:])
        os.fsync(descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def _drop_cut_line(descriptor: int) -> int:
    """Take off a last line that was cut short; return the size of what is left."""
    size = os.fstat(descriptor).st_size
    start = max(0, size - MAX_LINE_BYTES)
    tail = os.pread(descriptor, MAX_LINE_BYTES, start)
    if not tail or tail.endswith(b"\n"):
        return size
    last = tail[tail.rfind(b"\n") + 1 :]
    if _is_json(last):  # whole, but for the end of the line
        os.write(descriptor, b"\n")
        return size + 1
    os.ftruncate(descriptor, size - len(last))
    return size - len(last)


def _require_regular(path: Path, descriptor: int) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise NotAFileError(
            "the file of evidence is no regular file",
            where=str(path),
            expected="a regular file, or none yet",
            found="a folder, pipe, socket or device",
            hint="name another folder for evidence",
        )


def _bad_line(where: str, expected: str, found: str) -> EvidenceError:
    return EvidenceError(
        "a file of evidence is malformed",
        where=where,
        expected=expected,
        found=found,
        hint="take the line out, or bring the file back from version control",
    )


def _unreadable(path: Path, error: OSError | ValueError) -> UnreadableFileError:
    return UnreadableFileError(
        "the evidence cannot be read",
        where=str(path),
        expected="a file that this user may read",
        found=(error.strerror or str(error)) if isinstance(error, OSError) else str(error),
        hint="check its permissions",
    )


def _write_error(path: Path, error: OSError, hint: str) -> WriteError:
    return WriteError(
        "the evidence could not be recorded; the file is as it was",
        where=str(path),
        expected="a folder that this user may write to, with room in it",
        found=error.strerror or str(error),
        hint=hint,
    )
