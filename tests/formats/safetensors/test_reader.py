"""safetensors open as their library reads them, and no broken file opens at all."""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cotejar.errors import (
    LimitError,
    MetadataError,
    MissingFileError,
    MissingTensorError,
    SplitFileError,
    TensorNameError,
    TensorOverlapError,
    TensorRangeError,
    TensorShapeError,
    TrailingDataError,
    TruncatedError,
    UnknownDtypeError,
)
from cotejar.formats.model_file import TensorEntry
from cotejar.formats.safetensors import folder as folder_module
from cotejar.formats.safetensors.reader import open_safetensors
from cotejar.quant.block_type import BlockType
from cotejar.testing.refusals import refused_file

if TYPE_CHECKING:
    from pathlib import Path

DAMAGED = "the file is damaged: fetch it again"


refused = partial(refused_file, open_safetensors)
"""`refused(path, kind, message)`: opening the file raises exactly that."""


# --- one file -----------------------------------------------------------------------


@given(
    arrays=st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        hnp.arrays(
            st.sampled_from([np.dtype("f4"), np.dtype("f2")]),
            hnp.array_shapes(min_dims=0, max_dims=3, max_side=4),
        ),
        max_size=4,
    )
)
def test_what_the_library_writes_is_read(tmp_path_factory, arrays) -> None:
    path = tmp_path_factory.mktemp("st") / "model.safetensors"
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    safetensors.numpy.save_file(arrays, path, metadata={"format": "np"})

    with open_safetensors(path) as file:
        assert file.metadata["__metadata__"] == {"format": "np"}
        assert file.tensors.keys() == arrays.keys()
        for name, array in arrays.items():
            kind = BlockType.F32 if array.dtype == np.float32 else BlockType.F16
            assert file.tensors[name].block_type is kind
            assert file.tensors[name].num_elements == array.size
            assert file.read_bytes(name).tobytes() == array.tobytes()


def test_each_field_of_an_entry(make) -> None:
    path = make({"w": make.tensor("BF16", [2, 3], 0, 12)}, bytes(range(12)))
    with open_safetensors(path) as file:
        assert (file.format, file.format_version, file.path) == ("safetensors", "none", path)
        assert dict(file.tensors) == {
            "w": TensorEntry(
                name="w",
                block_type=BlockType.BF16,
                shape=(2, 3),
                part_index=0,
                offset_bytes=path.stat().st_size - 12,
                num_bytes=12,
            )
        }
        assert file.read_bytes("w").tobytes() == bytes(range(12))


def test_tensors_keep_the_order_of_the_header(make) -> None:
    header = {"b": make.tensor("F32", [1], 4, 8), "a": make.tensor("F32", [1], 0, 4)}
    with open_safetensors(make(header, b"aaaabbbb")) as file:
        assert list(file.tensors) == ["b", "a"]
        assert file.read_bytes("a").tobytes() == b"aaaa"


def test_a_tensor_that_is_not_there(make) -> None:
    path = make({"a": make.tensor("F32", [1], 0, 4)}, bytes(4))
    with open_safetensors(path) as file, pytest.raises(MissingTensorError) as caught:
        file.read_bytes("b")
    assert str(caught.value) == (
        "error[APR-M005]: there is no tensor 'b'\n"
        f"  where     {path}\n"
        "  expected  one of its 1 tensors\n"
        "  found     'b'\n"
        f"  try       `apr tensors {path}` lists them"
    )


# --- the header ---------------------------------------------------------------------


def test_a_file_shorter_than_its_length(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(7))
    refused(
        path,
        TruncatedError,
        "error[APR-F014]: the header's length runs past the end of the file\n"
        "  where     FILE, byte 0\n"
        "  expected  bytes 0..8\n"
        "  found     the file ends at byte 7\n"
        "  try       the file is cut short or damaged: fetch or copy it again",
    )


def test_a_header_longer_than_the_file(make) -> None:
    refused(
        make({}, length=3),
        TruncatedError,
        "error[APR-F014]: the header runs past the end of the file\n"
        "  where     FILE, byte 8\n"
        "  expected  bytes 8..11\n"
        "  found     the file ends at byte 10\n"
        "  try       the file is cut short or damaged: fetch or copy it again",
    )


def test_a_header_longer_than_allowed(make) -> None:
    refused(
        make({}, length=100_000_001),
        LimitError,
        "error[APR-F015]: the header is too long\n"
        "  where     FILE\n"
        "  expected  at most 100000000 bytes\n"
        "  found     100000001 bytes\n"
        "  try       is it a safetensors file at all? `apr inspect` tells formats apart",
    )


