"""Headers and sections that break the layout are refused."""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING

import pytest

from cotejar.errors import (
    AlignmentError,
    ColumnMajorError,
    FormatVersionError,
    HeaderChecksumError,
    LegacyLayoutError,
    LimitError,
    PaddingError,
    TruncatedError,
    UnsupportedFeatureError,
    WrongMagicError,
)
from cotejar.formats.apr.reader import open_apr
from cotejar.testing.refusals import refused_file

if TYPE_CHECKING:
    from pathlib import Path

DAMAGED = "the file is damaged: fetch or copy it again, or import the model again"
AGAIN = "import the model again from its source: `apr import SOURCE -o MODEL.apr`"


refused = partial(refused_file, open_apr)
"""`refused(path, kind, message)`: opening the file raises exactly that."""


@pytest.mark.parametrize(
    ("magic", "found"),
    [
        (b"APRN", "b'APRN': version 1, for classical models"),
        (b"APR1", "b'APR1': version 1"),
        (b"APR2", "b'APR2': an early version 2"),
    ],
)
def test_a_legacy_magic(make, magic, found) -> None:
    refused(
        make.one(magic=magic),
        LegacyLayoutError,
        "error[APR-F026]: an older layout of `.apr`\n"
        "  where     FILE\n"
        "  expected  version 2.0, magic b'APR\\x00'\n"
        f"  found     {found}\n"
        f"  try       {AGAIN}",
    )


def test_the_header_that_realizar_mapped(tmp_path: Path) -> None:
    path = tmp_path / "old.apr"
    path.write_bytes(
        b"APR\0" + struct.pack("<I", 1) + struct.pack("<8I", *range(8)) + bytes(24)
    )
    refused(
        path,
        LegacyLayoutError,
        "error[APR-F026]: an older layout of `.apr`\n"
        "  where     FILE\n"
        "  expected  version 2.0, magic b'APR\\x00'\n"
        "  found     version 1.0\n"
        f"  try       {AGAIN}",
    )


def test_another_magic(make) -> None:
    refused(
        make.one(magic=b"APR\x01"),
        WrongMagicError,
        "error[APR-F011]: the file is no `.apr` file\n"
        "  where     FILE\n"
        "  expected  b'APR\\x00' in the first 4 bytes\n"
        "  found     b'APR\\x01'\n"
        "  try       `apr inspect` reads .gguf, .apr and safetensors; is it another format?",
    )


def test_a_file_shorter_than_its_header(tmp_path: Path) -> None:
    path = tmp_path / "short.apr"
    path.write_bytes(b"APR\0" + bytes(59))
    refused(
        path,
        TruncatedError,
        "error[APR-F014]: the header runs past the end of the file\n"
        "  where     FILE, byte 0\n"
        "  expected  bytes 0..64\n"
        "  found     the file ends at byte 63\n"
        "  try       the file is cut short or damaged: fetch or copy it again",
    )


@pytest.mark.parametrize("version", [(2, 1), (3, 0)])
def test_a_later_version(make, version) -> None:
    refused(
        make.one(version=version),
        FormatVersionError,
        "error[APR-F012]: a version of `.apr` that is not read here\n"
        "  where     FILE\n"
        "  expected  version 2.0\n"
        f"  found     version {version[0]}.{version[1]}\n"
        "  try       write the file as version 2.0",
    )


def test_a_wrong_header_checksum(make) -> None:
    path = make.one()
    data = bytearray(path.read_bytes())
    right = int.from_bytes(data[40:44], "little")
    data[40] ^= 1
    path.write_bytes(data)
    refused(
        path,
        HeaderChecksumError,
        "error[APR-F023]: the checksum of the header is wrong\n"
        "  where     FILE, bytes 0..40 and 44..64\n"
        f"  expected  0x{right ^ 1:08x}, as bytes 40..44 say\n"
        f"  found     0x{right:08x}\n"
        f"  try       {DAMAGED}",
    )


def test_column_major_weights(make) -> None:
    refused(
        make.one(flags=0x800),
        ColumnMajorError,
        "error[APR-F025]: the weights are stored column by column\n"
        "  where     FILE, flags 0x800\n"
        "  expected  row-major weights, [outputs, inputs]\n"
        "  found     flag LAYOUT_COLUMN_MAJOR\n"
        f"  try       {AGAIN}",
    )


