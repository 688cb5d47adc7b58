"""Open safetensors weights, and the Hugging Face files beside them, as one model.

The metadata has one key a file, decoded when it is first looked up:

    config                   config.json, read when the model is opened
    tokenizer.json           an object each, as far as the file is there; so are
    tokenizer_config.json    generation_config.json, special_tokens_map.json and
    vocab.json               added_tokens.json
    merges.txt               text; so is chat_template.jinja
    __metadata__             the strings in the header of a weight file, the first that has any
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from cotejar.errors import MissingFileError, SplitFileError
from cotejar.formats.mapped_file import Closing, open_mapped
from cotejar.formats.model_file import require_tensor
from cotejar.formats.safetensors.folder import (
    INDEX_FILE,
    find_model_folder,
    missing_tensors,
    read_json_file,
    read_text_file,
)
from cotejar.formats.safetensors.header import METADATA_KEY, read_header

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from jaxtyping import UInt8

    from cotejar.formats.mapped_file import MappedFile
    from cotejar.formats.model_file import TensorEntry
    from cotejar.formats.safetensors.folder import ModelFolder

CONFIG_KEY = "config"
_CONFIG_FILE = "config.json"
_SIDE_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
)


class SafetensorsMetadata(Mapping[str, object]):
    """The files beside the weights, by name; each is read at its first look-up."""

    def __init__(self, folder: Path, texts: dict[str, str]) -> None:
        self._folder = folder
        self._values: dict[str, object] = {METADATA_KEY: texts}
        self._keys = [METADATA_KEY]
        if (folder / _CONFIG_FILE).is_file():
            self._values[CONFIG_KEY] = read_json_file(folder / _CONFIG_FILE)
            self._keys.insert(0, CONFIG_KEY)
        self._keys += [name for name in _SIDE_FILES if (folder / name).is_file()]

    def __getitem__(self, key: str) -> object:
        if key not in self._values:
            if key not in self._keys:
                raise KeyError(key)
            read = read_json_file if key.endswith(".json") else read_text_file
            self._values[key] = read(self._folder / key)
        return self._values[key]

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def find_side_files(folder: Path) -> tuple[Path, ...]:
    """The index and the files of the metadata, as far as they are there."""
    paths = (folder / name for name in (INDEX_FILE, _CONFIG_FILE, *_SIDE_FILES))
    return tuple(path for path in paths if path.is_file())


class SafetensorsFile(Closing):
    """Opened safetensors, in one file or many; a `ModelFile`."""

    format = "safetensors"
    format_version = "none"
    """The format has no versions."""

    def __init__(
        self,
        path: Path,
        parts: list[MappedFile],
        tensors: dict[str, TensorEntry],
        metadata: SafetensorsMetadata,
    ) -> None:
        self.path = path
        self.part_paths = tuple(part.path for part in parts)
        """The weight files."""
        self.side_paths = find_side_files(parts[0].path.parent)
        """The files beside them, as far as they are there."""
        self.metadata: Mapping[str, object] = metadata
        self.tensors: Mapping[str, TensorEntry] = MappingProxyType(tensors)
        self._parts = parts

    def read_bytes(self, name: str) -> UInt8[np.ndarray, "num_bytes"]:
        """View the tensor's bytes, read-only.

        Raises:
            MissingTensorError: the model has no tensor of that name.
        """
        entry = require_tensor(self.tensors, name, self.path)
        return self._parts[entry.part_index].array(entry.offset_bytes, entry.num_bytes)

    def close(self) -> None:
        """Unmap the files. Arrays handed out stay valid until they are dropped."""
        for part in self._parts:
            part.close()


def open_safetensors(path: Path) -> SafetensorsFile:
    """Open a folder, its index, or a weight file; see the module for the metadata.

    Raises:
        MissingFileError: nothing there, or a folder without weights.
        SplitFileError: a part is missing, or holds other tensors than the index says.
        FileError: a file cannot be read or breaks its format; the subclass says how.
    """
    folder = find_model_folder(path)
    parts: list[MappedFile] = []
    tensors: dict[str, TensorEntry] = {}
    texts: dict[str, str] = {}
    try:
        for i, file in enumerate(folder.weight_files):
            parts.append(_open_part(folder, file))
            entries, part_texts = read_header(parts[i], part_index=i)
            _require_as_indexed(folder, file, entries)
            tensors |= entries
            texts = texts or part_texts
        metadata = SafetensorsMetadata(folder.folder, texts)
    except BaseException:
        for part in parts:
            part.close()
        raise
    return SafetensorsFile(path, parts, tensors, metadata)


def _open_part(folder: ModelFolder, file: Path) -> MappedFile:
    try:
        return open_mapped(file)
    except MissingFileError as error:
        if folder.weight_map is None:
            raise
        raise SplitFileError(
            "a part of the model is missing",
            where=str(file),
            expected=f"{len(folder.weight_files)} files, as the index says",
            found=f"no {file.name}",
            hint="fetch the missing file into the same folder",
        ) from error


def _require_as_indexed(
    folder: ModelFolder, file: Path, entries: dict[str, TensorEntry]
) -> None:
    if folder.weight_map is None:
        return
    indexed = {name for name, place in folder.weight_map.items() if place == file.name}
    if missing := sorted(indexed - entries.keys()):
        raise missing_tensors(
            file, f"{len(indexed)} tensors, {missing[0]!r} among them", f"no {missing[0]!r}"
        )
    if extra := sorted(entries.keys() - indexed):
        raise missing_tensors(
            file, f"the {len(indexed)} tensors of the index", f"{extra[0]!r} too"
        )
