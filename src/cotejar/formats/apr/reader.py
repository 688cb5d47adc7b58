"""Open an `.apr` v2 file: memory-mapped, lazy, and stricter than upstream's reader.

`open_apr` checks the header and its checksum, the metadata and the tensor index, and
reads no weight: a large file opens as fast as its metadata can be read. The footer's
checksum covers every byte, so it is checked when the first weight is asked for
(`read_bytes`), or by `verify`; no weight is handed out unverified. What was found is kept
for as long as the file is open, and no longer.

Refused, each with an error of its own: other layouts under a similar magic (`APRN`,
`APR1`, `APR2`, and the header of version 0 or 1 that realizar once mapped), versions other
than 2.0, column-major weights, compression, encryption, signatures and shards, flags that
nobody defines, sections that are not where the layout puts them, padding that is not
zero, and all that `tensor_index` lists. The rows of a Q4_K or Q6_K tensor must be whole
blocks: upstream's padded rows are refused.
"""

from __future__ import annotations

import zlib
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn

from cotejar.errors import (
    AlignmentError,
    ColumnMajorError,
    FooterChecksumError,
    FormatVersionError,
    HeaderChecksumError,
    LegacyLayoutError,
    LimitError,
    MetadataError,
    PaddingError,
    TensorOverlapError,
    TensorRangeError,
    TrailingDataError,
    UnsupportedFeatureError,
    WrongMagicError,
)
from cotejar.formats.apr import layout
from cotejar.formats.apr.layout import Flag, Header
from cotejar.formats.apr.tensor_index import MIN_ENTRY_BYTES, parse_tensor_index
from cotejar.formats.json_object import MAX_JSON_BYTES, parse_json_object
from cotejar.formats.mapped_file import Closing, open_mapped
from cotejar.formats.model_file import require_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from jaxtyping import UInt8

    from cotejar.formats.mapped_file import MappedFile
    from cotejar.formats.model_file import TensorEntry

_LEGACY_MAGICS = {
    b"APRN": "version 1, for classical models",
    b"APR1": "version 1",
    b"APR2": "an early version 2",
}
_UNSUPPORTED = {
    Flag.LZ4: "compressed with LZ4",
    Flag.ZSTD: "compressed with Zstandard",
    Flag.ENCRYPTED: "encrypted",
    Flag.SIGNED: "signed, and the signature cannot be checked here",
    Flag.SHARDED: "one part of several",
}
_CHUNK_BYTES = 1 << 24
_DAMAGED = "the file is damaged: fetch or copy it again, or import the model again"
_IMPORT_AGAIN = "import the model again from its source: `apr import SOURCE -o MODEL.apr`"


class AprFile(Closing):
    """An opened `.apr` file; a `ModelFile`."""

    format = "apr"
    format_version = "2.0"

    def __init__(
        self,
        mapped: MappedFile,
        header: Header,
        metadata: dict[str, object],
        tensors: dict[str, TensorEntry],
    ) -> None:
        self.path: Path = mapped.path
        self.header = header
        self.metadata: Mapping[str, object] = MappingProxyType(metadata)
        self.tensors: Mapping[str, TensorEntry] = MappingProxyType(tensors)
        self._mapped = mapped
        self._verified = False

    @property
    def flags(self) -> Flag:
        """The header's flags."""
        return Flag(self.header.flags)

    def read_bytes(self, name: str) -> UInt8[np.ndarray, "num_bytes"]:
        """The tensor's bytes, read-only: a view of the mapped file.

        Raises:
            MissingTensorError: the file has no tensor of that name.
            FooterChecksumError, PaddingError: the file is damaged; see `verify`.
        """
        entry = require_tensor(self.tensors, name, self.path)
        self.verify()
        return self._mapped.array(entry.offset_bytes, entry.num_bytes)

    def verify(self) -> None:
        """Read the whole file and compare its footer; at once if that was done before.

        Raises:
            FooterChecksumError: the checksum of all bytes before the footer is another.
            PaddingError: bytes between the tensors are not zero.
        """
        if self._verified:
            return
        end = self._mapped.size_bytes - layout.FOOTER_BYTES
        stored = self._mapped.u32(end, "the footer")
        checksum, view = 0, self._mapped.view
        for start in range(0, end, _CHUNK_BYTES):
            checksum = zlib.crc32(view[start : min(start + _CHUNK_BYTES, end)], checksum)
        if checksum != stored:
            raise FooterChecksumError(
                "the checksum of the file is wrong",
                where=f"{self.path}, bytes 0..{end}",
                expected=f"0x{stored:08x}, as the footer says",
                found=f"0x{checksum:08x}",
                hint=_DAMAGED,
            )
        start = self.header.data_offset
        for entry in _by_offset(self.tensors):
            _require_zeros(self._mapped, start, entry.offset_bytes)
            start = entry.offset_bytes + entry.num_bytes
        _require_zeros(self._mapped, start, end)
        self._verified = True

    def close(self) -> None:
        """Unmap the file. Arrays handed out stay valid until they are dropped."""
        self._mapped.close()


