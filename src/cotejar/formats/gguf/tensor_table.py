"""The tensor table of a GGUF: every line checked against the format and the file.

A line is the name (a string), the number of dimensions (uint32), the dimensions (uint64
each, the fastest first: columns before rows), the type (uint32, `enum ggml_type`) and the
offset (uint64) from the start of the data section.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from cotejar.errors import (
    AlignmentError,
    TensorNameError,
    TensorOverlapError,
    TensorRangeError,
    TensorShapeError,
    TrailingDataError,
    UnknownDtypeError,
)
from cotejar.formats.model_file import TensorEntry
from cotejar.quant.block_type import BlockType, ListedType

if TYPE_CHECKING:
    from cotejar.formats.gguf.cursor import Cursor
    from cotejar.formats.mapped_file import MappedFile

MAX_TENSORS = 1 << 20
MAX_NAME_BYTES = 64
"""The specification's own limit."""
MAX_DIMS = 4
"""`GGML_MAX_DIMS`."""
MAX_ELEMENTS = (1 << 63) - 1
"""ggml counts elements in an int64."""

NO_GGML_TYPES = (BlockType.APR_Q4, BlockType.APR_Q8)

_LINE_MIN_BYTES = 8 + 1 + 4 + 8 + 4 + 8  # name's length, a letter, 1 dimension, type, offset
_KNOWN: dict[int, BlockType | ListedType] = {
    int(kind): kind for kind in (*BlockType, *ListedType) if kind not in NO_GGML_TYPES
}
_DROPPED = (4, 5, 31, 32, 33, 36, 37, 38)
"""Numbers of types that ggml had and dropped; it gives them no size any more."""


