"""What is written is upstream's layout byte for byte, whole, and the same every time."""

from __future__ import annotations

import json
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotejar.errors import (
    LimitError,
    MetadataError,
    NoUpstreamCodeError,
    OutputExistsError,
    TensorNameError,
    TensorShapeError,
)
from cotejar.formats import json_object
from cotejar.formats.apr import writer
from cotejar.formats.apr.layout import EXTENSION_TYPES, UPSTREAM_TYPES, Flag, Header
from cotejar.formats.apr.reader import open_apr
from cotejar.formats.apr.writer import TensorToWrite, write_apr
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from pathlib import Path


def tensor(
    name: str, *shape: int, block_type: BlockType = BlockType.F32, fill: int = 1
) -> TensorToWrite:
    num_bytes = block_type.num_bytes(int(np.prod(shape)))
    data = np.full(num_bytes, fill, np.uint8)
    return TensorToWrite(name=name, block_type=block_type, shape=shape, read=lambda: [data])


def flags_of(path: Path) -> Flag:
    return Flag(struct.unpack_from("<H", path.read_bytes(), 6)[0])


def refused(kind: type[Exception], message: str, path: Path, **arguments: object) -> None:
    with pytest.raises(kind) as caught:
        write_apr(path, **{"metadata": {}} | arguments)
    assert str(caught.value) == message.replace("FILE", str(path))
    assert list(path.parent.iterdir()) == []


def test_every_byte_of_a_small_file(tmp_path: Path) -> None:
    path = tmp_path / "small.apr"
    values = np.array([[1.0, -1.0, 0.5]], "<f4")

    num_bytes = write_apr(
        path,
        metadata={"name": "ñ"},
        tensors=[
            TensorToWrite(
                name="b",
                block_type=BlockType.Q8_0,
                shape=(1, 32),
                read=lambda: [np.arange(20, dtype=np.uint8), np.arange(20, 34, dtype=np.uint8)],
            ),
            TensorToWrite(
                name="a",
                block_type=BlockType.F32,
                shape=(1, 3),
                read=lambda: [values.view(np.uint8)],
            ),
        ],
    )

    metadata = (
        '{"license":null,"data_source":null,"data_license":null,"created_at":null,'
        '"name":"ñ","cotejar.block_types":{"72":"Q8_0"}}'
    ).encode()
    assert len(metadata) == 121  # so the index begins at 64 + 128 = 192
    index = b"\x01\x00a" + b"\x00\x02" + struct.pack("<QQQQ", 1, 3, 0, 12)
    index += b"\x01\x00b" + b"\x48\x02" + struct.pack("<QQQQ", 1, 32, 64, 34)
    assert len(index) == 74  # so the data begin at 192 + 128 = 320
    bare = b"APR\0\x02\x00" + struct.pack("<H", 0x400 | 0x20)
    bare += struct.pack("<IQIQQ", 2, 64, 121, 192, 320)
    header = bare + struct.pack("<I", zlib.crc32(bare + bytes(20))) + bytes(20)
    body = header + metadata + bytes(7) + index + bytes(54)
    body += values.tobytes() + bytes(52) + bytes(range(34)) + bytes(30)
    assert path.read_bytes() == body + struct.pack("<I", zlib.crc32(body))
    assert num_bytes == len(body) + 4


def test_the_crc_is_the_one_of_ieee_802_3() -> None:
    # The check value of CRC-32/ISO-HDLC in every catalogue of CRCs.
    assert zlib.crc32(b"123456789") == 0xCBF43926
    header = Header(
        flags=0x400, num_tensors=0, metadata_bytes=2, index_offset=128, data_offset=128
    )
    packed = header.pack()
    assert packed[40:44] == struct.pack("<I", zlib.crc32(packed[:40] + bytes(20)))