@pytest.mark.parametrize(
    ("bit", "name", "meaning"),
    [
        (0x01, "LZ4", "compressed with LZ4"),
        (0x02, "ZSTD", "compressed with Zstandard"),
        (0x04, "ENCRYPTED", "encrypted"),
        (0x08, "SIGNED", "signed, and the signature cannot be checked here"),
        (0x10, "SHARDED", "one part of several"),
    ],
)
def test_a_feature_that_is_not_read(make, bit, name, meaning) -> None:
    refused(
        make.one(flags=0x400 | bit),
        UnsupportedFeatureError,
        f"error[APR-F028]: the file is {meaning}\n"
        f"  where     FILE, flags 0x{0x400 | bit:03x}\n"
        "  expected  a plain file\n"
        f"  found     flag {name}\n"
        "  try       undo it with the tool that wrote it, or import the model again",
    )


def test_an_unknown_flag(make) -> None:
    refused(
        make.one(flags=0x1400),
        UnsupportedFeatureError,
        "error[APR-F028]: the file has a flag that nobody defines\n"
        "  where     FILE, flags 0x1400\n"
        "  expected  no flag beyond 0xfff\n"
        "  found     0x1000\n"
        f"  try       {DAMAGED}",
    )


def test_a_reserved_byte_that_is_not_zero(make) -> None:
    refused(
        make.one(reserved=bytes(19) + b"\x07"),
        PaddingError,
        "error[APR-F031]: padding that must be zero is not\n"
        "  where     FILE, bytes 44..64\n"
        "  expected  zeros\n"
        "  found     0x07 at byte 63\n"
        f"  try       {DAMAGED}",
    )


@pytest.mark.parametrize(
    ("change", "section", "expected", "found"),
    [
        ({"metadata_offset": 128}, "metadata", "byte 64", "byte 128"),
        ({"index_offset": 192}, "tensor index", "byte 128", "byte 192"),
        ({"data_offset": 200}, "data", "a multiple of 64 from 128", "byte 200"),
        ({"data_offset": 64}, "data", "a multiple of 64 from 128", "byte 64"),
        ({"data_offset": 256}, "data", "byte 192", "byte 256"),
    ],
)
def test_a_section_out_of_place(make, change, section, expected, found) -> None:
    refused(
        make.one(**change),
        AlignmentError,
        f"error[APR-F022]: the {section} is not where the layout puts it\n"
        "  where     FILE\n"
        f"  expected  {expected}\n"
        f"  found     {found}\n"
        f"  try       {DAMAGED}",
    )


def test_metadata_past_the_end(make) -> None:
    refused(
        make.one(metadata_bytes=1000),
        TruncatedError,
        "error[APR-F014]: the metadata runs past the end of the file\n"
        "  where     FILE, byte 64\n"
        "  expected  bytes 64..1064\n"
        "  found     the file ends at byte 260\n"
        "  try       the file is cut short or damaged: fetch or copy it again",
    )


def test_metadata_beyond_any_tokenizer(make) -> None:
    refused(
        make.one(metadata_bytes=64 * 1024 * 1024 + 1),
        LimitError,
        "error[APR-F015]: the metadata is too long\n"
        "  where     FILE\n"
        "  expected  at most 67108864 bytes\n"
        "  found     67108865 bytes\n"
        f"  try       {DAMAGED}",
    )


@pytest.mark.parametrize(
    ("change", "start", "end"),
    [
        ({"metadata_padding": bytes(42) + b"\x01"}, 85, 128),
        ({"index_padding": bytes(26) + b"\x01"}, 165, 192),
    ],
)
def test_padding_that_hides_something(make, change, start, end) -> None:
    refused(
        make.one(**change),
        PaddingError,
        "error[APR-F031]: padding that must be zero is not\n"
        f"  where     FILE, bytes {start}..{end}\n"
        "  expected  zeros\n"
        f"  found     0x01 at byte {end - 1}\n"
        f"  try       {DAMAGED}",
    )


def test_padding_of_a_tensor_that_hides_something(make) -> None:
    refused(
        make.one(data=bytes(63) + b"\x01"),
        PaddingError,
        "error[APR-F031]: padding that must be zero is not\n"
        "  where     FILE, bytes 216..256\n"
        "  expected  zeros\n"
        "  found     0x01 at byte 255\n"
        f"  try       {DAMAGED}",
        weight="a",
    )


def test_more_tensors_than_the_index_holds(make) -> None:
    refused(
        make.one(num_tensors=3),
        LimitError,
        "error[APR-F015]: the header claims more tensors than the index has room for\n"
        "  where     FILE\n"
        "  expected  at most 2 in 64 bytes\n"
        "  found     3\n"
        f"  try       {DAMAGED}",
    )
