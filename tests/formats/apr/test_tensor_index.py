"""Index entries and ranges that cannot be are refused."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from cotejar.errors import (
    AlignmentError,
    IndexOrderError,
    TensorNameError,
    TensorOverlapError,
    TensorRangeError,
    TensorShapeError,
    TrailingDataError,
    TruncatedError,
    UnknownDtypeError,
)
from cotejar.formats.apr.reader import open_apr
from cotejar.testing.refusals import refused_file

if TYPE_CHECKING:
    from pathlib import Path

DAMAGED = "the file is damaged: fetch or copy it again, or import the model again"
CODES = (
    "0 F32, 1 F16, 12 Q4_K, 14 Q6_K, 30 BF16, 66 Q4_0, 67 Q4_1, 70 Q5_0, 71 Q5_1, 72 Q8_0, "
    "74 Q2_K, 75 Q3_K, 77 Q5_K, 128 APR_Q4, 129 APR_Q8"
)


refused = partial(refused_file, open_apr)
"""`refused(path, kind, message)`: opening the file raises exactly that."""


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
        "  expected  bytes from 260 on, where 'a' ends\n"
        "  found     bytes 256..260\n"
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