@given(
    names=st.lists(
        st.text(min_size=1, max_size=20).filter(str.isprintable), unique=True, max_size=5
    ),
    kinds=st.lists(st.sampled_from(BlockType), min_size=5, max_size=5),
    name=st.text(),
)
def test_what_is_written_is_read(tmp_path_factory, names, kinds, name) -> None:
    path = tmp_path_factory.mktemp("apr") / "model.apr"
    tensors = [
        tensor(n, 2, 256, block_type=kind, fill=i)
        for i, (n, kind) in enumerate(zip(names, kinds, strict=False))
    ]
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        return

    write_apr(path, metadata={"name": name}, tensors=tensors)

    with open_apr(path) as file:
        assert file.metadata["name"] == name
        assert list(file.tensors) == sorted(names, key=lambda n: n.encode())
        for written in tensors:
            entry = file.tensors[written.name]
            assert (entry.block_type, entry.shape) == (written.block_type, written.shape)
            assert file.read_bytes(written.name).tobytes() == written.read()[0].tobytes()


def test_the_same_input_gives_the_same_file(tmp_path: Path) -> None:
    tensors = [tensor("b", 4), tensor("a", 2, 2)]
    write_apr(tmp_path / "1.apr", metadata={"name": "x"}, tensors=tensors)
    write_apr(tmp_path / "2.apr", metadata={"name": "x"}, tensors=reversed(tensors))

    assert (tmp_path / "1.apr").read_bytes() == (tmp_path / "2.apr").read_bytes()


@pytest.mark.parametrize(
    ("kinds", "metadata", "expected"),
    [
        ([BlockType.F32, BlockType.F16, BlockType.BF16], {}, Flag(0)),
        ([BlockType.F32, BlockType.Q6_K], {}, Flag.QUANTIZED),
        ([BlockType.APR_Q8], {}, Flag.QUANTIZED),
        ([], {"tokenizer.vocabulary": ["a"]}, Flag.HAS_VOCAB),
    ],
)
def test_flags_say_what_the_file_holds(tmp_path: Path, kinds, metadata, expected) -> None:
    path = tmp_path / "model.apr"
    tensors = [tensor(kind.label, 256, block_type=kind) for kind in kinds]

    write_apr(path, metadata=metadata, tensors=tensors)

    assert flags_of(path) == expected | Flag.LAYOUT_ROW_MAJOR


def test_provenance_that_is_given_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    write_apr(path, metadata={"license": "MIT", "created_at": "2026-01-02"}, tensors=[])
    with open_apr(path) as file:
        assert dict(file.metadata) == {
            "license": "MIT",
            "data_source": None,
            "data_license": None,
            "created_at": "2026-01-02",
        }


def test_an_old_announcement_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    write_apr(path, metadata={"cotejar.block_types": {"70": "Q5_0"}}, tensors=[tensor("a", 1)])
    with open_apr(path) as file:
        assert "cotejar.block_types" not in file.metadata


def test_every_extension_type_is_refused_when_strict(tmp_path: Path) -> None:
    for kind in EXTENSION_TYPES:
        with pytest.raises(NoUpstreamCodeError):
            write_apr(
                tmp_path / "model.apr",
                metadata={},
                tensors=[tensor("a", 256, block_type=kind)],
                strict=True,
            )


