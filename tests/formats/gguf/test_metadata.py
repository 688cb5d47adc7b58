"""Keys are checked when the file is opened and decoded when they are looked up."""

from __future__ import annotations

import math
import struct
from functools import partial
from typing import TYPE_CHECKING

import gguf
import pytest

from cotejar.errors import LimitError, MetadataError, TruncatedError
from cotejar.formats.gguf import metadata as metadata_module
from cotejar.formats.gguf.reader import open_gguf
from cotejar.formats.gguf.value import ValueType
from cotejar.testing.refusals import refused_file

if TYPE_CHECKING:
    from pathlib import Path

UINT8, UINT32, BOOL, STRING, ARRAY = 0, 4, 7, 8, 9
DAMAGED = "the file is damaged: fetch or copy it again"
NEVER = "the file is damaged, or was never a model: fetch or copy it again"


refused = partial(refused_file, open_gguf)
"""`refused(path, kind, message)`: opening the file raises exactly that."""


def array(element_type: int, count: int, elements: bytes) -> bytes:
    return struct.pack("<IQ", element_type, count) + elements


def test_every_type_is_read_as_the_gguf_package_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "all.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    expected = {"general.architecture": "llama"}
    for add, value in (
        (writer.add_uint8, 255),
        (writer.add_int8, -128),
        (writer.add_uint16, 65535),
        (writer.add_int16, -32768),
        (writer.add_uint32, 2**32 - 1),
        (writer.add_int32, -(2**31)),
        (writer.add_uint64, 2**64 - 1),
        (writer.add_int64, -(2**63)),
        (writer.add_float32, 0.5),
        (writer.add_float64, math.pi),
        (writer.add_bool, True),
        (writer.add_string, "señal"),
        (writer.add_array, [1, -2, 3]),
        (writer.add_array, [0.5, -0.25]),
        (writer.add_array, [True, False]),
        (writer.add_array, ["a", "", "ñ"]),
    ):
        key = f"key.{len(expected)}"
        add(key, value)
        expected[key] = value
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with open_gguf(path) as file:
        assert dict(file.metadata) == expected


def test_an_array_is_decoded_at_its_first_look_up_and_kept(make, monkeypatch) -> None:
    decoded = []
    decode = metadata_module.GgufValue.decode

    def counting(value, **where):
        decoded.append(value.value_type)
        return decode(value, **where)

    monkeypatch.setattr(metadata_module.GgufValue, "decode", counting)
    strings = make.string(b"a") + make.string(b"b")
    path = make(keys=[make.key(b"tokens", ARRAY, array(STRING, 2, strings))])

    with open_gguf(path) as file:
        assert "tokens" in file.metadata
        assert list(file.metadata) == ["tokens"]
        assert decoded == []

        assert file.metadata["tokens"] == ["a", "b"]
        assert file.metadata["tokens"] is file.metadata["tokens"]
        assert decoded == [ValueType.ARRAY]


def test_a_key_that_is_not_there_is_a_key_error(make) -> None:
    with open_gguf(make()) as file:
        assert "none" not in file.metadata
        with pytest.raises(KeyError, match="none"):
            file.metadata["none"]


def test_an_array_can_be_empty(make) -> None:
    path = make(keys=[make.key(b"k", ARRAY, array(STRING, 0, b""))])

    with open_gguf(path) as file:
        assert file.metadata["k"] == []


def test_more_keys_than_the_file_can_hold_are_refused(make) -> None:
    refused(
        make(keys=[make.key(b"k", UINT8, b"\0")], num_keys=2**64 - 1),
        LimitError,
        "error[APR-F015]: the file claims more keys than it can hold\n"
        "  where     FILE, byte 24\n"
        "  expected  at most 2: 40 bytes are left of the file, and each takes 14 or more\n"
        f"  found     {2**64 - 1}\n"
        f"  try       {NEVER}",
    )


