"""Write a GGUF v3, little-endian: one tensor in memory at a time, whole or not at all."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import MetadataError, TensorNameError, TensorShapeError, UnknownDtypeError
from cotejar.formats.atomic import atomic_write
from cotejar.formats.gguf.metadata import MAX_KEY_BYTES
from cotejar.formats.gguf.reader import ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC
from cotejar.formats.gguf.tensor_table import (
    MAX_DIMS,
    MAX_NAME_BYTES,
    NO_GGML_TYPES,
    align_up,
    require_shape,
)
from cotejar.formats.gguf.value import GgufValue, ValueType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import BinaryIO

    from jaxtyping import UInt8

    from cotejar.quant.block_type import BlockType

    Bytes = UInt8[np.ndarray, "num_bytes"]

VERSION = 3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GgufTensor:
    """A tensor to write."""

    name: str
    """UTF-8, 1..64 bytes."""
    block_type: BlockType
    shape: tuple[int, ...]
    """Row-major: `(rows, columns)`; the file gets the reverse."""
    data: Bytes | Callable[[], Bytes | Iterable[Bytes]]
    """The bytes; or what returns them, whole or in chunks, called when they are written."""

    @property
    def num_bytes(self) -> int:
        """Bytes that the blocks take."""
        return self.block_type.num_bytes(math.prod(self.shape))


def write_gguf(
    path: str | Path,
    *,
    metadata: Mapping[str, GgufValue],
    tensors: Iterable[GgufTensor],
    alignment: int | None = None,
    overwrite: bool = False,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write the keys and tensors in the order given; see `atomic_write`.

    Args:
        path: the output.
        metadata: the keys; `GgufFile.typed_metadata` copies those of a file.
        tensors: the tensors; their bytes are asked for one after the other.
        alignment: where tensors may begin, a power of two; None for what the metadata
            says, or 32. Another than 32 is added to the metadata.
        overwrite: whether an older output may be replaced.
        check: see `atomic_write`.

    Raises:
        MetadataError: a key too long, or an alignment that contradicts the metadata.
        TensorNameError: a name that is empty, too long, or there twice.
        TensorShapeError: a shape with no place in a GGUF.
        UnknownDtypeError: a type of `.apr` that GGUF has not.
        FileError: the output cannot be written.
    """
    path = Path(path)
    tensors = list(tensors)
    metadata, alignment = _settle_alignment(path, metadata, alignment)
    _require_names(path, tensors)
    header = bytearray(struct.pack("<4sIQQ", MAGIC, VERSION, len(tensors), len(metadata)))
    for key, value in metadata.items():
        header += _encode_key(path, key)
        header += struct.pack("<I", value.value_type) + value.payload
    offset = 0
    for tensor in tensors:
        header += _encode_line(path, tensor, offset)
        offset = align_up(offset + tensor.num_bytes, alignment)
    header += bytes(align_up(len(header), alignment) - len(header))
    with atomic_write(path, overwrite=overwrite, check=check) as output:
        output.write(header)
        for tensor in tensors:
            _write_tensor(output, tensor)
            output.write(bytes(align_up(tensor.num_bytes, alignment) - tensor.num_bytes))


def _settle_alignment(
    path: Path, metadata: Mapping[str, GgufValue], alignment: int | None
) -> tuple[Mapping[str, GgufValue], int]:
    stated = metadata[ALIGNMENT_KEY].decode() if ALIGNMENT_KEY in metadata else None
    wanted = alignment if alignment is not None else stated
    if wanted is None:
        return metadata, DEFAULT_ALIGNMENT
    is_power = isinstance(wanted, int) and 0 < wanted < 1 << 32 and wanted.bit_count() == 1
    if not isinstance(wanted, int) or not is_power or stated not in (None, wanted):
        raise MetadataError(
            "the alignment to write is none, or contradicts the metadata",
            where=str(path),
            expected=f"a power of two, and the {ALIGNMENT_KEY} of the metadata if it has one",
            found=f"alignment {wanted}, {ALIGNMENT_KEY} {stated}",
            hint=f"drop {ALIGNMENT_KEY} from the metadata, or ask for no alignment",
        )
    if stated is None and wanted != DEFAULT_ALIGNMENT:
        stating = GgufValue.encode(ValueType.UINT32, wanted)
        return {**metadata, ALIGNMENT_KEY: stating}, wanted
    return metadata, wanted


def _require_names(path: Path, tensors: list[GgufTensor]) -> None:
    seen: dict[str, int] = {}
    for index, tensor in enumerate(tensors):
        num_bytes = len(_utf8(tensor.name))
        if not 1 <= num_bytes <= MAX_NAME_BYTES or tensor.name in seen:
            raise TensorNameError(
                f"a tensor cannot have the name {tensor.name!r}",
                where=f"{path}, tensor table entry {index}",
                expected=f"1..{MAX_NAME_BYTES} bytes of UTF-8, each name once",
                found=f"{num_bytes} bytes of UTF-8"
                if tensor.name not in seen
                else f"it is also tensor table entry {seen[tensor.name]}",
                hint="GGUF allows no other: rename the tensor",
            )
        seen[tensor.name] = index


def _utf8(text: str) -> bytes:
    """Encode a name; one with half a surrogate pair has no UTF-8 and gives no bytes."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return b""


def _encode_key(path: Path, key: str) -> bytes:
    data = _utf8(key)
    if not 1 <= len(data) <= MAX_KEY_BYTES:
        raise MetadataError(
            "a metadata key has a length that GGUF does not allow",
            where=f"{path}, key {key[:60]!r}",
            expected=f"1..{MAX_KEY_BYTES} bytes of UTF-8",
            found=f"{len(data)} bytes of UTF-8",
            hint="rename or drop the key",
        )
    return struct.pack("<Q", len(data)) + data


def _encode_line(path: Path, tensor: GgufTensor, offset: int) -> bytes:
    where = f"{path}, tensor {tensor.name!r}"
    if tensor.block_type in NO_GGML_TYPES:
        raise UnknownDtypeError(
            "GGUF has no such tensor type",
            where=where,
            expected="a type of ggml",
            found=tensor.block_type.label,
            hint="quantize it again, to Q8_0 or Q4_0",
        )
    num_dims = len(tensor.shape)
    if not 1 <= num_dims <= MAX_DIMS:
        raise TensorShapeError(
            "a tensor has a number of dimensions that GGUF does not allow",
            where=where,
            expected=f"1..{MAX_DIMS} dimensions",
            found=str(num_dims),
            hint="reshape the tensor",
        )
    require_shape(tensor.block_type, tensor.shape, where=where)
    name = _utf8(tensor.name)
    return struct.pack(
        f"<Q{len(name)}sI{num_dims}QIQ",
        len(name),
        name,
        num_dims,
        *reversed(tensor.shape),
        tensor.block_type,
        offset,
    )


def _write_tensor(output: BinaryIO, tensor: GgufTensor) -> None:
    """Write the tensor's bytes; a ValueError if they are not as many as its blocks take.

    A function of its own, so that its last chunk is gone before the next tensor's first.
    """
    data = tensor.data if isinstance(tensor.data, np.ndarray) else tensor.data()
    num_bytes = 0
    for chunk in (data,) if isinstance(data, np.ndarray) else data:
        if chunk.dtype != np.uint8:
            raise ValueError(f"{tensor.name!r} needs uint8, got {chunk.dtype}")
        num_bytes += output.write(np.ascontiguousarray(chunk).data)
    if num_bytes != tensor.num_bytes:
        raise ValueError(f"{tensor.name!r} needs {tensor.num_bytes} bytes, got {num_bytes}")