def test_every_upstream_type_is_written_when_strict(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    tensors = [tensor(kind.label, 256, block_type=kind) for kind in UPSTREAM_TYPES]
    write_apr(path, metadata={}, tensors=tensors, strict=True)
    assert (
        json.loads(path.read_bytes()[64:].split(b"\0")[0])
        .keys()
        .isdisjoint({"cotejar.block_types"})
    )


def test_strict_names_types_and_counts(tmp_path: Path) -> None:
    refused(
        NoUpstreamCodeError,
        "error[APR-F030]: upstream's `.apr` has no code for a block type of this model\n"
        "  where     FILE\n"
        "  expected  F32, F16, BF16, Q4_K, Q6_K, APR_Q4, APR_Q8\n"
        "  found     Q4_1, Q8_0 in 2 of 3 tensors, the first 'b'\n"
        "  try       leave --strict out to write codes of our own, which the file announces, "
        "or, where the rows of every matrix are a multiple of 256 long, --quantize q6_k",
        tmp_path / "model.apr",
        tensors=[
            tensor("a", 256),
            tensor("b", 256, block_type=BlockType.Q8_0),
            tensor("c", 256, block_type=BlockType.Q4_1),
        ],
        strict=True,
    )


def test_two_tensors_of_one_name(tmp_path: Path) -> None:
    refused(
        TensorNameError,
        "error[APR-F021]: two tensors are named 'a'\n"
        "  where     FILE\n"
        "  expected  every name once\n"
        "  found     'a' twice\n"
        "  try       rename one of them in the source",
        tmp_path / "model.apr",
        tensors=[tensor("a", 1), tensor("a", 2)],
    )


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    refused(
        TensorNameError,
        "error[APR-F021]: a tensor name has an impossible length\n"
        f"  where     FILE, tensor {'ñ' * 129!r}\n"
        "  expected  1..256 bytes of UTF-8\n"
        "  found     258 bytes\n"
        "  try       the file is damaged, or its writer is at fault: convert the model again",
        tmp_path / "model.apr",
        tensors=[tensor("ñ" * 129, 1)],
    )


def test_a_scalar(tmp_path: Path) -> None:
    refused(
        TensorShapeError,
        "error[APR-F018]: a tensor's shape does not fit its type or its bytes\n"
        "  where     FILE, tensor 'a'\n"
        "  expected  1..8 dimensions\n"
        "  found     0\n"
        "  try       the file is damaged: fetch or copy it again, or import the model again",
        tmp_path / "model.apr",
        tensors=[tensor("a")],
    )


def test_more_tensors_than_a_header_counts(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(writer, "MAX_TENSORS", 1)
    refused(
        LimitError,
        "error[APR-F015]: `.apr` cannot hold so many tensors\n"
        "  where     FILE\n"
        "  expected  at most 1\n"
        "  found     2\n"
        "  try       split the model",
        tmp_path / "model.apr",
        tensors=[tensor("a", 1), tensor("b", 1)],
    )


def test_metadata_that_json_cannot_hold(tmp_path: Path) -> None:
    refused(
        MetadataError,
        "error[APR-F016]: the metadata cannot be written as JSON\n"
        "  where     FILE, metadata\n"
        "  expected  text that is UTF-8 and finite numbers\n"
        "  found     Out of range float values are not JSON compliant\n"
        "  try       the source says something that cannot be: correct its metadata",
        tmp_path / "model.apr",
        metadata={"rope_theta": float("nan")},
        tensors=[],
    )


def test_metadata_that_no_reader_would_take(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(json_object, "MAX_JSON_BYTES", 80)
    refused(
        MetadataError,
        "error[APR-F016]: the metadata is too long\n"
        "  where     FILE, metadata\n"
        "  expected  at most 80 bytes of JSON\n"
        "  found     84 bytes\n"
        "  try       the source says something that cannot be: correct its metadata",
        tmp_path / "model.apr",
        metadata={"name": "x"},
        tensors=[],
    )


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    path.write_bytes(b"mine")
    with pytest.raises(OutputExistsError):
        write_apr(path, metadata={}, tensors=[])
    assert path.read_bytes() == b"mine"

    write_apr(path, metadata={}, tensors=[], overwrite=True)
    assert path.read_bytes()[:4] == b"APR\0"


def test_too_few_bytes_leave_no_file(tmp_path: Path) -> None:
    short = TensorToWrite(
        name="a", block_type=BlockType.F32, shape=(2,), read=lambda: [np.zeros(7, np.uint8)]
    )
    with pytest.raises(ValueError, match="a: 7 bytes, not the 8 of its type and shape"):
        write_apr(tmp_path / "model.apr", metadata={}, tensors=[short])
    assert list(tmp_path.iterdir()) == []
