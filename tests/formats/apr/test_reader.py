"""An `.apr` opens as its layout says, and no broken one opens at all."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.errors import (
    AlignmentError,
    ColumnMajorError,
    FooterChecksumError,
    FormatVersionError,
    HeaderChecksumError,
    IndexOrderError,
    LegacyLayoutError,
    LimitError,
    MetadataError,
    MissingTensorError,
    PaddingError,
    TensorNameError,
    TensorOverlapError,
    TensorRangeError,
    TensorShapeError,
    TrailingDataError,
    TruncatedError,
    UnknownDtypeError,
    UnsupportedFeatureError,
    WrongMagicError,
)
from cotejar.formats.apr.layout import Flag
from cotejar.formats.apr.reader import open_apr
from cotejar.formats.model_file import TensorEntry
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from pathlib import Path

DAMAGED = "the file is damaged: fetch or copy it again, or import the model again"
AGAIN = "import the model again from its source: `apr import SOURCE -o MODEL.apr`"
CODES = (
    "0 F32, 1 F16, 12 Q4_K, 14 Q6_K, 30 BF16, 66 Q4_0, 67 Q4_1, 70 Q5_0, 71 Q5_1, 72 Q8_0, "
    "74 Q2_K, 75 Q3_K, 77 Q5_K, 128 APR_Q4, 129 APR_Q8"
)


def refused(path: Path, kind: type[Exception], message: str, *, weight: str = "") -> None:
    """Opening the file, or reading `weight`, raises exactly that."""
    with pytest.raises(kind) as caught:
        open_apr(path) if not weight else open_apr(path).read_bytes(weight)
    assert type(caught.value) is kind
    assert str(caught.value) == message.replace("FILE", str(path))


# --- what opens ---------------------------------------------------------------------


def test_a_file_made_by_hand_is_read(tmp_path: Path) -> None:
    values = np.array([[1.5, -2.0, 0.25]], "<f4")
    bare = (
        b"APR\0\x02\x00"  # magic, version 2.0
        + struct.pack("<H", 0x0700)  # STREAMING, HAS_VOCAB, LAYOUT_ROW_MAJOR
        + struct.pack("<I", 1)  # tensors
        + struct.pack("<QI", 64, 15)  # metadata: offset, bytes
        + struct.pack("<QQ", 128, 192)  # offsets of index and data
    )
    header = bare + struct.pack("<I", zlib.crc32(bare + bytes(20))) + bytes(20)
    metadata = b'{"name":"hand"}' + bytes(49)
    index = b"\x01\x00w" + b"\x00\x02" + struct.pack("<QQQQ", 1, 3, 0, 12) + bytes(27)
    body = header + metadata + index + values.tobytes() + bytes(52)
    path = tmp_path / "hand.apr"
    path.write_bytes(body + struct.pack("<I", zlib.crc32(body)))

    with open_apr(path) as file:
        assert (file.format, file.format_version, file.path) == ("apr", "2.0", path)
        assert file.flags == Flag.STREAMING | Flag.HAS_VOCAB | Flag.LAYOUT_ROW_MAJOR
        assert dict(file.metadata) == {"name": "hand"}
        assert dict(file.tensors) == {
            "w": TensorEntry(
                name="w",
                block_type=BlockType.F32,
                shape=(1, 3),
                part_index=0,
                offset_bytes=192,
                num_bytes=12,
            )
        }
        assert file.read_bytes("w").tobytes() == values.tobytes()


def test_a_file_without_tensors_opens(make) -> None:
    with open_apr(make()) as file:
        file.verify()
        assert dict(file.tensors) == {}


def test_offsets_need_not_ascend(make) -> None:
    path = make(
        entries=[make.entry(b"a", 0, (1,), 64, 4), make.entry(b"b", 0, (1,), 0, 4)],
        data=make.pad(b"bbbb") + make.pad(b"aaaa"),
    )
    with open_apr(path) as file:
        assert file.read_bytes("a").tobytes() == b"aaaa"
        assert file.read_bytes("b").tobytes() == b"bbbb"


@pytest.mark.parametrize(
    ("code", "kind", "columns", "num_bytes"),
    [
        (0, BlockType.F32, 3, 12),
        (1, BlockType.F16, 3, 6),
        (30, BlockType.BF16, 3, 6),
        (12, BlockType.Q4_K, 256, 144),
        (14, BlockType.Q6_K, 256, 210),
        (128, BlockType.APR_Q4, 33, 36),  # two blocks, the second with one value
        (129, BlockType.APR_Q8, 3, 7),
        (66, BlockType.Q4_0, 32, 18),
        (67, BlockType.Q4_1, 32, 20),
        (70, BlockType.Q5_0, 32, 22),
        (71, BlockType.Q5_1, 32, 24),
        (72, BlockType.Q8_0, 32, 34),
        (74, BlockType.Q2_K, 256, 84),
        (75, BlockType.Q3_K, 256, 110),
        (77, BlockType.Q5_K, 256, 176),
    ],
)
def test_each_code_is_its_type(make, code, kind, columns, num_bytes) -> None:
    path = make(
        metadata=make.announcing(**{str(code): kind.label}),
        entries=[make.entry(b"w", code, (1, columns), 0, num_bytes)],
        data=bytes(-(-num_bytes // 64) * 64),
    )
    with open_apr(path) as file:
        assert file.tensors["w"].block_type is kind
        assert file.read_bytes("w").size == num_bytes


def test_of_two_equal_keys_the_last_counts(make) -> None:
    with open_apr(make(metadata=b'{"rms_norm_eps":null,"rms_norm_eps":1e-6}')) as file:
        assert file.metadata["rms_norm_eps"] == 1e-6


def test_bytes_are_read_only_and_outlive_the_file(make) -> None:
    path = make(entries=[make.entry(b"a", 0, (1,), 0, 4)], data=make.pad(b"abcd"))
    file = open_apr(path)
    data = file.read_bytes("a")
    file.close()

    assert data.tobytes() == b"abcd"
    assert not data.flags.writeable


def test_opening_reads_no_weight_and_no_footer(make) -> None:
    path = make.one(footer=0)
    with open_apr(path) as file:
        assert list(file.tensors) == ["a"]


# --- header -------------------------------------------------------------------------


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
    path.write_bytes(b"APR\0" + struct.pack("<I", 1) + struct.pack("<8I", *range(8)) + bytes(24))
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


# --- sections -----------------------------------------------------------------------


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


# --- metadata -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "problem", "where", "expected", "found"),
    [
        (
            b"[1]",
            "the JSON is no object",
            "FILE, metadata",
            "an object: {...}",
            "an array: '[1]'",
        ),
        (
            b'{"a":}',
            "the JSON cannot be read",
            "FILE, metadata, character 5 of 6",
            "JSON",
            "Expecting value: '}'",
        ),
        (
            b'{"a":"\xff"}',
            "the JSON is not UTF-8",
            "FILE, metadata, byte 6 of 9",
            "UTF-8",
            "byte 0xff: invalid start byte",
        ),
        (
            b'{"a":NaN}',
            "the JSON holds a number that JSON does not have",
            "FILE, metadata",
            "finite numbers of a sensible length",
            "NaN",
        ),
        (
            b'{"a":"\\ud800"}',
            "a string in the JSON is half of a surrogate pair",
            "FILE, metadata",
            "text that can be written as UTF-8",
            "U+D800",
        ),
        (
            b'{"a":' + b"[" * 64 + b"]" * 64 + b"}",
            "the JSON is nested too deep",
            "FILE, metadata",
            "at most 64 levels",
            "more than 64 levels",
        ),
    ],
)
def test_metadata_that_cannot_be_read(make, metadata, problem, where, expected, found) -> None:
    refused(
        make.one(metadata=metadata),
        MetadataError,
        f"error[APR-F016]: {problem}\n"
        f"  where     {where}\n"
        f"  expected  {expected}\n"
        f"  found     {found}\n"
        "  try       the file is damaged, or its writer is at fault: convert the model again",
    )


@pytest.mark.parametrize("metadata", [b'{"a":' + b"[" * 63 + b"]" * 63 + b"}", b'{"a":"\\\\ud800"}'])
def test_metadata_just_within_the_rules(make, metadata) -> None:
    with open_apr(make.one(metadata=metadata)) as file:
        assert list(file.metadata) == ["a"]


def test_nesting_that_would_exhaust_the_stack(make) -> None:
    with pytest.raises(MetadataError, match="nested too deep"):
        open_apr(make.one(metadata=b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"))


def test_an_announcement_that_is_no_object(make) -> None:
    refused(
        make.one(metadata=b'{"cotejar.block_types":[72]}'),
        MetadataError,
        "error[APR-F016]: the metadata key cotejar.block_types is no object\n"
        "  where     FILE, metadata\n"
        '  expected  an object such as {"72": "Q8_0"}\n'
        "  found     [72]\n"
        f"  try       {AGAIN}",
    )


# --- index --------------------------------------------------------------------------


def test_an_entry_that_runs_into_the_data(make) -> None:
    entry = make.entry(b"a" * 30, 0, (2, 3), 0, 24)
    refused(
        make(entries=[entry], index_padding=b"", num_tensors=1, data_offset=192),
        TruncatedError,
        "error[APR-F014]: a size runs past the end of the tensor index\n"
        "  where     FILE, tensor 0 of 1, byte 58 of the index\n"
        "  expected  8 bytes\n"
        "  found     6 bytes left before the data\n"
        f"  try       {DAMAGED}",
    )


@pytest.mark.parametrize(("name", "found"), [(b"", "0 bytes"), (b"n" * 257, "257 bytes")])
def test_a_name_of_impossible_length(make, name, found) -> None:
    refused(
        make(entries=[make.entry(name, 0, (1,), 0, 4)], data=bytes(64)),
        TensorNameError,
        "error[APR-F021]: a tensor name has an impossible length\n"
        "  where     FILE, tensor 0 of 1\n"
        "  expected  1..256 bytes of UTF-8\n"
        f"  found     {found}\n"
        "  try       the file is damaged, or its writer is at fault: convert the model again",
    )


def test_a_name_of_256_bytes(make) -> None:
    name = b"n" * 256
    with open_apr(make(entries=[make.entry(name, 0, (1,), 0, 4)], data=bytes(64))) as file:
        assert list(file.tensors) == [name.decode()]


def test_a_name_that_is_not_utf_8(make) -> None:
    refused(
        make(entries=[make.entry(b"a\xff", 0, (1,), 0, 4)], data=bytes(64)),
        TensorNameError,
        "error[APR-F021]: a tensor name is not UTF-8\n"
        "  where     FILE, tensor 0 of 1\n"
        "  expected  1..256 bytes of UTF-8\n"
        "  found     byte 0xff at 1: invalid start byte\n"
        "  try       the file is damaged, or its writer is at fault: convert the model again",
    )


def two(make, first: bytes, second: bytes, **parts: object) -> Path:
    entries = [make.entry(first, 0, (1,), 0, 4), make.entry(second, 0, (1,), 64, 4)]
    return make(**{"entries": entries, "data": bytes(128)} | parts)


def test_a_name_that_is_there_twice(make) -> None:
    refused(
        two(make, b"a", b"a"),
        TensorNameError,
        "error[APR-F021]: the tensor 'a' is there twice\n"
        "  where     FILE, tensor 1 of 2\n"
        "  expected  every name once\n"
        "  found     'a' again\n"
        "  try       the writer is at fault: convert the model again",
    )


def test_names_out_of_order(make) -> None:
    refused(
        two(make, b"b", b"a"),
        IndexOrderError,
        "error[APR-F027]: the tensor index is out of order\n"
        "  where     FILE, tensor 1 of 2\n"
        "  expected  a name after 'b', by its bytes\n"
        "  found     'a'\n"
        "  try       the writer is at fault: convert the model again",
    )


def test_names_are_ordered_by_their_bytes_not_by_utf_16(make) -> None:
    # U+FFFD sorts after U+10000 in UTF-16, before it in bytes.
    with open_apr(two(make, "\ufffd".encode(), "\U00010000".encode())) as file:
        assert list(file.tensors) == ["\ufffd", "\U00010000"]


@pytest.mark.parametrize(
    ("code", "problem", "found", "hint"),
    [
        (2, "a tensor is of a type that nobody defines", "2", DAMAGED),
        (
            3,
            "a tensor is of a type that no weight has",
            "3: F64",
            "store weights as F32, F16 or BF16, and leave other data out",
        ),
        (
            7,
            "a tensor is of a type that no weight has",
            "7: U8",
            "store weights as F32, F16 or BF16, and leave other data out",
        ),
        (
            8,
            "the type code 8 has had two meanings",
            "8: APR_Q4 in old files, a type of ggml in others",
            "convert the model again with a current writer; `apr import` is one",
        ),
        (
            9,
            "the type code 9 has had two meanings",
            "9: APR_Q8 in old files, a type of ggml in others",
            "convert the model again with a current writer; `apr import` is one",
        ),
        (13, "a tensor is of a type that nobody defines", "13", DAMAGED),
        (255, "a tensor is of a type that nobody defines", "255", DAMAGED),
    ],
)
def test_an_unknown_type(make, code, problem, found, hint) -> None:
    refused(
        make(entries=[make.entry(b"a", code, (32,), 0, 34)], data=bytes(64)),
        UnknownDtypeError,
        f"error[APR-F017]: {problem}\n"
        "  where     FILE, tensor 0 of 1, 'a'\n"
        f"  expected  {CODES}\n"
        f"  found     {found}\n"
        f"  try       {hint}",
    )


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        (b"{}", "nothing for it"),
        (b'{"cotejar.block_types":{"70":"Q5_0"}}', "nothing for it"),
        (b'{"cotejar.block_types":{"72":"Q4_0"}}', "'Q4_0'"),
    ],
)
def test_a_code_of_ours_that_is_not_announced(make, metadata, found) -> None:
    refused(
        make(metadata=metadata, entries=[make.entry(b"a", 72, (32,), 0, 34)], data=bytes(64)),
        UnknownDtypeError,
        "error[APR-F017]: the type code 72 is not announced\n"
        "  where     FILE, tensor 0 of 1, 'a'\n"
        '  expected  "72": "Q8_0" in the metadata key cotejar.block_types\n'
        f"  found     {found}\n"
        "  try       import the model again with `apr import`",
    )


@pytest.mark.parametrize(
    ("code", "dims", "num_bytes", "expected", "found"),
    [
        (0, (), 4, "1..8 dimensions", "0"),
        (0, (1,) * 9, 4, "1..8 dimensions", "9"),
        (0, (2, 0), 0, "dimensions of at least 1", "(2, 0)"),
        (0, (2, 3), 20, "24 bytes, for (2, 3) as F32", "20 bytes"),
        (0, (2**63, 2), 24, f"{2**66} bytes, for ({2**63}, 2) as F32", "24 bytes"),
        (14, (2, 100), 1, "rows of a multiple of 256 values, the block of Q6_K",
         "rows of 100 values in (2, 100)"),
        (129, (2, 3), 6, "10 bytes, for (2, 3) as APR_Q8", "6 bytes"),
    ],
)  # fmt: skip
def test_a_shape_that_does_not_fit(make, code, dims, num_bytes, expected, found) -> None:
    refused(
        make(entries=[make.entry(b"aaaaaaaaa", code, dims, 0, num_bytes)], data=bytes(64)),
        TensorShapeError,
        "error[APR-F018]: a tensor's shape does not fit its type or its bytes\n"
        "  where     FILE, tensor 0 of 1, 'aaaaaaaaa'\n"
        f"  expected  {expected}\n"
        f"  found     {found}\n"
        f"  try       {DAMAGED}",
    )


def test_rows_that_upstream_has_padded(make) -> None:
    refused(
        make(entries=[make.entry(b"a", 12, (2, 300), 0, 2 * 2 * 144)], data=bytes(576)),
        TensorShapeError,
        "error[APR-F018]: a tensor's shape does not fit its type or its bytes\n"
        "  where     FILE, tensor 0 of 1, 'a'\n"
        "  expected  rows of a multiple of 256 values, the block of Q4_K\n"
        "  found     rows of 300 values, each padded to 512\n"
        "  try       upstream pads such rows and this reader does not support it: "
        "import the model again from its source",
    )


def test_an_offset_that_is_not_aligned(make) -> None:
    refused(
        make(entries=[make.entry(b"a", 0, (1,), 32, 4)], data=bytes(64)),
        AlignmentError,
        "error[APR-F022]: the bytes of 'a' begin at an odd place\n"
        "  where     FILE, tensor 0 of 1, 'a'\n"
        "  expected  an offset that is a multiple of 64\n"
        "  found     32\n"
        f"  try       {DAMAGED}",
    )


# --- ranges -------------------------------------------------------------------------


def test_a_tensor_outside_the_data(make) -> None:
    refused(
        make.one(data=bytes(23)),
        TensorRangeError,
        "error[APR-F019]: the tensor 'a' lies outside the data\n"
        "  where     FILE, tensor 'a'\n"
        "  expected  bytes 192..216 (F32, (2, 3))\n"
        "  found     the data is bytes 192..215\n"
        f"  try       {DAMAGED}",
    )


def test_an_offset_beyond_all_files(make) -> None:
    path = make(entries=[make.entry(b"a", 0, (1,), 2**64 - 64, 4)], data=bytes(64))
    with pytest.raises(TensorRangeError, match=r"bytes 18446744073709551744\.\."):
        open_apr(path)


def test_two_tensors_that_share_bytes(make) -> None:
    path = make(
        entries=[make.entry(b"a", 0, (17,), 0, 68), make.entry(b"b", 0, (1,), 64, 4)],
        data=bytes(128),
    )
    refused(
        path,
        TensorOverlapError,
        "error[APR-F020]: the tensors 'a' and 'b' share bytes\n"
        "  where     FILE, tensor 'b'\n"
        "  expected  bytes from 324 on, where 'a' ends\n"
        "  found     bytes 320..324\n"
        f"  try       {DAMAGED}",
    )


def test_a_footer_that_is_cut_off(make) -> None:
    path = make.one()
    path.write_bytes(path.read_bytes()[:-1])
    refused(
        path,
        TruncatedError,
        "error[APR-F014]: the footer runs past the end of the file\n"
        "  where     FILE, byte 256\n"
        "  expected  bytes 256..260\n"
        "  found     the file ends at byte 259\n"
        "  try       the file is cut short or damaged: fetch or copy it again",
    )


def test_a_file_that_goes_on(make) -> None:
    refused(
        make.one(after=b"\x00"),
        TrailingDataError,
        "error[APR-F032]: the file goes on after its last tensor\n"
        "  where     FILE\n"
        "  expected  260 bytes\n"
        "  found     261 bytes\n"
        f"  try       {DAMAGED}",
    )


# --- weights ------------------------------------------------------------------------


def test_a_flipped_bit_in_a_weight(make) -> None:
    path = make.one()
    data = bytearray(path.read_bytes())
    stored = int.from_bytes(data[-4:], "little")
    data[192] ^= 1
    path.write_bytes(data)
    refused(
        path,
        FooterChecksumError,
        "error[APR-F024]: the checksum of the file is wrong\n"
        "  where     FILE, bytes 0..256\n"
        f"  expected  0x{stored:08x}, as the footer says\n"
        f"  found     0x{zlib.crc32(data[:-4]):08x}\n"
        f"  try       {DAMAGED}",
        weight="a",
    )


def test_a_tensor_that_is_not_there(make) -> None:
    refused(
        make.one(),
        MissingTensorError,
        "error[APR-M005]: there is no tensor 'b'\n"
        "  where     FILE\n"
        "  expected  one of its 1 tensors\n"
        "  found     'b'\n"
        "  try       `apr tensors FILE` lists them",
        weight="b",
    )
