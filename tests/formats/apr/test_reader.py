"""An `.apr` opens as its layout says; no weight is handed out unverified."""

from __future__ import annotations

import struct
import zlib
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.errors import (
    FooterChecksumError,
    MissingTensorError,
)
from cotejar.formats.apr.layout import Flag
from cotejar.formats.apr.reader import open_apr
from cotejar.formats.model_file import TensorEntry
from cotejar.quant.block_type import BlockType
from cotejar.testing.refusals import refused_file

if TYPE_CHECKING:
    from pathlib import Path

DAMAGED = "the file is damaged: fetch or copy it again, or import the model again"


refused = partial(refused_file, open_apr)
"""`refused(path, kind, message)`: opening the file raises exactly that."""


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
