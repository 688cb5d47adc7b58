"""Which files make up a Hugging Face model: weights in one file or many, and JSON beside.

model.safetensors                       the weights, or
model.safetensors.index.json            {"weight_map": {"TENSOR": "FILE"}}, and
model-00001-of-00002.safetensors ...    the files it names
config.json                             the architecture
tokenizer.json, tokenizer_config.json, vocab.json, merges.txt,
generation_config.json, ...             as far as they are there
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cotejar.errors import LimitError, MetadataError, MissingFileError, SplitFileError
from cotejar.formats.json_object import MAX_JSON_BYTES, parse_json_object
from cotejar.formats.mapped_file import open_mapped

if TYPE_CHECKING:
    from collections.abc import Mapping

SINGLE_FILE = "model.safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
INDEX_FILE = "model" + INDEX_SUFFIX


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFolder:
    """The files of one model."""

    folder: Path
    weight_files: tuple[Path, ...]
    """One a part, in the order of their names."""
    weight_map: Mapping[str, str] | None
    """Which file holds a tensor, as the index says; None without an index."""


def find_model_folder(path: Path) -> ModelFolder:
    """Find the files of the model at `path`: its folder, its index, or a weight file.

    A weight file that an index beside it names opens the whole model.

    Raises:
        MissingFileError: a folder without weights.
        MetadataError, LimitError: the index is broken.
        FileError: the index cannot be read.
    """
    if path.is_dir():
        return _search_folder(path)
    if path.name.endswith(INDEX_SUFFIX):
        return _read_index(path)
    index = path.with_name(INDEX_FILE)
    if index.is_file():
        folder = _read_index(index)
        if path in folder.weight_files:
            return folder
    return ModelFolder(folder=path.parent, weight_files=(path,), weight_map=None)


def read_json_file(path: Path) -> dict[str, object]:
    """Read a JSON object from a file of at most 64 MiB.

    Raises:
        MetadataError, LimitError: it holds something else, or more.
        FileError: it cannot be read.
    """
    return parse_json_object(_read_whole(path), where=str(path))


def read_text_file(path: Path) -> str:
    """Read UTF-8 from a file of at most 64 MiB.

    Raises:
        MetadataError, LimitError: it holds something else, or more.
        FileError: it cannot be read.
    """
    data = _read_whole(path)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MetadataError(
            "the file is not UTF-8",
            where=f"{path}, byte {error.start}",
            expected="UTF-8",
            found=f"byte 0x{data[error.start]:02x}: {error.reason}",
            hint="the file is damaged: fetch it again",
        ) from error


def missing_tensors(path: Path, expected: str, found: str) -> SplitFileError:
    """The error of a weight file that does not hold what the index says."""
    return SplitFileError(
        "a part of the model does not hold what the index says",
        where=str(path),
        expected=expected,
        found=found,
        hint="parts of two models are mixed, or one is old: fetch them all again",
    )


def _search_folder(folder: Path) -> ModelFolder:
    single = folder / SINGLE_FILE
    if single.is_file():
        return ModelFolder(folder=folder, weight_files=(single,), weight_map=None)
    index = folder / INDEX_FILE
    if index.is_file():
        return _read_index(index)
    others = sorted(folder.glob("*.safetensors"))
    if len(others) == 1:
        return ModelFolder(folder=folder, weight_files=(others[0],), weight_map=None)
    raise MissingFileError(
        "the folder holds no weights",
        where=str(folder),
        expected=f"{SINGLE_FILE}, or {INDEX_FILE} and the files it names",
        found=f"{len(others)} other .safetensors files",
        hint=f"look at what is there: `ls {folder}`",
    )


def _read_index(path: Path) -> ModelFolder:
    weight_map = read_json_file(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        _refuse_index(path, '"weight_map": {"TENSOR": "FILE"}', f"{weight_map!r:.60}")
    for name, file_name in weight_map.items():
        # A plain name, so that an index cannot point out of its folder.
        is_plain = isinstance(file_name, str) and Path(file_name).name == file_name
        if not is_plain or file_name in ("", ".."):
            _refuse_index(path, f"a file name for {name!r}", f"{file_name!r:.60}")
    return ModelFolder(
        folder=path.parent,
        weight_files=tuple(path.with_name(name) for name in sorted(set(weight_map.values()))),
        weight_map=weight_map,
    )


def _refuse_index(path: Path, expected: str, found: str) -> NoReturn:
    raise MetadataError(
        "the index of the weights is malformed",
        where=str(path),
        expected=expected,
        found=found,
        hint="the file is damaged: fetch it again",
    )


def _read_whole(path: Path) -> bytes:
    with open_mapped(path) as mapped:
        if mapped.size_bytes > MAX_JSON_BYTES:
            raise LimitError(
                "the file is too long",
                where=str(path),
                expected=f"at most {MAX_JSON_BYTES} bytes",
                found=f"{mapped.size_bytes} bytes",
                hint="it is not what its name says",
            )
        return mapped.bytes(0, mapped.size_bytes, "the file")