def test_more_keys_than_any_model_has_are_refused(make) -> None:
    path = make()
    with path.open("r+b") as file:
        file.truncate(2_000_000)  # room for 142,855 keys

    with path.open("r+b") as file:
        file.seek(16)
        file.write(struct.pack("<Q", 65537))

    refused(
        path,
        LimitError,
        "error[APR-F015]: the file claims more keys than it can hold\n"
        "  where     FILE, byte 24\n"
        "  expected  at most 65536\n"
        "  found     65537\n"
        f"  try       {NEVER}",
    )


def test_a_key_that_is_there_twice_is_refused(make) -> None:
    keys = [make.key(name, UINT8, b"\0") for name in (b"a", b"k", b"k")]

    refused(
        make(keys=keys),
        MetadataError,
        "error[APR-F016]: the key 'k' is there twice\n"
        "  where     FILE, metadata entry 2, byte 52\n"
        "  expected  each key once\n"
        "  found     it is also metadata entry 1\n"
        "  try       the file is damaged, or was put together wrongly: fetch it again",
    )


@pytest.mark.parametrize(("name", "found"), [(b"", "0 bytes"), (b"k\xff", "2 bytes: 6b ff")])
def test_a_key_that_is_no_text_is_refused(make, name: bytes, found: str) -> None:
    refused(
        make(keys=[make.key(name, UINT32, bytes(4))]),
        MetadataError,
        "error[APR-F016]: the name of metadata entry 0 is no text\n"
        "  where     FILE, byte 24\n"
        "  expected  UTF-8, one letter or more\n"
        f"  found     {found}\n"
        f"  try       {DAMAGED}",
    )


def test_a_key_longer_than_the_format_allows_is_refused(make) -> None:
    open_gguf(make("whole.gguf", keys=[make.key(b"k" * 65535, UINT8, b"\0")])).close()

    refused(
        make(keys=[make.key(b"k" * 65536, UINT8, b"\0")]),
        LimitError,
        "error[APR-F015]: the name of metadata entry 0 is too long\n"
        "  where     FILE, byte 24\n"
        "  expected  at most 65535 bytes\n"
        "  found     65536 bytes\n"
        f"  try       {NEVER}",
    )


@pytest.mark.parametrize("value_type", [13, 2**32 - 1])
def test_an_unknown_value_type_is_refused(make, value_type: int) -> None:
    refused(
        make(keys=[make.key(b"k", value_type, bytes(8))]),
        MetadataError,
        "error[APR-F016]: the type of the value of 'k' (metadata entry 0) is unknown\n"
        "  where     FILE, byte 33\n"
        "  expected  a type from 0 (UINT8) to 12 (FLOAT64)\n"
        f"  found     {value_type}\n"
        "  try       the file is damaged, or newer than this program: fetch it again",
    )


def test_an_array_of_arrays_is_refused(make) -> None:
    refused(
        make(keys=[make.key(b"k", ARRAY, array(ARRAY, 1, array(UINT8, 1, b"\0")))]),
        MetadataError,
        "error[APR-F016]: the value of 'k' (metadata entry 0) is an array of arrays\n"
        "  where     FILE, byte 37\n"
        "  expected  an array of numbers, bools or strings\n"
        "  found     an array of ARRAY (9)\n"
        "  try       no model has one: the file is damaged, fetch or copy it again",
    )


@pytest.mark.parametrize(
    ("value_type", "payload", "offset"),
    [(BOOL, b"\x02", 37), (ARRAY, array(BOOL, 3, b"\x01\x00\x02"), 51)],
)
def test_a_bool_is_0_or_1(make, value_type: int, payload: bytes, offset: int) -> None:
    refused(
        make(keys=[make.key(b"k", value_type, payload)]),
        MetadataError,
        "error[APR-F016]: the value of 'k' (metadata entry 0) is no bool\n"
        f"  where     FILE, byte {offset}\n"
        "  expected  a byte of 0 or 1\n"
        "  found     2\n"
        f"  try       {DAMAGED}",
    )


