"""GGUF files made byte by byte, so that any rule of the format can be broken."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def string(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def key(name: bytes, value_type: int, payload: bytes) -> bytes:
    return string(name) + struct.pack("<I", value_type) + payload


def line(name: bytes, dims: tuple[int, ...], type_id: int, offset: int) -> bytes:
    """A line of the tensor table; `dims` as the file has them, columns first."""
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type_id, offset)


@dataclass(kw_only=True)
class RawGguf:
    """What goes into the file; None for a count means the true one."""

    magic: bytes = b"GGUF"
    version: int = 3
    keys: list[bytes] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    data: bytes = b""
    alignment: int = 32
    num_tensors: int | None = None
    num_keys: int | None = None

    def encode(self) -> bytes:
        num_tensors = len(self.lines) if self.num_tensors is None else self.num_tensors
        num_keys = len(self.keys) if self.num_keys is None else self.num_keys
        head = self.magic + struct.pack("<IQQ", self.version, num_tensors, num_keys)
        head += b"".join(self.keys) + b"".join(self.lines)
        return head + bytes(-len(head) % self.alignment) + self.data


class Maker:
    """Writes raw files into the test's folder; also hands out the parts' encoders."""

    RawGguf = RawGguf
    string = staticmethod(string)
    key = staticmethod(key)
    line = staticmethod(line)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str = "model.gguf", **parts: object) -> Path:
        path = self.folder / name
        path.write_bytes(RawGguf(**parts).encode())  # type: ignore[arg-type]
        return path


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """`make(keys=[...], lines=[...])` writes a file and returns its path."""
    return Maker(tmp_path)
