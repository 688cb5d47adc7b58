"""A split model opens whole from any part, or not at all."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from cotejar.errors import MetadataError, SplitFileError, TensorNameError
from cotejar.formats.gguf.reader import open_gguf
from cotejar.formats.open_model import input_files

if TYPE_CHECKING:
    from pathlib import Path

UINT16, INT32, STRING = 2, 5, 8
F32 = 0


def part(make, number: int, *, count: int = 3, name: bytes | None = None, **other) -> Path:
    """Write part `number` (from 0), with one tensor of one float32: its number."""
    told = {"of": 3, "no": number, "tensors": 3, **other}
    keys = [
        make.key(b"split.no", UINT16, struct.pack("<H", told["no"])),
        make.key(b"split.count", UINT16, struct.pack("<H", told["of"])),
        make.key(b"split.tensors.count", INT32, struct.pack("<i", told["tensors"])),
    ]
    if number == 0:
        keys.append(make.key(b"general.name", STRING, make.string(b"whole")))
    line = make.line(name or b"t%d" % number, (1,), F32, 0)
    file = f"model-{number + 1:05}-of-{count:05}.gguf"
    return make(file, keys=keys, lines=[line], data=struct.pack("<f", number))


def refused(opened: Path, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        open_gguf(opened)
    assert str(caught.value) == message.replace("FOLDER", str(opened.parent))


@pytest.mark.parametrize("opened", [0, 1, 2])
def test_any_part_opens_the_whole_model(make, opened: int) -> None:
    paths = [part(make, number) for number in range(3)]

    with open_gguf(paths[opened]) as file:
        assert file.path == paths[0]
        assert file.part_paths == tuple(paths)
        assert file.metadata["general.name"] == "whole"
        assert [entry.part_index for entry in file.tensors.values()] == [0, 1, 2]
        values = [struct.unpack("<f", file.read_bytes(name))[0] for name in file.tensors]
        assert values == [0.0, 1.0, 2.0]


def test_closing_lets_go_of_every_part(make) -> None:
    first, _, _ = (part(make, number) for number in range(3))
    file = open_gguf(first)

    file.close()

    for name in ("t0", "t1", "t2"):
        with pytest.raises(ValueError, match="is closed"):
            file.read_bytes(name)


def test_a_missing_part_is_named(make) -> None:
    paths = [part(make, number) for number in range(3)]
    paths[1].unlink()

    refused(
        paths[2],
        SplitFileError,
        "error[APR-F029]: part 2 of 3 of a split model is missing\n"
        "  where     FOLDER/model-00002-of-00003.gguf\n"
        "  expected  all 3 parts in FOLDER\n"
        "  found     no such file\n"
        "  try       fetch the missing part, or merge the parts: `llama-gguf-split --merge`",
    )


@pytest.mark.parametrize(
    "name", ["renamed.gguf", "model-00001-of-00004.gguf", "model-00004-of-00003.gguf"]
)
def test_a_name_that_finds_no_other_part_is_refused(make, name: str) -> None:
    path = part(make, 0).rename(make.folder / name)

    refused(
        path,
        SplitFileError,
        "error[APR-F029]: the parts of a split model cannot be found by this file's name\n"
        f"  where     FOLDER/{name}\n"
        "  expected  a name that ends in -00001-of-00003.gguf, or another number: "
        "split.count is 3\n"
        f"  found     {name}\n"
        "  try       give the parts the names that they were split into",
    )


@pytest.mark.parametrize(
    ("told", "expected", "found"),
    [
        ({"no": 2}, "split.no = 1", "split.no = 2"),
        ({"of": 4}, "split.count = 3", "split.count = 4"),
    ],
)
def test_a_part_that_says_it_is_another_is_refused(make, told, expected, found) -> None:
    first = part(make, 0)
    part(make, 1, **told)
    part(make, 2)

    refused(
        first,
        SplitFileError,
        "error[APR-F029]: part 2 of 3 of a split model is not what its name says\n"
        "  where     FOLDER/model-00002-of-00003.gguf\n"
        f"  expected  {expected}\n"
        f"  found     {found}\n"
        "  try       the parts are of two models, or renamed: fetch them again",
    )


def test_a_part_without_the_keys_is_refused(make) -> None:
    first = part(make, 0)
    make("model-00002-of-00003.gguf")
    part(make, 2)

    with pytest.raises(SplitFileError, match=r"found     no such key"):
        open_gguf(first)


def test_a_model_that_is_not_whole_is_refused(make) -> None:
    first = part(make, 0, tensors=4)
    part(make, 1)
    part(make, 2)

    refused(
        first,
        SplitFileError,
        "error[APR-F029]: the parts do not hold the whole model\n"
        "  where     FOLDER/model-00001-of-00003.gguf\n"
        "  expected  4 tensors (split.tensors.count)\n"
        "  found     3 tensors in 3 parts\n"
        "  try       the parts are of two models, or one is damaged: fetch them again",
    )


def test_a_tensor_in_two_parts_is_refused(make) -> None:
    first = part(make, 0)
    part(make, 1)
    part(make, 2, name=b"t0")

    refused(
        first,
        TensorNameError,
        "error[APR-F021]: the tensor 't0' is in two parts\n"
        "  where     FOLDER/model-00003-of-00003.gguf\n"
        "  expected  each tensor in one part\n"
        "  found     it is in model-00001-of-00003.gguf too\n"
        "  try       the parts are of two models: fetch them again",
    )


def test_a_split_of_one_is_a_plain_file(make) -> None:
    keys = [make.key(b"split.count", UINT16, struct.pack("<H", 1))]

    with open_gguf(make("any-name.gguf", keys=keys)) as file:
        assert len(file.part_paths) == 1


def test_a_count_that_is_no_number_is_refused(make) -> None:
    path = make(keys=[make.key(b"split.count", STRING, make.string(b"three"))])

    refused(
        path,
        MetadataError,
        "error[APR-F016]: the key 'split.count' is not a count\n"
        "  where     FOLDER/model.gguf\n"
        "  expected  a whole number, 0 or more\n"
        "  found     str 'three'\n"
        "  try       the file is damaged, or was split wrongly: fetch it again",
    )


def test_every_part_is_an_input_whichever_is_named(make) -> None:
    paths = [part(make, number) for number in range(3)]

    assert set(input_files(paths[1])) == set(paths)