def align_up(offset: int, alignment: int) -> int:
    """The first multiple of `alignment` at or after `offset`."""
    return -(-offset // alignment) * alignment


def read_tensor_table(cursor: Cursor, num_tensors: int, alignment: int) -> list[TensorEntry]:
    """Read the table at the cursor and check that its tensors fill the file without clash.

    Padding of any length between tensors is allowed, and up to the alignment at the end.

    Returns:
        The tensors in the table's order, as of a model's first part.

    Raises:
        FormatError: one of its kinds for each rule: names, shapes, types, ranges, overlap,
            alignment, bytes that belong to no tensor.
    """
    cursor.limit(num_tensors, max_count=MAX_TENSORS, min_bytes=_LINE_MIN_BYTES, what="tensors")
    seen: dict[str, int] = {}
    lines = []
    for index in range(num_tensors):
        name = _read_name(cursor, index, seen)
        lines.append((name, *_read_layout(cursor, f"{name!r}, tensor table entry {index}")))
    data_start = align_up(cursor.offset, alignment)
    entries = []
    for index, (name, block_type, shape, offset) in enumerate(lines):
        entry = TensorEntry(
            name=name,
            block_type=block_type,
            shape=shape,
            part_index=0,
            offset_bytes=data_start + offset,
            num_bytes=block_type.num_bytes(math.prod(shape)),
        )
        _require_place(cursor.file, entry, index, data_start, alignment)
        entries.append(entry)
    _require_disjoint(cursor.file, entries)
    end = max(
        (entry.offset_bytes + entry.num_bytes for entry in entries), default=cursor.offset
    )
    _require_end(cursor.file, end, alignment)
    return entries


def _read_name(cursor: Cursor, index: int, seen: dict[str, int]) -> str:
    what = f"the name of tensor table entry {index}"
    start = cursor.offset
    num_bytes = cursor.u64(f"the length of {what}")
    data = cursor.take(num_bytes, what) if num_bytes <= MAX_NAME_BYTES else b""
    try:
        name = data.decode("utf-8")
    except UnicodeDecodeError:
        name = ""
    if not name:
        raise TensorNameError(
            f"{what} is no name",
            where=f"{cursor.file.path}, byte {start}",
            expected=f"UTF-8, 1..{MAX_NAME_BYTES} bytes",
            found=f"{num_bytes} bytes: {data.hex(' ')}" if data else f"{num_bytes} bytes",
            hint="the file is damaged: fetch or copy it again",
        )
    if name in seen:
        raise TensorNameError(
            f"the tensor name {name!r} is there twice",
            where=f"{cursor.file.path}, tensor table entry {index}",
            expected="each name once",
            found=f"it is also tensor table entry {seen[name]}",
            hint="the file was put together wrongly: fetch or convert it again",
        )
    seen[name] = index
    return name


def _read_layout(
    cursor: Cursor, who: str
) -> tuple[BlockType | ListedType, tuple[int, ...], int]:
    """Read what follows a name: block type, row-major shape, offset in the data section."""
    where = f"{cursor.file.path}, tensor {who}"
    num_dims = cursor.u32(f"the number of dimensions of {who}")
    if not 1 <= num_dims <= MAX_DIMS:
        raise TensorShapeError(
            "a tensor has a number of dimensions that cannot be",
            where=where,
            expected=f"1..{MAX_DIMS} dimensions",
            found=str(num_dims),
            hint="the file is damaged: fetch or copy it again",
        )
    dims = [cursor.u64(f"dimension {axis} of {who}") for axis in range(num_dims)]
    type_id = cursor.u32(f"the type of {who}")
    offset = cursor.u64(f"the offset of {who}")
    block_type = _KNOWN.get(type_id)
    if block_type is None:
        raise _unknown_type(type_id, where)
    shape = tuple(reversed(dims))
    require_shape(block_type, shape, where=where)
    return block_type, shape, offset


def require_shape(
    block_type: BlockType | ListedType, shape: tuple[int, ...], *, where: str
) -> None:
    """Refuse a row-major shape that is empty, overflows, or breaks a block in two.

    Raises:
        TensorShapeError: it is one of these.
    """
    text = " x ".join(str(size) for size in shape)
    if not 0 < math.prod(shape) <= MAX_ELEMENTS:
        raise TensorShapeError(
            "a tensor's shape is empty, or larger than any memory",
            where=where,
            expected=f"1..{MAX_ELEMENTS} elements",
            found=f"{text}: {math.prod(shape)} elements",
            hint="the file is damaged: fetch or copy it again",
        )
    if shape[-1] % block_type.elements_per_block:
        raise TensorShapeError(
            "a tensor's rows are not whole blocks",
            where=where,
            expected=f"columns in multiples of {block_type.elements_per_block}, "
            f"the block of {block_type.label}",
            found=f"{text}: {shape[-1]} columns",
            hint="keep such a tensor in F32, F16 or BF16, or fetch the file again",
        )


def _unknown_type(type_id: int, where: str) -> UnknownDtypeError:
    known = ", ".join(f"{number} ({kind.label})" for number, kind in sorted(_KNOWN.items()))
    is_dropped = type_id in _DROPPED
    return UnknownDtypeError(
        "a tensor has a type that is not known",
        where=where,
        expected=f"one of the ggml types {known}",
        found=f"{type_id}, which ggml dropped" if is_dropped else f"{type_id}",
        hint="convert the model again with a current llama.cpp"
        if is_dropped
        else "the file is damaged, or newer than this program: fetch it again",
    )


def _describe(entry: TensorEntry) -> str:
    shape = " x ".join(str(size) for size in entry.shape)
    end = entry.offset_bytes + entry.num_bytes
    return f"bytes {entry.offset_bytes}..{end} ({entry.block_type.label}, {shape})"


def _require_place(
    file: MappedFile, entry: TensorEntry, index: int, data_start: int, alignment: int
) -> None:
    where = f"{file.path}, tensor table entry {index}"
    if (entry.offset_bytes - data_start) % alignment:
        raise AlignmentError(
            f"tensor {entry.name!r} does not begin at a multiple of the alignment",
            where=where,
            expected=f"an offset in multiples of {alignment}",
            found=f"offset {entry.offset_bytes - data_start}",
            hint="the file is damaged, or was written wrongly: fetch or convert it again",
        )
    if entry.offset_bytes + entry.num_bytes > file.size_bytes:
        raise TensorRangeError(
            f"tensor {entry.name!r} runs past the end of the file",
            where=where,
            expected=_describe(entry),
            found=f"the file ends at byte {file.size_bytes}",
            hint="the file is cut short or damaged: fetch or copy it again",
        )


def _require_disjoint(file: MappedFile, entries: list[TensorEntry]) -> None:
    numbers = sorted(range(len(entries)), key=lambda index: entries[index].offset_bytes)
    for first, second in pairwise(numbers):
        one, other = entries[first], entries[second]
        if one.offset_bytes + one.num_bytes > other.offset_bytes:
            raise TensorOverlapError(
                f"tensors {one.name!r} and {other.name!r} share bytes",
                where=f"{file.path}, tensor table entries {first} and {second}",
                expected=f"{one.name!r} to end at or before byte {other.offset_bytes}",
                found=f"{one.name!r} is {_describe(one)}",
                hint="the file is damaged, or was written wrongly: fetch or convert it again",
            )


def _require_end(file: MappedFile, end: int, alignment: int) -> None:
    if file.size_bytes > align_up(end, alignment):
        raise TrailingDataError(
            "the file goes on after its last tensor",
            where=f"{file.path}, byte {end}",
            expected=f"the file to end at byte {align_up(end, alignment)} or before",
            found=f"it ends at byte {file.size_bytes}",
            hint="something was appended, or the tensor table is damaged: fetch it again",
        )
