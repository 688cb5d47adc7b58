r"""The `.apr` v2 header, its flags, and the numbers of its tensor types.

A file, little-endian, each section padded with zeros to a multiple of 64 bytes:

    0..64     header
    64..      metadata      a JSON object, UTF-8
    ...       tensor index  one entry a tensor, ascending by the bytes of the name
    ...       data          each tensor padded with zeros to a multiple of 64 bytes
    last 4    footer        CRC-32 of every byte before it

The header:

     0  4 bytes  magic `APR\0`
     4  u8, u8   version 2, 0
     6  u16      flags
     8  u32      number of tensors
    12  u64      offset of the metadata, 64
    20  u32      bytes of the metadata, without its padding
    24  u64      offset of the tensor index
    32  u64      offset of the data
    40  u32      CRC-32 of bytes 0..40 and 44..64
    44  20 bytes zero

CRC-32 is IEEE 802.3's (polynomial 0xEDB88320), `zlib.crc32`. Source: aprender's
`crates/aprender-core/src/format/v2`, whose writer this layout follows byte for byte.

Type codes 0, 1, 12, 14 and 30 are ggml's F32, F16, Q4_K, Q6_K and BF16; 128 and 129 are
`.apr`'s own APR_Q4 and APR_Q8. No other ggml type has a code of its own there: 3, 6 and 7
mean F64, I8 and U8 to one reader and Q4_1, Q5_0 and Q5_1 to another, 8 and 9 meant APR_Q4
and APR_Q8 once, 13 is read as Q4_K. So such a type is written as 64 + its ggml id, which
means nothing else to any of them, and announced in the metadata:

    "cotejar.block_types": {"72": "Q8_0"}

A file that uses such a code and does not announce it is refused.
"""

from __future__ import annotations

import enum
import struct
import zlib
from dataclasses import dataclass
from typing import Self

from cotejar.quant.block_type import BlockType

MAGIC = b"APR\0"
VERSION = (2, 0)
HEADER_BYTES = 64
ALIGNMENT = 64
FOOTER_BYTES = 4
MAX_NAME_BYTES = 256
MAX_DIMS = 8

BLOCK_TYPES_KEY = "cotejar.block_types"
"""The metadata key that announces types with no upstream code, by code."""
EXTENSION_BASE = 64

_HEADER = struct.Struct("<4sBBHIQIQQI20s")
_CHECKSUM_AT = 40


class Flag(enum.IntFlag):
    """The header's flags."""

    LZ4 = 0x001
    ZSTD = 0x002
    ENCRYPTED = 0x004
    SIGNED = 0x008
    SHARDED = 0x010
    QUANTIZED = 0x020
    HAS_FILTERBANK = 0x040
    HAS_MODEL_CARD = 0x080
    STREAMING = 0x100
    HAS_VOCAB = 0x200
    LAYOUT_ROW_MAJOR = 0x400
    """Writers always set it; a file without it is row-major too."""
    LAYOUT_COLUMN_MAJOR = 0x800


UPSTREAM_TYPES = (
    BlockType.F32,
    BlockType.F16,
    BlockType.BF16,
    BlockType.Q4_K,
    BlockType.Q6_K,
    BlockType.APR_Q4,
    BlockType.APR_Q8,
)
EXTENSION_TYPES = tuple(kind for kind in BlockType if kind not in UPSTREAM_TYPES)

CODE_OF_TYPE = {kind: int(kind) for kind in UPSTREAM_TYPES} | {
    kind: EXTENSION_BASE + kind for kind in EXTENSION_TYPES
}
TYPE_OF_CODE = {code: kind for kind, code in CODE_OF_TYPE.items()}

CODES_WITHOUT_CODEC = {3: "F64", 4: "I32", 5: "I64", 6: "I8", 7: "U8"}
"""Codes that upstream defines and that no weight codec here decodes."""
LEGACY_CODES = {8: "APR_Q4", 9: "APR_Q8"}
"""Codes of old files; they collide with ggml's Q8_0 and Q8_1."""


def aligned(offset: int) -> int:
    """The next multiple of 64 that is not below `offset`."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """The fields of a header. Nothing here is checked: see `reader`."""

    magic: bytes = MAGIC
    version: tuple[int, int] = VERSION
    flags: int
    num_tensors: int
    metadata_offset: int = HEADER_BYTES
    metadata_bytes: int
    index_offset: int
    data_offset: int
    checksum: int = 0
    """As stored; `pack` writes the right one."""
    reserved: bytes = bytes(20)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Take 64 bytes apart."""
        (
            magic,
            major,
            minor,
            flags,
            num_tensors,
            metadata_offset,
            metadata_bytes,
            index_offset,
            data_offset,
            checksum,
            reserved,
        ) = _HEADER.unpack(data)
        return cls(
            magic=magic,
            version=(major, minor),
            flags=flags,
            num_tensors=num_tensors,
            metadata_offset=metadata_offset,
            metadata_bytes=metadata_bytes,
            index_offset=index_offset,
            data_offset=data_offset,
            checksum=checksum,
            reserved=reserved,
        )

    def pack(self) -> bytes:
        """Return the 64 bytes, with the right checksum."""
        data = bytearray(
            _HEADER.pack(
                self.magic,
                *self.version,
                self.flags,
                self.num_tensors,
                self.metadata_offset,
                self.metadata_bytes,
                self.index_offset,
                self.data_offset,
                0,
                self.reserved,
            )
        )
        struct.pack_into("<I", data, _CHECKSUM_AT, header_checksum(bytes(data)))
        return bytes(data)


def header_checksum(data: bytes) -> int:
    """CRC-32 of a header's 64 bytes without the checksum itself."""
    return zlib.crc32(data[_CHECKSUM_AT + 4 : HEADER_BYTES], zlib.crc32(data[:_CHECKSUM_AT]))
