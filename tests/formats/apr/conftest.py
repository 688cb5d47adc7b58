"""`.apr` files made byte by byte, so that any rule of the format can be broken."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

HEADER = "<4sBBHIQIQQI20s"


def entry(name: bytes, code: int, dims: tuple[int, ...], offset: int, num_bytes: int) -> bytes:
    """An index entry."""
    head = struct.pack("<H", len(name)) + name + struct.pack("<BB", code, len(dims))
    return head + struct.pack(f"<{len(dims)}QQQ", *dims, offset, num_bytes)


def pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 64)


@dataclass(kw_only=True)
class RawApr:
    """What goes into the file; None means the true value."""

    magic: bytes = b"APR\0"
    version: tuple[int, int] = (2, 0)
    flags: int = 0x400
    num_tensors: int | None = None
    metadata: bytes = b'{"model_type":"test"}'
    metadata_offset: int = 64
    metadata_bytes: int | None = None
    metadata_padding: bytes | None = None
    index_offset: int | None = None
    entries: list[bytes] = field(default_factory=list)
    index_padding: bytes | None = None
    data_offset: int | None = None
    data: bytes = b""
    header_checksum: int | None = None
    reserved: bytes = bytes(20)
    footer: int | None = None
    after: bytes = b""

    def encode(self) -> bytes:
        metadata = self.metadata + self._padding(self.metadata, self.metadata_padding)
        index = b"".join(self.entries)
        index += self._padding(index, self.index_padding)
        index_offset = 64 + len(metadata)
        fields = [
            self.magic,
            *self.version,
            self.flags,
            len(self.entries) if self.num_tensors is None else self.num_tensors,
            self.metadata_offset,
            len(self.metadata) if self.metadata_bytes is None else self.metadata_bytes,
            index_offset if self.index_offset is None else self.index_offset,
            index_offset + len(index) if self.data_offset is None else self.data_offset,
            0,
            self.reserved,
        ]
        bare = struct.pack(HEADER, *fields)
        fields[9] = zlib.crc32(bare[:40] + bare[44:])
        if self.header_checksum is not None:
            fields[9] = self.header_checksum
        body = struct.pack(HEADER, *fields) + metadata + index + self.data
        footer = zlib.crc32(body) if self.footer is None else self.footer
        return body + struct.pack("<I", footer) + self.after

    @staticmethod
    def _padding(data: bytes, given: bytes | None) -> bytes:
        return bytes(-len(data) % 64) if given is None else given


class Maker:
    """Writes raw files into the test's folder; also hands out the parts' encoders."""

    entry = staticmethod(entry)
    pad = staticmethod(pad)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, **parts: object) -> Path:
        path = self.folder / "model.apr"
        path.write_bytes(RawApr(**parts).encode())
        return path

    def one(self, **parts: object) -> Path:
        """A file of one F32 tensor `a` of 2 x 3, unless `parts` say otherwise."""
        parts = {"entries": [entry(b"a", 0, (2, 3), 0, 24)], "data": pad(bytes(24))} | parts
        return self(**parts)

    def announcing(self, **codes: str) -> bytes:
        return json.dumps({"cotejar.block_types": codes}).encode()


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    return Maker(tmp_path)
