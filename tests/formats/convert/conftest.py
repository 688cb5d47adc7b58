"""Files changed after they were written: a GGUF with other keys, an `.apr` likewise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cotejar.formats.apr.reader import open_apr
from cotejar.formats.apr.writer import TensorToWrite, write_apr
from cotejar.formats.gguf.reader import open_gguf
from cotejar.formats.gguf.writer import GgufTensor, write_gguf

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.formats.gguf.value import GgufValue


def rewritten(
    path: Path, *, keys: dict[str, GgufValue | None] | None = None, rename: dict | None = None
) -> Path:
    """The GGUF again, with keys changed or left out (None) and tensors renamed."""
    with open_gguf(path) as file:
        metadata = file.typed_metadata | (keys or {})
        tensors = [
            GgufTensor(
                name=(rename or {}).get(name, name),
                block_type=entry.block_type,
                shape=entry.shape,
                data=file.read_bytes(name),
            )
            for name, entry in file.tensors.items()
        ]
        kept = {key: value for key, value in metadata.items() if value is not None}
        write_gguf(path, metadata=kept, tensors=tensors, overwrite=True)
    return path


def changed_apr(path: Path, **changes: object) -> Path:
    """The `.apr` again, with other metadata."""
    with open_apr(path) as file:
        tensors = [
            TensorToWrite(
                name=name,
                block_type=entry.block_type,
                shape=entry.shape,
                read=lambda data=data: [data],
            )
            for name, entry in file.tensors.items()
            for data in [file.read_bytes(name)]
        ]
        metadata = {
            key: value
            for key, value in (dict(file.metadata) | changes).items()
            if value != "left out"
        }
        write_apr(path, metadata=metadata, tensors=tensors, overwrite=True)
    return path


@pytest.fixture(name="rewritten")
def rewritten_fixture():
    return rewritten


@pytest.fixture(name="changed_apr")
def changed_apr_fixture():
    return changed_apr
