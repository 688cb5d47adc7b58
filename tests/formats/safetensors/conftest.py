"""safetensors files made byte by byte, so that any rule of the format can be broken."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def tensor(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


class Maker:
    """Writes files into the test's folder."""

    tensor = staticmethod(tensor)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        header: object,
        data: bytes = b"",
        *,
        name: str = "model.safetensors",
        length: int | None = None,
    ) -> Path:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = self.folder / name
        size = len(text) if length is None else length
        path.write_bytes(struct.pack("<Q", size) + text + data)
        return path

    def json(self, name: str, value: object) -> Path:
        path = self.folder / name
        path.write_text(json.dumps(value))
        return path


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    return Maker(tmp_path)