def open_apr(path: Path) -> AprFile:
    """Open an `.apr` v2 file; see the module for what is checked when.

    Raises:
        FileError: it is not there, cannot be read, or breaks the format; the subclass,
            and so the code, says how.
    """
    mapped = open_mapped(path)
    try:
        where = str(path)
        header = _read_header(mapped, where)
        metadata = _read_metadata(mapped, header, where)
        tensors = _read_index(mapped, header, metadata, where)
        _check_ranges(mapped, header, tensors, where)
    except BaseException:
        mapped.close()
        raise
    return AprFile(mapped, header, metadata, tensors)


def _read_header(mapped: MappedFile, where: str) -> Header:
    magic = mapped.bytes(0, min(4, mapped.size_bytes), "the magic")
    if magic in _LEGACY_MAGICS:
        _refuse_legacy(where, f"{magic!r}: {_LEGACY_MAGICS[magic]}")
    if not layout.MAGIC.startswith(magic):
        raise WrongMagicError(
            "the file is no `.apr` file",
            where=where,
            expected=f"{layout.MAGIC!r} in the first 4 bytes",
            found=f"{magic!r}",
            hint="`apr inspect` reads .gguf, .apr and safetensors; is it another format?",
        )
    data = mapped.bytes(0, layout.HEADER_BYTES, "the header")
    header = Header.unpack(data)
    if header.version[0] < layout.VERSION[0]:
        _refuse_legacy(where, "version {}.{}".format(*header.version))
    if header.version != layout.VERSION:
        raise FormatVersionError(
            "a version of `.apr` that is not read here",
            where=where,
            expected="version 2.0",
            found="version {}.{}".format(*header.version),
            hint="write the file as version 2.0",
        )
    checksum = layout.header_checksum(data)
    if checksum != header.checksum:
        raise HeaderChecksumError(
            "the checksum of the header is wrong",
            where=f"{where}, bytes 0..40 and 44..64",
            expected=f"0x{header.checksum:08x}, as bytes 40..44 say",
            found=f"0x{checksum:08x}",
            hint=_DAMAGED,
        )
    _check_flags(header, where)
    if any(header.reserved):
        _refuse_padding(where, 44, header.reserved)
    return header


def _refuse_legacy(where: str, found: str) -> NoReturn:
    raise LegacyLayoutError(
        "an older layout of `.apr`",
        where=where,
        expected="version 2.0, magic b'APR\\x00'",
        found=found,
        hint=_IMPORT_AGAIN,
    )


def _check_flags(header: Header, where: str) -> None:
    where = f"{where}, flags 0x{header.flags:03x}"
    if header.flags & Flag.LAYOUT_COLUMN_MAJOR:
        raise ColumnMajorError(
            "the weights are stored column by column",
            where=where,
            expected="row-major weights, [outputs, inputs]",
            found="flag LAYOUT_COLUMN_MAJOR",
            hint=_IMPORT_AGAIN,
        )
    for flag, meaning in _UNSUPPORTED.items():
        if header.flags & flag:
            raise UnsupportedFeatureError(
                f"the file is {meaning}",
                where=where,
                expected="a plain file",
                found=f"flag {flag.name}",
                hint="undo it with the tool that wrote it, or import the model again",
            )
    unknown = header.flags & ~sum(Flag)
    if unknown:
        raise UnsupportedFeatureError(
            "the file has a flag that nobody defines",
            where=where,
            expected=f"no flag beyond 0x{sum(Flag):03x}",
            found=f"0x{unknown:03x}",
            hint=_DAMAGED,
        )


def _read_metadata(mapped: MappedFile, header: Header, where: str) -> dict[str, object]:
    _require_place("metadata", header.metadata_offset, layout.HEADER_BYTES, where)
    if header.metadata_bytes > MAX_JSON_BYTES:
        raise LimitError(
            "the metadata is too long",
            where=where,
            expected=f"at most {MAX_JSON_BYTES} bytes",
            found=f"{header.metadata_bytes} bytes",
            hint=_DAMAGED,
        )
    end = layout.HEADER_BYTES + header.metadata_bytes
    data = mapped.bytes(layout.HEADER_BYTES, header.metadata_bytes, "the metadata")
    _require_place("tensor index", header.index_offset, layout.aligned(end), where)
    mapped.require(end, header.index_offset - end, "the padding of the metadata")
    _require_zeros(mapped, end, header.index_offset)
    return parse_json_object(data, where=f"{where}, metadata")


