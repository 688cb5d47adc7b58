"""Open a GGUF: header, keys and tensor table are read and checked, weights are not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from cotejar.errors import (
    AlignmentError,
    BigEndianError,
    FormatVersionError,
    MissingFileError,
    WrongMagicError,
)
from cotejar.formats.gguf import split
from cotejar.formats.gguf.cursor import Cursor
from cotejar.formats.gguf.metadata import GgufMetadata, read_metadata
from cotejar.formats.gguf.tensor_table import read_tensor_table
from cotejar.formats.gguf.value import GgufValue, ValueType
from cotejar.formats.mapped_file import Closing, MappedFile, open_mapped
from cotejar.formats.model_file import require_tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from jaxtyping import UInt8

    from cotejar.formats.model_file import TensorEntry

MAGIC = b"GGUF"
ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32
READABLE_VERSIONS = (2, 3)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """One file, opened and checked."""

    file: MappedFile
    version: int
    metadata: GgufMetadata
    alignment: int
    entries: list[TensorEntry]


class GgufFile(Closing):
    """An opened GGUF, in one file or split; a `cotejar.formats.model_file.ModelFile`."""

    format = "gguf"

    def __init__(self, parts: list[_Part], tensors: dict[str, TensorEntry]) -> None:
        """Use `open_gguf`."""
        first = parts[0]
        self.path = first.file.path
        self.part_paths = tuple(part.file.path for part in parts)
        """The files; more than one for a split model."""
        self.format_version = str(first.version)
        self.alignment = first.alignment
        """Tensors begin at multiples of so many bytes in the data section."""
        self.metadata: Mapping[str, object] = first.metadata
        self.tensors: Mapping[str, TensorEntry] = MappingProxyType(tensors)
        self._encoded = first.metadata.encoded
        self._files = [part.file for part in parts]

    @property
    def typed_metadata(self) -> dict[str, GgufValue]:
        """Every key with its exact type and bytes, as `write_gguf` takes them."""
        return {key: self._encoded(key) for key in self.metadata}

    def read_bytes(self, name: str) -> UInt8[np.ndarray, "num_bytes"]:
        """View the tensor's bytes, read-only.

        Raises:
            MissingTensorError: the file has no tensor of that name.
        """
        entry = require_tensor(self.tensors, name, self.path)
        file = self._files[entry.part_index]
        return file.array(entry.offset_bytes, entry.num_bytes, f"tensor {name!r}")

    def close(self) -> None:
        """Unmap the files. Arrays handed out stay valid until they are dropped."""
        for file in self._files:
            file.close()


def open_gguf(path: str | Path) -> GgufFile:
    """Open a GGUF v2 or v3, little-endian. Any part of a split model opens the whole.

    Raises:
        FileError: it cannot be opened; or, as one of the kinds of FormatError, its bytes
            break a rule of the format.
    """
    path = Path(path)
    part = _open_part(path)
    count = split.num_parts(path, part.metadata)
    if count == 1:
        return GgufFile([part], {entry.name: entry for entry in part.entries})
    paths = split.part_paths(path, count)
    parts = []
    for index, part_path in enumerate(paths):
        try:
            opened = part if part_path == path else _open_part(part_path)
        except MissingFileError as error:
            raise split.missing_part(part_path, index + 1, count) from error
        split.require_part(part_path, opened.metadata, index, count)
        entries = [replace(entry, part_index=index) for entry in opened.entries]
        parts.append(replace(opened, entries=entries))
    tables = [opened.entries for opened in parts]
    return GgufFile(parts, split.merge_tables(paths, parts[0].metadata, tables))


def _open_part(path: Path) -> _Part:
    file = open_mapped(path)
    cursor = Cursor(file, 0)
    version = _read_version(cursor)
    num_tensors = cursor.u64("the tensor count")
    num_keys = cursor.u64("the key count")
    metadata = read_metadata(cursor, num_keys)
    alignment = _alignment(path, metadata)
    entries = read_tensor_table(cursor, num_tensors, alignment)
    return _Part(
        file=file, version=version, metadata=metadata, alignment=alignment, entries=entries
    )


def _read_version(cursor: Cursor) -> int:
    path = cursor.file.path
    magic = cursor.take(len(MAGIC), "the magic")
    if magic != MAGIC:
        raise WrongMagicError(
            "this is no GGUF",
            where=str(path),
            expected=f"the first bytes {MAGIC.hex(' ')} ({MAGIC.decode()!r})",
            found=f"{magic.hex(' ')} ({magic.decode('latin-1')!r})",
            hint=f"see what the file is: `file {path}`",
        )
    version = cursor.u32("the version")
    if version in READABLE_VERSIONS:
        return version
    if version and not version & 0xFFFF:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        raise BigEndianError(
            "the file is big-endian",
            where=f"{path}, byte 4",
            expected="version 2 or 3, little-endian",
            found=f"{version:#010x}, which is version {swapped} with its bytes swapped",
            hint="convert it with the gguf package: `gguf-convert-endian FILE little`",
        )
    raise FormatVersionError(
        "the file has a version of GGUF that is not read",
        where=f"{path}, byte 4",
        expected="version 2 or 3",
        found=f"version {version}",
        hint="convert the model again with a current llama.cpp"
        if version == 1
        else "the file is damaged, or newer than this program",
    )


def _alignment(path: Path, metadata: GgufMetadata) -> int:
    """Read `general.alignment`: as in ggml, a uint32 and a power of two."""
    if ALIGNMENT_KEY not in metadata:
        return DEFAULT_ALIGNMENT
    kind, value = metadata.value_type(ALIGNMENT_KEY), metadata[ALIGNMENT_KEY]
    if kind is ValueType.UINT32 and isinstance(value, int) and value.bit_count() == 1:
        return value
    raise AlignmentError(
        f"{ALIGNMENT_KEY} is no alignment",
        where=str(path),
        expected="a UINT32 that is a power of two",
        found=f"{kind.name} {str(value)[:60]}",
        hint="the file is damaged, or was written wrongly: fetch or convert it again",
    )