def test_a_name_twice(make) -> None:
    entry = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    refused(
        make(b'{"a":' + entry + b',"a":' + entry + b"}", bytes(4)),
        MetadataError,
        "error[APR-F016]: a key is there twice in the JSON\n"
        "  where     FILE, header\n"
        "  expected  every key of an object once\n"
        "  found     'a' again\n"
        "  try       the file is damaged, or its writer is at fault: convert the model again",
    )


def test_an_empty_name(make) -> None:
    refused(
        make({"": make.tensor("F32", [1], 0, 4)}, bytes(4)),
        TensorNameError,
        "error[APR-F021]: a tensor has no name\n"
        "  where     FILE, header\n"
        "  expected  a name\n"
        "  found     ''\n"
        f"  try       {DAMAGED}",
    )


@pytest.mark.parametrize("value", [["x"], {"a": 1}])
def test_file_metadata_that_are_no_strings(make, value) -> None:
    refused(
        make({"__metadata__": value}),
        MetadataError,
        "error[APR-F016]: __metadata__ is no object of strings\n"
        "  where     FILE, header\n"
        '  expected  {"key": "text"}\n'
        f"  found     {value!r}\n"
        f"  try       {DAMAGED}",
    )


@pytest.mark.parametrize("dtype", ["F64", "I8", "F8_E4M3", "f32", 5, None])
def test_a_type_that_is_no_weights(make, dtype) -> None:
    refused(
        make({"a": make.tensor(dtype, [1], 0, 4)}, bytes(4)),
        UnknownDtypeError,
        "error[APR-F017]: a tensor is of a type that is not read here\n"
        "  where     FILE, tensor 'a'\n"
        "  expected  F32, F16, BF16\n"
        f"  found     {dtype!r}\n"
        "  try       save the model as float32, float16 or bfloat16, not quantised",
    )


