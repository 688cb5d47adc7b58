"""Metadata values: their types, and their bytes from and to Python.

A scalar is its little-endian bytes, a bool one byte of 0 or 1, a string a uint64 length
and UTF-8, an array the uint32 type of its elements, their uint64 count, and they.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from cotejar.errors import MetadataError


class ValueType(enum.IntEnum):
    """`enum gguf_type`."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


SCALAR_CODES: dict[ValueType, str] = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
"""The letter that `struct` has for a scalar type."""

_FLOATS = (ValueType.FLOAT32, ValueType.FLOAT64)
_LENGTH = struct.Struct("<Q")
_ARRAY_HEAD = struct.Struct("<IQ")


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufValue:
    """A value as the bytes that a file has for it, so that copying it changes nothing."""

    value_type: ValueType
    payload: bytes
    """What follows the value's type in the file; of an array, the element type first."""

    @property
    def element_type(self) -> ValueType | None:
        """The type of an array's elements; None for what is no array."""
        if self.value_type is not ValueType.ARRAY:
            return None
        return ValueType(_ARRAY_HEAD.unpack_from(self.payload)[0])

    @classmethod
    def encode(
        cls, value_type: ValueType, value: object, *, where: str = "a metadata value"
    ) -> GgufValue:
        """Encode a bool, an int, a float or a string.

        Args:
            value_type: any but ARRAY.
            value: of the Python type that belongs to it; an int will do for a float.
            where: whose value it is, for the message of an error.

        Raises:
            MetadataError: the value is of another type, or too large for it.
        """
        return cls(value_type=value_type, payload=_pack(value_type, [value], where))

    @classmethod
    def encode_array(
        cls,
        element_type: ValueType,
        values: list[object],
        *,
        where: str = "a metadata value",
    ) -> GgufValue:
        """Encode a list whose elements all have `element_type`; errors as `encode`."""
        head = _ARRAY_HEAD.pack(element_type, len(values))
        payload = head + _pack(element_type, values, where)
        return cls(value_type=ValueType.ARRAY, payload=payload)

    def decode(self, *, where: str = "a metadata value") -> object:
        """Decode to a bool, an int, a float, a string, or a list of one of them.

        Args:
            where: whose value it is, for the message of an error.

        Raises:
            MetadataError: a string is not UTF-8.
        """
        element_type = self.element_type
        if element_type is None:
            return _unpack(self.value_type, self.payload, 1, where)[0]
        _, count = _ARRAY_HEAD.unpack_from(self.payload)
        return _unpack(element_type, self.payload[_ARRAY_HEAD.size :], count, where)


def _unpack(value_type: ValueType, data: bytes, count: int, where: str) -> list[object]:
    if value_type is not ValueType.STRING:
        return list(struct.unpack(f"<{count}{SCALAR_CODES[value_type]}", data))
    strings: list[object] = []
    start = 0
    try:
        for _ in range(count):
            end = start + 8 + _LENGTH.unpack_from(data, start)[0]
            strings.append(data[start + 8 : end].decode("utf-8"))
            start = end
    except UnicodeDecodeError as error:
        raise MetadataError(
            "a metadata string is not UTF-8",
            where=where if count == 1 else f"{where}, element {len(strings)}",
            expected="UTF-8",
            found=f"byte {error.object[error.start]:#04x} at {error.start}: {error.reason}",
            hint="the file is damaged, or its maker wrote another encoding: fetch it again",
        ) from error
    return strings


def _pack(value_type: ValueType, values: list[object], where: str) -> bytes:
    for value in values:
        if not _fits(value_type, value):
            raise _misfit(value_type, value, where)
    try:
        if value_type is ValueType.STRING:
            encoded = [str(value).encode("utf-8") for value in values]
            return b"".join(_LENGTH.pack(len(text)) + text for text in encoded)
        return struct.pack(f"<{len(values)}{SCALAR_CODES[value_type]}", *values)
    except (struct.error, OverflowError, UnicodeEncodeError) as error:
        raise _misfit(value_type, values, where) from error


def _fits(value_type: ValueType, value: object) -> bool:
    """Whether the Python type is the one that belongs to `value_type`."""
    if value_type is ValueType.STRING:
        return isinstance(value, str)
    if value_type is ValueType.BOOL or isinstance(value, bool):
        return isinstance(value, bool) and value_type is ValueType.BOOL
    if value_type is ValueType.ARRAY:
        return False
    return isinstance(value, int) or (value_type in _FLOATS and isinstance(value, float))


def _misfit(value_type: ValueType, value: object, where: str) -> MetadataError:
    text = repr(value)
    return MetadataError(
        "a metadata value does not fit its type",
        where=where,
        expected=f"a value for {value_type.name}",
        found=text if len(text) <= 60 else f"{text[:57]}...",  # noqa: PLR2004 - one line
        hint="correct the value, or write it with another type",
    )
