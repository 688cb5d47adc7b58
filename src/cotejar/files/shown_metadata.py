"""A file's metadata as a report shows it: what is long is counted, not shown.

A list of more than `LONG_LIST` elements becomes an `Omitted`, and so does a file beside the
weights that only its tokenizer needs. A long list of a GGUF is never decoded for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.formats.gguf.metadata import GgufMetadata
from cotejar.formats.gguf.value import ValueType

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.formats.model_file import ModelFile

LONG_LIST = 64
LONG_TEXT = 1 << 16
SHORT_FILES = ("config", "generation_config.json", "__metadata__")
"""Of a Hugging Face folder: what is always read. The rest is the tokenizer's."""


@dataclass(frozen=True, slots=True)
class Omitted:
    """A value that is there and not shown."""

    kind: str
    """`list`, `text`, `object` or `file`."""
    count: int
    """Elements, characters, keys or bytes."""
    element: str = ""
    """Of a list: what its elements are."""

    def as_json(self) -> dict[str, object]:
        """What stands for the value in `--json`."""
        facts: dict[str, object] = {"omitted": self.kind, "count": self.count}
        return facts | ({"of": self.element} if self.element else {})

    def __str__(self) -> str:
        units = {"text": "characters", "object": "keys", "file": "bytes"}
        unit = "strings" if self.element == "string" else f"{self.element} values".strip()
        return f"{self.count:,} {units.get(self.kind, unit)}"


def read_shown_metadata(file: ModelFile, *, whole: bool = False) -> dict[str, object]:
    """Every key with its value, or with what stands for it.

    Args:
        file: the opened file.
        whole: leave nothing out.

    Raises:
        MetadataError: a value cannot be decoded.
    """
    if whole:
        return dict(file.metadata)
    return {key: cut(_read_value(file, key)) for key in file.metadata}


def count_elements(file: ModelFile, key: str) -> int | None:
    """How long a list is, without decoding a GGUF's; None where there is no such list."""
    metadata = file.metadata
    if isinstance(metadata, GgufMetadata):
        if key not in metadata or metadata.value_type(key) is not ValueType.ARRAY:
            return None
        return _array_length(metadata, key)
    value = metadata.get(key)
    return len(value) if isinstance(value, list) else None


def cut(value: object) -> object:
    """The value with an `Omitted` for each part of it that is long."""
    if isinstance(value, str) and len(value) > LONG_TEXT:
        return Omitted("text", len(value))
    if isinstance(value, Mapping):
        if len(value) > LONG_LIST:
            return Omitted("object", len(value))
        return {key: cut(inner) for key, inner in value.items()}
    if isinstance(value, list):
        if len(value) > LONG_LIST:
            return Omitted("list", len(value), _element_of(value))
        return [cut(inner) for inner in value]
    return value


def as_json(value: object) -> object:
    """A cut value for `--json`."""
    if isinstance(value, Omitted):
        return value.as_json()
    if isinstance(value, Mapping):
        return {key: as_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_json(inner) for inner in value]
    return value


def _read_value(file: ModelFile, key: str) -> object:
    metadata = file.metadata
    if isinstance(metadata, GgufMetadata):
        if metadata.value_type(key) is ValueType.ARRAY:
            length = _array_length(metadata, key)
            element = metadata.encoded(key).element_type
            if length > LONG_LIST and element is not None:
                return Omitted("list", length, element.name.lower())
        return metadata[key]
    if file.format == "safetensors" and key not in SHORT_FILES:
        return Omitted("file", _beside(file.path, key).stat().st_size)
    return metadata[key]


def _beside(path: Path, name: str) -> Path:
    return path / name if path.is_dir() else path.with_name(name)


def _array_length(metadata: GgufMetadata, key: str) -> int:
    # The element type's uint32, then the count's uint64: see `cotejar.formats.gguf.value`.
    return int.from_bytes(metadata.encoded(key).payload[4:12], "little")


def _element_of(values: list[object]) -> str:
    kinds = {type(value) for value in values[:LONG_LIST]}
    names: dict[type, str] = {str: "string", int: "integer", float: "float", bool: "bool"}
    return names.get(kinds.pop(), "") if len(kinds) == 1 else ""