def _read_index(
    mapped: MappedFile, header: Header, metadata: dict[str, object], where: str
) -> dict[str, TensorEntry]:
    num_bytes = header.data_offset - header.index_offset
    if num_bytes < 0 or header.data_offset % layout.ALIGNMENT:
        expected = f"a multiple of {layout.ALIGNMENT} from {header.index_offset}"
        _refuse_place("data", expected, header.data_offset, where)
    data = mapped.bytes(header.index_offset, num_bytes, "the tensor index")
    if header.num_tensors * MIN_ENTRY_BYTES > num_bytes:
        raise LimitError(
            "the header claims more tensors than the index has room for",
            where=where,
            expected=f"at most {num_bytes // MIN_ENTRY_BYTES} in {num_bytes} bytes",
            found=f"{header.num_tensors}",
            hint=_DAMAGED,
        )
    announced = metadata.get(layout.BLOCK_TYPES_KEY, {})
    if not isinstance(announced, dict):
        raise MetadataError(
            f"the metadata key {layout.BLOCK_TYPES_KEY} is no object",
            where=f"{where}, metadata",
            expected='an object such as {"72": "Q8_0"}',
            found=f"{announced!r:.40}",
            hint=_IMPORT_AGAIN,
        )
    tensors, used = parse_tensor_index(
        data,
        header.num_tensors,
        data_offset=header.data_offset,
        announced=announced,
        where=where,
    )
    end = header.index_offset + used
    _require_place("data", header.data_offset, layout.aligned(end), where)
    _require_zeros(mapped, end, header.data_offset)
    return tensors


def _check_ranges(
    mapped: MappedFile, header: Header, tensors: dict[str, TensorEntry], where: str
) -> None:
    """Every tensor lies in the data, no two share a byte, and the footer follows."""
    limit = mapped.size_bytes - layout.FOOTER_BYTES
    end, previous = header.data_offset, ""
    for entry in _by_offset(tensors):
        stop = entry.offset_bytes + entry.num_bytes
        here = f"{where}, tensor {entry.name!r}"
        if stop > limit:
            raise TensorRangeError(
                f"the tensor {entry.name!r} lies outside the data",
                where=here,
                expected=f"bytes {entry.offset_bytes}..{stop} ({entry.block_type.label}, "
                f"{entry.shape})",
                found=f"the data is bytes {header.data_offset}..{max(limit, 0)}",
                hint=_DAMAGED,
            )
        if entry.offset_bytes < end:
            raise TensorOverlapError(
                f"the tensors {previous!r} and {entry.name!r} share bytes",
                where=here,
                expected=f"bytes from {end} on, where {previous!r} ends",
                found=f"bytes {entry.offset_bytes}..{stop}",
                hint=_DAMAGED,
            )
        end, previous = stop, entry.name
    size = layout.aligned(end) + layout.FOOTER_BYTES
    if mapped.size_bytes < size:
        mapped.require(size - layout.FOOTER_BYTES, layout.FOOTER_BYTES, "the footer")
    if mapped.size_bytes > size:
        raise TrailingDataError(
            "the file goes on after its last tensor",
            where=where,
            expected=f"{size} bytes",
            found=f"{mapped.size_bytes} bytes",
            hint=_DAMAGED,
        )


def _by_offset(tensors: Mapping[str, TensorEntry]) -> Iterator[TensorEntry]:
    return iter(sorted(tensors.values(), key=lambda entry: entry.offset_bytes))


def _require_place(section: str, found: int, expected: int, where: str) -> None:
    if found != expected:
        _refuse_place(section, f"byte {expected}", found, where)


def _refuse_place(section: str, expected: str, found: int, where: str) -> NoReturn:
    raise AlignmentError(
        f"the {section} is not where the layout puts it",
        where=where,
        expected=expected,
        found=f"byte {found}",
        hint=_DAMAGED,
    )


def _require_zeros(mapped: MappedFile, start: int, end: int) -> None:
    """Refuse padding that hides something. The range is known to lie in the file."""
    for at in range(start, end, _CHUNK_BYTES):
        chunk = mapped.view[at : min(at + _CHUNK_BYTES, end)].tobytes()
        if chunk.count(0) != len(chunk):
            _refuse_padding(str(mapped.path), at, chunk)


def _refuse_padding(where: str, start: int, data: bytes) -> NoReturn:
    first = next(i for i, byte in enumerate(data) if byte)
    raise PaddingError(
        "padding that must be zero is not",
        where=f"{where}, bytes {start}..{start + len(data)}",
        expected="zeros",
        found=f"0x{data[first]:02x} at byte {start + first}",
        hint=_DAMAGED,
    )
