"""The keys of a GGUF: found when it is opened, decoded when they are looked up.

Opening walks over every key and checks its name, its type and that its value lies inside
the file. The 150,000 strings of a vocabulary are stepped over and become Python strings
when somebody asks for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import LimitError, MetadataError
from cotejar.formats.gguf.value import SCALAR_CODES, GgufValue, ValueType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.formats.gguf.cursor import Cursor
    from cotejar.formats.mapped_file import MappedFile

MAX_KEYS = 1 << 16
MAX_KEY_BYTES = 65535
"""The specification's own limit."""
MAX_ARRAY_LENGTH = 1 << 22
"""16 vocabularies of 262,144; stepping over so many strings still takes under a second."""

_KEY_MIN_BYTES = 8 + 1 + 4 + 1  # name's length, a letter, type, one byte of value
_SCALAR_BYTES = {kind: np.dtype(code).itemsize for kind, code in SCALAR_CODES.items()}


class GgufMetadata(Mapping[str, object]):
    """Keys in the file's order. A value is decoded at its first look-up, then kept."""

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        self._spans: dict[str, tuple[ValueType, int, int]] = {}
        self._decoded: dict[str, object] = {}

    def value_type(self, key: str) -> ValueType:
        """The type that the file gives the value."""
        return self._spans[key][0]

    def encoded(self, key: str) -> GgufValue:
        """Copy the value's type and bytes as the file has them."""
        value_type, start, end = self._spans[key]
        payload = self._file.bytes(start, end - start, f"the value of {key!r}")
        return GgufValue(value_type=value_type, payload=payload)

    def __getitem__(self, key: str) -> object:
        if key not in self._decoded:
            where = f"{self._file.path}, key {key!r}"
            self._decoded[key] = self.encoded(key).decode(where=where)
        return self._decoded[key]

    def __contains__(self, key: object) -> bool:
        return key in self._spans

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

    def read_entry(self, cursor: Cursor, index: int) -> None:
        """Take up the key at the cursor, the file's `index`-th, and step over it.

        Raises:
            MetadataError: a name or type that cannot be, or a name that is there twice.
            LimitError: a name or an array too long for any real file.
            TruncatedError: the value runs past the end of the file.
        """
        start = cursor.offset
        key = self._read_key(cursor, index)
        if key in self._spans:
            raise MetadataError(
                f"the key {key!r} is there twice",
                where=f"{cursor.file.path}, metadata entry {index}, byte {start}",
                expected="each key once",
                found=f"it is also metadata entry {list(self._spans).index(key)}",
                hint="the file is damaged, or was put together wrongly: fetch it again",
            )
        what = f"the value of {key!r} (metadata entry {index})"
        value_type = _read_type(cursor, what)
        value_start = cursor.offset
        _skip_value(cursor, value_type, what)
        self._spans[key] = (value_type, value_start, cursor.offset)

    def _read_key(self, cursor: Cursor, index: int) -> str:
        what = f"the name of metadata entry {index}"
        start = cursor.offset
        num_bytes = cursor.u64(f"the length of {what}")
        if num_bytes > MAX_KEY_BYTES:
            raise LimitError(
                f"{what} is too long",
                where=f"{cursor.file.path}, byte {start}",
                expected=f"at most {MAX_KEY_BYTES} bytes",
                found=f"{num_bytes} bytes",
                hint="the file is damaged, or was never a model: fetch or copy it again",
            )
        data = cursor.take(num_bytes, what)
        try:
            key = data.decode("utf-8")
        except UnicodeDecodeError:
            key = ""
        if not key:
            raise MetadataError(
                f"{what} is no text",
                where=f"{cursor.file.path}, byte {start}",
                expected="UTF-8, one letter or more",
                found=f"{num_bytes} bytes: {data[:16].hex(' ')}" if data else "0 bytes",
                hint="the file is damaged: fetch or copy it again",
            )
        return key


def read_metadata(cursor: Cursor, num_keys: int) -> GgufMetadata:
    """Read `num_keys` keys; errors as `GgufMetadata.read_entry`."""
    cursor.limit(num_keys, max_count=MAX_KEYS, min_bytes=_KEY_MIN_BYTES, what="keys")
    metadata = GgufMetadata(cursor.file)
    for index in range(num_keys):
        metadata.read_entry(cursor, index)
    return metadata


def _read_type(cursor: Cursor, what: str) -> ValueType:
    start = cursor.offset
    number = cursor.u32(f"the type of {what}")
    try:
        return ValueType(number)
    except ValueError:
        raise MetadataError(
            f"the type of {what} is unknown",
            where=f"{cursor.file.path}, byte {start}",
            expected="a type from 0 (UINT8) to 12 (FLOAT64)",
            found=str(number),
            hint="the file is damaged, or newer than this program: fetch it again",
        ) from None


def _skip_value(cursor: Cursor, value_type: ValueType, what: str) -> None:
    if value_type is ValueType.ARRAY:
        _skip_array(cursor, what)
    elif value_type is ValueType.STRING:
        cursor.skip(cursor.u64(f"the length of {what}"), what)
    else:
        _skip_scalars(cursor, value_type, 1, what)


def _skip_array(cursor: Cursor, what: str) -> None:
    start = cursor.offset
    element_type = _read_type(cursor, f"the elements of {what}")
    if element_type is ValueType.ARRAY:
        raise MetadataError(
            f"{what} is an array of arrays",
            where=f"{cursor.file.path}, byte {start}",
            expected="an array of numbers, bools or strings",
            found="an array of ARRAY (9)",
            hint="no model has one: the file is damaged, fetch or copy it again",
        )
    is_text = element_type is ValueType.STRING
    count = cursor.limit(
        cursor.u64(f"the length of {what}"),
        max_count=MAX_ARRAY_LENGTH,
        min_bytes=8 if is_text else _SCALAR_BYTES[element_type],
        what=f"elements in {what}",
    )
    if is_text:
        cursor.skip_strings(count, what)
    else:
        _skip_scalars(cursor, element_type, count, what)


def _skip_scalars(cursor: Cursor, value_type: ValueType, count: int, what: str) -> None:
    start = cursor.offset
    cursor.skip(count * _SCALAR_BYTES[value_type], what)
    if value_type is not ValueType.BOOL:
        return
    wrong = np.flatnonzero(cursor.file.array(start, count) > 1)
    if wrong.size:
        offset = start + int(wrong[0])
        raise MetadataError(
            f"{what} is no bool",
            where=f"{cursor.file.path}, byte {offset}",
            expected="a byte of 0 or 1",
            found=str(cursor.file.u8(offset, what)),
            hint="the file is damaged: fetch or copy it again",
        )
