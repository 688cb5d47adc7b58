"""Is a file a model, a trace, or a stage's output? Told by its bytes, never by its name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from cotejar.formats.apr.stage_file import MAGIC as STAGE_MAGIC
from cotejar.formats.json_object import parse_json_object
from cotejar.formats.mapped_file import open_mapped
from cotejar.formats.open_model import resolve_model_path
from cotejar.formats.safetensors.header import MAX_HEADER_BYTES, METADATA_KEY

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.formats.mapped_file import MappedFile

FileKind = Literal["model", "trace", "stage"]

_LENGTH_BYTES = 8


def find_file_kind(path: str | Path) -> tuple[FileKind, Path]:
    """Say what a file holds, and where it is; whatever is no trace and no stage is a model.

    A safetensors file is a trace when its header's metadata has a trace's manifest.

    Args:
        path: a file, a Hugging Face folder, or `demo:NAME`.

    Raises:
        FileError: it cannot be opened, or it is safetensors with a broken header.
        UsageError: as `resolve_model_path`.
    """
    path = resolve_model_path(str(path))
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir, it never raises
        return "model", path
    with open_mapped(path) as mapped:
        head = mapped.bytes(0, min(_LENGTH_BYTES + 1, mapped.size_bytes), "the first bytes")
        if head.startswith(STAGE_MAGIC):
            return "stage", path
        return ("trace" if _has_manifest(mapped, head) else "model"), path


def _has_manifest(mapped: MappedFile, head: bytes) -> bool:
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    if head[_LENGTH_BYTES:] != b"{" or length > MAX_HEADER_BYTES:
        return False
    if _LENGTH_BYTES + length > mapped.size_bytes:
        return False  # opening it says how it is cut short
    from cotejar.trace.manifest import MANIFEST_KEY  # imports the safetensors library

    data = mapped.bytes(_LENGTH_BYTES, length, "the header")
    if MANIFEST_KEY.encode() not in data:
        return False
    texts = parse_json_object(data, where=f"{mapped.path}, header").get(METADATA_KEY)
    return isinstance(texts, dict) and MANIFEST_KEY in texts