@pytest.mark.parametrize(
    ("entry", "expected", "found"),
    [
        (5, "an object of dtype, shape and data_offsets", "5"),
        ({"dtype": "F32"}, "an object of dtype, shape and data_offsets", "'dtype'"),
        (
            {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
            "a shape: a list of whole numbers",
            "[True]",
        ),
        (
            {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
            "a shape: a list of whole numbers",
            "[-1]",
        ),
        (
            {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
            "a shape: a list of whole numbers",
            "[1.0]",
        ),
        (
            {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
            "data_offsets: [begin, end], ascending",
            "[4, 0]",
        ),
        (
            {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]},
            "data_offsets: [begin, end], ascending",
            "[0, 4, 8]",
        ),
        (
            {"dtype": "F32", "shape": [1], "data_offsets": "04"},
            "data_offsets: [begin, end], ascending",
            "'04'",
        ),
    ],
)
def test_an_entry_that_describes_nothing(make, entry, expected, found) -> None:
    path = make({"a": entry}, bytes(4))
    where = f"{path}, tensor 'a'"
    refused(
        path,
        MetadataError,
        "error[APR-F016]: the header does not describe a tensor\n"
        f"  where     {where}\n"
        f"  expected  {expected}\n"
        f"  found     {found}\n"
        f"  try       {DAMAGED}",
    )


@pytest.mark.parametrize("shape", [[1] * 9, [0], [2, 0]])
def test_a_shape_that_no_weight_has(make, shape) -> None:
    refused(
        make({"a": make.tensor("F32", shape, 0, 4)}, bytes(4)),
        TensorShapeError,
        "error[APR-F018]: a tensor has a shape that no weight has\n"
        "  where     FILE, tensor 'a'\n"
        "  expected  at most 8 dimensions, each at least 1\n"
        f"  found     {shape}\n"
        f"  try       {DAMAGED}",
    )


def test_a_shape_that_does_not_fit_its_bytes(make) -> None:
    refused(
        make({"a": make.tensor("F16", [3, 2**64], 0, 4)}, bytes(4)),
        TensorShapeError,
        "error[APR-F018]: a tensor's shape does not fit its bytes\n"
        "  where     FILE, tensor 'a'\n"
        f"  expected  {6 * 2**64} bytes, for [3, {2**64}] as F16\n"
        "  found     4 bytes: data_offsets [0, 4]\n"
        f"  try       {DAMAGED}",
    )


def test_a_tensor_past_the_end(make) -> None:
    path = make({"a": make.tensor("F32", [1], 0, 4)}, bytes(3))
    start = path.stat().st_size - 3
    refused(
        path,
        TensorRangeError,
        "error[APR-F019]: the tensor 'a' runs past the end of the file\n"
        "  where     FILE, tensor 'a'\n"
        f"  expected  bytes {start}..{start + 4}\n"
        f"  found     the file ends at byte {start + 3}\n"
        "  try       the file is cut short or damaged: fetch it again",
    )


def two(make, begin: int, size: int) -> tuple[Path, int]:
    header = {
        "a": make.tensor("F32", [1], 0, 4),
        "b": make.tensor("F32", [1], begin, begin + 4),
    }
    path = make(header, bytes(size))
    return path, path.stat().st_size - size


def test_two_tensors_that_share_a_byte(make) -> None:
    path, start = two(make, 3, 7)
    refused(
        path,
        TensorOverlapError,
        "error[APR-F020]: the tensors 'a' and 'b' share bytes\n"
        "  where     FILE, tensor 'b'\n"
        f"  expected  bytes from {start + 4} on, where 'a' ends\n"
        f"  found     bytes {start + 3}..{start + 7}\n"
        f"  try       {DAMAGED}",
    )


def test_a_hole_of_one_byte(make) -> None:
    path, start = two(make, 5, 9)
    refused(
        path,
        TensorRangeError,
        "error[APR-F019]: there is a hole before the tensor 'b'\n"
        "  where     FILE, tensor 'b'\n"
        f"  expected  it to begin at byte {start + 4}, where 'a' ends\n"
        f"  found     byte {start + 5}\n"
        f"  try       {DAMAGED}",
    )


def test_a_file_that_goes_on(make) -> None:
    path, start = two(make, 4, 9)
    refused(
        path,
        TrailingDataError,
        "error[APR-F032]: the file goes on after its last tensor\n"
        "  where     FILE\n"
        f"  expected  {start + 8} bytes\n"
        f"  found     {start + 9} bytes\n"
        f"  try       {DAMAGED}",
    )


# --- the folder ---------------------------------------------------------------------


def shards(make) -> Path:
    make.json("config.json", {"model_type": "llama"})
    make({"a": make.tensor("F32", [1], 0, 4)}, b"aaaa", name="m-1.safetensors")
    make({"b": make.tensor("F32", [1], 0, 4)}, b"bbbb", name="m-2.safetensors")
    index = {"weight_map": {"b": "m-2.safetensors", "a": "m-1.safetensors"}}
    return make.json("model.safetensors.index.json", index)


@pytest.mark.parametrize("what", ["", "model.safetensors.index.json", "m-2.safetensors"])
def test_shards_open_as_one_model(make, tmp_path: Path, what) -> None:
    shards(make)
    with open_safetensors(tmp_path / what) as file:
        assert {name: entry.part_index for name, entry in file.tensors.items()} == {
            "a": 0,
            "b": 1,
        }
        assert [path.name for path in file.part_paths] == ["m-1.safetensors", "m-2.safetensors"]
        assert file.read_bytes("a").tobytes() + file.read_bytes("b").tobytes() == b"aaaabbbb"
        assert file.metadata["config"] == {"model_type": "llama"}


def test_a_missing_shard(make, tmp_path: Path) -> None:
    shards(make)
    missing = tmp_path / "m-2.safetensors"
    missing.unlink()
    with pytest.raises(SplitFileError) as caught:
        open_safetensors(tmp_path)
    assert str(caught.value) == (
        "error[APR-F029]: a part of the model is missing\n"
        f"  where     {missing}\n"
        "  expected  2 files, as the index says\n"
        "  found     no m-2.safetensors\n"
        "  try       fetch the missing file into the same folder"
    )


@pytest.mark.parametrize(
    ("held", "expected", "found"),
    [
        ([], "1 tensors, 'a' among them", "no 'a'"),
        (["a", "c"], "the 1 tensors of the index", "'c' too"),
    ],
)
def test_a_shard_that_holds_something_else(make, tmp_path: Path, held, expected, found) -> None:
    shards(make)
    header = {name: make.tensor("F32", [1], 4 * i, 4 * i + 4) for i, name in enumerate(held)}
    path = make(header, bytes(4 * len(held)), name="m-1.safetensors")
    with pytest.raises(SplitFileError) as caught:
        open_safetensors(tmp_path)
    assert str(caught.value) == (
        "error[APR-F029]: a part of the model does not hold what the index says\n"
        f"  where     {path}\n"
        f"  expected  {expected}\n"
        f"  found     {found}\n"
        "  try       parts of two models are mixed, or one is old: fetch them all again"
    )


@pytest.mark.parametrize("name", ["../m.safetensors", "/etc/passwd", "", "..", 5])
def test_an_index_that_points_out_of_its_folder(make, name) -> None:
    path = make.json("model.safetensors.index.json", {"weight_map": {"a": name}})
    refused(
        path,
        MetadataError,
        "error[APR-F016]: the index of the weights is malformed\n"
        "  where     FILE\n"
        "  expected  a file name for 'a'\n"
        f"  found     {name!r}\n"
        f"  try       {DAMAGED}",
    )


@pytest.mark.parametrize(
    ("index", "found"), [({}, "None"), ({"weight_map": {}}, "{}"), ({"weight_map": [1]}, "[1]")]
)
def test_an_index_without_a_map(make, index, found) -> None:
    path = make.json("model.safetensors.index.json", index)
    with pytest.raises(MetadataError) as caught:
        open_safetensors(path)
    assert str(caught.value) == (
        "error[APR-F016]: the index of the weights is malformed\n"
        f"  where     {path}\n"
        '  expected  "weight_map": {"TENSOR": "FILE"}\n'
        f"  found     {found}\n"
        f"  try       {DAMAGED}"
    )


def test_a_folder_without_weights(make, tmp_path: Path) -> None:
    make({}, name="1.safetensors")
    make({}, name="2.safetensors")
    refused(
        tmp_path,
        MissingFileError,
        "error[APR-F002]: the folder holds no weights\n"
        "  where     FILE\n"
        "  expected  model.safetensors, or model.safetensors.index.json and the files "
        "it names\n"
        "  found     2 other .safetensors files\n"
        "  try       look at what is there: `ls FILE`",
    )


def test_the_only_weights_of_a_folder_need_no_special_name(make, tmp_path: Path) -> None:
    make({"a": make.tensor("F32", [1], 0, 4)}, bytes(4), name="weights.safetensors")
    with open_safetensors(tmp_path) as file:
        assert list(file.tensors) == ["a"]


def test_files_beside_the_weights_are_read_when_asked_for(make, tmp_path: Path) -> None:
    make({})
    make.json("config.json", {"model_type": "qwen2"})
    make.json("tokenizer.json", {"version": "1.0"})
    (tmp_path / "merges.txt").write_text("a b\n")
    (tmp_path / "tokenizer_config.json").write_text("{broken")
    make.json("unrelated.json", {})

    with open_safetensors(tmp_path) as file:
        assert list(file.metadata) == [
            "config",
            "__metadata__",
            "tokenizer.json",
            "tokenizer_config.json",
            "merges.txt",
        ]
        assert len(file.metadata) == 5
        assert file.metadata["tokenizer.json"] == {"version": "1.0"}
        assert file.metadata["merges.txt"] == "a b\n"
        assert file.metadata.get("unrelated.json") is None
        with pytest.raises(MetadataError, match="the JSON cannot be read"):
            file.metadata["tokenizer_config.json"]


def test_weights_alone_have_no_config(make) -> None:
    with open_safetensors(make({}, name="alone.safetensors")) as file:
        assert list(file.metadata) == ["__metadata__"]


def test_a_config_that_is_broken_is_found_at_once(make, tmp_path: Path) -> None:
    make({})
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(MetadataError) as caught:
        open_safetensors(tmp_path)
    assert str(caught.value) == (
        "error[APR-F016]: the JSON is no object\n"
        f"  where     {tmp_path / 'config.json'}\n"
        "  expected  an object: {...}\n"
        "  found     an array: '[]'\n"
        "  try       the file is damaged, or its writer is at fault: convert the model again"
    )


def test_a_side_file_that_is_too_long(make, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(folder_module, "MAX_JSON_BYTES", 3)
    make({})
    path = make.json("config.json", {"a": 1})
    with pytest.raises(LimitError) as caught:
        open_safetensors(tmp_path)
    assert str(caught.value) == (
        "error[APR-F015]: the file is too long\n"
        f"  where     {path}\n"
        "  expected  at most 3 bytes\n"
        "  found     8 bytes\n"
        "  try       it is not what its name says"
    )


def test_text_that_is_not_utf_8(make, tmp_path: Path) -> None:
    make({})
    path = tmp_path / "merges.txt"
    path.write_bytes(b"a \xff")
    with open_safetensors(tmp_path) as file, pytest.raises(MetadataError) as caught:
        file.metadata["merges.txt"]
    assert str(caught.value) == (
        "error[APR-F016]: the file is not UTF-8\n"
        f"  where     {path}, byte 2\n"
        "  expected  UTF-8\n"
        "  found     byte 0xff: invalid start byte\n"
        f"  try       {DAMAGED}"
    )


def test_a_length_that_is_read_little_endian(make) -> None:
    path = make({}, length=2)
    assert struct.unpack("<Q", path.read_bytes()[:8]) == (2,)
    with open_safetensors(path) as file:
        assert dict(file.tensors) == {}
