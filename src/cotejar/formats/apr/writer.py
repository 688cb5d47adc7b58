"""Write an `.apr` v2 file: streaming, atomic, and the same bytes for the same input.

Header, metadata and index are computed from the tensors' types and shapes, so that the
data can follow in one pass: what is held in memory is one chunk of one tensor. Tensors lie
in the order of their names, as upstream's in-memory writer lays them. LAYOUT_ROW_MAJOR is
always set, QUANTIZED where a tensor has quantised blocks, HAS_VOCAB where the metadata has
`tokenizer.vocabulary`. The keys `license`, `data_source` and `data_license` are always
there, null where nobody gave them, and so is `created_at`: no clock is read here.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.errors import LimitError, NoUpstreamCodeError, TensorNameError
from cotejar.formats.apr import layout
from cotejar.formats.apr.layout import Flag, Header
from cotejar.formats.apr.tensor_index import encode_entry, require_name, require_shape
from cotejar.formats.atomic import atomic_write
from cotejar.formats.json_object import encode_json_object
from cotejar.formats.model_file import TensorEntry
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    import numpy as np
    from jaxtyping import UInt8

PROVENANCE_KEYS = ("license", "data_source", "data_license")
"""Always in the metadata, so that what is not known is seen to be not known."""
_ALWAYS = (*PROVENANCE_KEYS, "created_at")

MAX_TENSORS = 2**32 - 1
_UNQUANTISED = (BlockType.F32, BlockType.F16, BlockType.BF16)
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorToWrite:
    """A tensor, and where its bytes come from when they are wanted."""

    name: str
    block_type: BlockType
    shape: tuple[int, ...]
    """Row-major, outermost first."""
    read: Callable[[], Iterable[UInt8[np.ndarray, "chunk"]]]
    """Called once; yields all its bytes, in chunks of any size."""

    @property
    def num_bytes(self) -> int:
        """Bytes that `read` yields in all."""
        num_elements = 1
        for size in self.shape:
            num_elements *= size
        return self.block_type.num_bytes(num_elements)


def write_apr(
    path: Path,
    *,
    metadata: Mapping[str, object],
    tensors: Iterable[TensorToWrite],
    strict: bool = False,
    overwrite: bool = False,
    check: Callable[[Path], None] | None = None,
) -> int:
    """Write a file, whole or not at all, and return its size in bytes.

    Args:
        path: of the file.
        metadata: what JSON can hold. `cotejar.block_types` is added where it is needed.
        tensors: in any order.
        strict: refuse block types that upstream's `.apr` has no code for.
        overwrite: replace a file that is there.
        check: see `atomic_write`.

    Raises:
        NoUpstreamCodeError: `strict`, and such a type.
        TensorNameError, TensorShapeError, LimitError: a tensor that `.apr` cannot hold.
        MetadataError: metadata that JSON cannot hold, or more than 64 MiB of it.
        FileError: the file cannot be written; see `atomic_write`.
        ValueError: a tensor's `read` yields another number of bytes than its type takes.
    """
    where = str(path)
    ordered = sorted(tensors, key=lambda tensor: tensor.name.encode("utf-8"))
    _check_tensors(ordered, where)
    if strict:
        _require_upstream_codes(ordered, where)
    json_bytes = encode_json_object(_complete(metadata, ordered), where=f"{where}, metadata")
    head = _head(json_bytes, ordered, has_vocabulary="tokenizer.vocabulary" in metadata)
    with atomic_write(path, overwrite=overwrite, check=check) as output:
        stream = _ChecksummedStream(output)
        stream.write(head)
        for tensor in ordered:
            stream.write_tensor(tensor)
        output.write(stream.checksum.to_bytes(layout.FOOTER_BYTES, "little"))
        return stream.num_written + layout.FOOTER_BYTES


@dataclass(slots=True)
class _ChecksummedStream:
    """What is written, counted and run through CRC-32."""

    output: BinaryIO
    num_written: int = 0
    checksum: int = 0

    def write(self, data: bytes | memoryview) -> None:
        for start in range(0, len(data), _CHUNK_BYTES):
            chunk = data[start : start + _CHUNK_BYTES]
            self.checksum = zlib.crc32(chunk, self.checksum)
            self.num_written += len(chunk)
            self.output.write(chunk)

    def write_tensor(self, tensor: TensorToWrite) -> None:
        before = self.num_written
        for chunk in tensor.read():
            self.write(chunk.reshape(-1).data)
        if self.num_written - before != tensor.num_bytes:
            raise ValueError(
                f"{tensor.name}: {self.num_written - before} bytes, "
                f"not the {tensor.num_bytes} of its type and shape"
            )
        self.write(bytes(layout.aligned(self.num_written) - self.num_written))


def _head(
    json_bytes: bytes, ordered: Sequence[TensorToWrite], *, has_vocabulary: bool
) -> bytes:
    """Everything before the data."""
    index_offset = layout.aligned(layout.HEADER_BYTES + len(json_bytes))
    index = b"".join(encode_entry(entry, data_offset=0) for entry in _entries(ordered))
    flags = Flag.LAYOUT_ROW_MAJOR
    if any(tensor.block_type not in _UNQUANTISED for tensor in ordered):
        flags |= Flag.QUANTIZED
    if has_vocabulary:
        flags |= Flag.HAS_VOCAB
    header = Header(
        flags=int(flags),
        num_tensors=len(ordered),
        metadata_bytes=len(json_bytes),
        index_offset=index_offset,
        data_offset=layout.aligned(index_offset + len(index)),
    )
    head = bytearray(header.data_offset)
    head[: layout.HEADER_BYTES] = header.pack()
    head[layout.HEADER_BYTES : layout.HEADER_BYTES + len(json_bytes)] = json_bytes
    head[index_offset : index_offset + len(index)] = index
    return bytes(head)


def _entries(ordered: Sequence[TensorToWrite]) -> Iterable[TensorEntry]:
    offset = 0
    for tensor in ordered:
        yield TensorEntry(
            name=tensor.name,
            block_type=tensor.block_type,
            shape=tensor.shape,
            part_index=0,
            offset_bytes=offset,
            num_bytes=tensor.num_bytes,
        )
        offset = layout.aligned(offset + tensor.num_bytes)


def _complete(
    metadata: Mapping[str, object], ordered: Sequence[TensorToWrite]
) -> dict[str, object]:
    """The metadata with the keys that are always there, and the announcement of types."""
    complete = dict.fromkeys(_ALWAYS) | dict(metadata)
    complete.pop(layout.BLOCK_TYPES_KEY, None)
    used = sorted({tensor.block_type for tensor in ordered} & set(layout.EXTENSION_TYPES))
    if used:
        complete[layout.BLOCK_TYPES_KEY] = {
            str(layout.CODE_OF_TYPE[kind]): kind.label for kind in used
        }
    return complete


def _check_tensors(ordered: Sequence[TensorToWrite], where: str) -> None:
    if len(ordered) > MAX_TENSORS:
        raise LimitError(
            "`.apr` cannot hold so many tensors",
            where=where,
            expected=f"at most {MAX_TENSORS}",
            found=f"{len(ordered)}",
            hint="split the model",
        )
    previous = None
    for tensor in ordered:
        here = f"{where}, tensor {tensor.name!r}"
        require_name(tensor.name.encode("utf-8"), here)
        require_shape(tensor.block_type, tensor.shape, here)
        if tensor.name == previous:
            raise TensorNameError(
                f"two tensors are named {tensor.name!r}",
                where=where,
                expected="every name once",
                found=f"{tensor.name!r} twice",
                hint="rename one of them in the source",
            )
        previous = tensor.name


def _require_upstream_codes(ordered: Sequence[TensorToWrite], where: str) -> None:
    tensors = [t for t in ordered if t.block_type in layout.EXTENSION_TYPES]
    if not tensors:
        return
    kinds = sorted({tensor.block_type for tensor in tensors})
    raise NoUpstreamCodeError(
        "upstream's `.apr` has no code for a block type of this model",
        where=where,
        expected=", ".join(kind.label for kind in layout.UPSTREAM_TYPES),
        found=f"{', '.join(kind.label for kind in kinds)} in {len(tensors)} of "
        f"{len(ordered)} tensors, the first {tensors[0].name!r}",
        hint="leave --strict out to write codes of our own, which the file announces, "
        "or, where the rows of every matrix are a multiple of 256 long, --quantize q6_k",
    )
