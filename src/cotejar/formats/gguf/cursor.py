"""A place in a mapped file that moves on as fields are read, and never past the end."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from cotejar.errors import LimitError

if TYPE_CHECKING:
    from cotejar.formats.mapped_file import MappedFile

_LENGTH = struct.Struct("<Q")


class Cursor:
    """Reads fields one after the other; `what` names a field in the message of an error."""

    def __init__(self, file: MappedFile, offset: int) -> None:
        self.file = file
        self.offset = offset
        """Where the next field begins, from the start of the file."""

    def u32(self, what: str) -> int:
        """Read 4 bytes."""
        value = self.file.u32(self.offset, what)
        self.offset += 4
        return value

    def u64(self, what: str) -> int:
        """Read 8 bytes."""
        value = self.file.u64(self.offset, what)
        self.offset += 8
        return value

    def take(self, num_bytes: int, what: str) -> bytes:
        """Copy `num_bytes` bytes."""
        data = self.file.bytes(self.offset, num_bytes, what)
        self.offset += num_bytes
        return data

    def skip(self, num_bytes: int, what: str) -> None:
        """Pass over `num_bytes` bytes, which must be there."""
        self.file.require(self.offset, num_bytes, what)
        self.offset += num_bytes

    def skip_strings(self, count: int, what: str) -> None:
        """Pass over `count` strings, reading nothing of them but their lengths.

        A vocabulary has some 150,000: this loop is most of the time that opening takes.
        """
        view, offset, unpack = self.file.view, self.offset, _LENGTH.unpack_from
        index = 0
        try:
            for index in range(count):  # noqa: B007 - the message below says how far it got
                offset += 8 + unpack(view, offset)[0]
        except (struct.error, OverflowError):  # the length itself lies past the end
            self.file.require(offset, 8, f"the length of string {index} of {what}")
        self.file.require(self.offset, offset - self.offset, what)
        self.offset = offset

    def limit(self, count: int, *, max_count: int, min_bytes: int, what: str) -> int:
        """Return `count`, unless so many things cannot be real, or be in this file.

        Args:
            count: how many of `what` the file says it has.
            max_count: more than any real file has.
            min_bytes: what each of them takes at least.
            what: what is counted, in the plural.

        Raises:
            LimitError: it is too large.
        """
        room = (self.file.size_bytes - self.offset) // min_bytes
        if count <= min(max_count, room):
            return count
        raise LimitError(
            f"the file claims more {what} than it can hold",
            where=f"{self.file.path}, byte {self.offset}",
            expected=f"at most {min(max_count, room)}: {self.file.size_bytes - self.offset} "
            f"bytes are left of the file, and each takes {min_bytes} or more"
            if room < max_count
            else f"at most {max_count}",
            found=str(count),
            hint="the file is damaged, or was never a model: fetch or copy it again",
        )