@pytest.mark.parametrize("length", [1000, 2**63, 2**64 - 1])
def test_a_string_past_the_end_is_refused(make, length: int) -> None:
    refused(
        make(keys=[make.key(b"k", STRING, struct.pack("<Q", length))]),
        TruncatedError,
        "error[APR-F014]: the value of 'k' (metadata entry 0) runs past the end of the file\n"
        "  where     FILE, byte 45\n"
        f"  expected  bytes 45..{45 + length}\n"
        "  found     the file ends at byte 64\n"
        "  try       the file is cut short or damaged: fetch or copy it again",
    )


def test_an_array_longer_than_the_file_is_refused(make) -> None:
    refused(
        make(keys=[make.key(b"k", ARRAY, array(UINT32, 4, b""))]),
        LimitError,
        "error[APR-F015]: the file claims more elements in the value of 'k' (metadata entry 0)"
        " than it can hold\n"
        "  where     FILE, byte 49\n"
        "  expected  at most 3: 15 bytes are left of the file, and each takes 4 or more\n"
        "  found     4\n"
        f"  try       {NEVER}",
    )


def test_an_array_longer_than_any_model_has_is_refused(make) -> None:
    path = make(keys=[make.key(b"k", ARRAY, array(UINT8, 2**22 + 1, b""))])
    with path.open("r+b") as file:
        file.truncate(1 << 23)  # room enough, and no bytes on the disk

    refused(
        path,
        LimitError,
        "error[APR-F015]: the file claims more elements in the value of 'k' (metadata entry 0)"
        " than it can hold\n"
        "  where     FILE, byte 49\n"
        "  expected  at most 4194304\n"
        "  found     4194305\n"
        f"  try       {NEVER}",
    )


@pytest.mark.parametrize("length", [100, 2**63, 2**64 - 1])
def test_a_string_of_an_array_past_the_end_is_refused(make, length: int) -> None:
    strings = make.string(b"a") + struct.pack("<Q", length)
    refused(
        make(keys=[make.key(b"k", ARRAY, array(STRING, 2, strings))]),
        TruncatedError,
        "error[APR-F014]: the value of 'k' (metadata entry 0) runs past the end of the file\n"
        "  where     FILE, byte 49\n"
        f"  expected  bytes 49..{66 + length}\n"
        "  found     the file ends at byte 96\n"
        "  try       the file is cut short or damaged: fetch or copy it again",
    )


def test_the_length_of_a_string_past_the_end_is_refused(make) -> None:
    strings = struct.pack("<Q", 2**64 - 1) + bytes(8)
    refused(
        make(keys=[make.key(b"k", ARRAY, array(STRING, 2, strings))]),
        TruncatedError,
        "error[APR-F014]: the length of string 1 of the value of 'k' (metadata entry 0)"
        " runs past the end of the file\n"
        f"  where     FILE, byte {57 + 2**64 - 1}\n"
        f"  expected  bytes {57 + 2**64 - 1}..{57 + 2**64 + 7}\n"
        "  found     the file ends at byte 96\n"
        "  try       the file is cut short or damaged: fetch or copy it again",
    )


def test_a_string_that_is_not_utf_8_is_refused_at_its_look_up(make) -> None:
    strings = make.string(b"a") + make.string(b"b\xff")
    keys = [
        make.key(b"k", ARRAY, array(STRING, 2, strings)),
        make.key(b"good", STRING, make.string(b"text")),
    ]
    path = make(keys=keys)

    with open_gguf(path) as file:
        assert file.metadata["good"] == "text"
        with pytest.raises(MetadataError) as caught:
            file.metadata["k"]

    assert str(caught.value) == (
        "error[APR-F016]: a metadata string is not UTF-8\n"
        f"  where     {path}, key 'k', element 1\n"
        "  expected  UTF-8\n"
        "  found     byte 0xff at 1: invalid start byte\n"
        "  try       the file is damaged, or its maker wrote another encoding: fetch it again"
    )
