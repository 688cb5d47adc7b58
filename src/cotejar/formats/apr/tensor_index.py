"""The tensor index of an `.apr` file: entries <-> bytes.

An entry, little-endian, follows the one before it without padding:

    u16  bytes of the name      1..256
         the name               UTF-8
    u8   type code              `layout.CODE_OF_TYPE`
    u8   number of dimensions   1..8
    u64  each dimension         outermost first, at least 1
    u64  offset                 from the start of the data, a multiple of 64
    u64  bytes of the tensor

Entries ascend by the bytes of their names. Upstream's in-memory writer lays the data in
the same order, its streaming writer does not, so offsets need not ascend.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from cotejar.errors import (
    AlignmentError,
    IndexOrderError,
    TensorNameError,
    TensorShapeError,
    TruncatedError,
    UnknownDtypeError,
)
from cotejar.formats.apr import layout
from cotejar.formats.model_file import TensorEntry
from cotejar.quant.block_type import BlockType, ListedType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MIN_ENTRY_BYTES = 2 + 1 + 1 + 1 + 8 + 8 + 8
"""A name of one byte and one dimension."""

_DAMAGED = "the file is damaged: fetch or copy it again, or import the model again"
_PADDED_ROW_TYPES = (BlockType.Q4_K, BlockType.Q6_K)


@dataclass(slots=True)
class _Cursor:
    """A place in the index. `what` names what is read, for an error."""

    data: bytes
    where: str
    offset: int = 0

    def take(self, num_bytes: int, what: str) -> bytes:
        end = self.offset + num_bytes
        if end > len(self.data):
            raise TruncatedError(
                f"{what} runs past the end of the tensor index",
                where=f"{self.where}, byte {self.offset} of the index",
                expected=f"{num_bytes} bytes",
                found=f"{len(self.data) - self.offset} bytes left before the data",
                hint=_DAMAGED,
            )
        start, self.offset = self.offset, end
        return self.data[start:end]

    def unsigned(self, num_bytes: int, what: str) -> int:
        return int.from_bytes(self.take(num_bytes, what), "little")


def parse_tensor_index(
    data: bytes,
    num_tensors: int,
    *,
    data_offset: int,
    announced: Mapping[str, object],
    where: str,
) -> tuple[dict[str, TensorEntry], int]:
    """Read all entries, and how many bytes they take.

    Ranges are not compared with the file here, nor with each other: see `reader`.

    Args:
        data: from the start of the index to the start of the data.
        num_tensors: as the header says; the caller has seen that so many may fit.
        data_offset: of the data, from the start of the file.
        announced: `layout.BLOCK_TYPES_KEY` of the metadata, or nothing.
        where: the file, for errors.

    Raises:
        TruncatedError: an entry runs into the data.
        TensorNameError, IndexOrderError: a name is malformed, there twice, out of order.
        UnknownDtypeError: a type that nobody defines, announces or decodes.
        TensorShapeError: a shape that is empty, or does not fit the type or the bytes.
        AlignmentError: an offset that is no multiple of 64.
    """
    cursor = _Cursor(data, where)
    tensors: dict[str, TensorEntry] = {}
    previous = b""
    for i in range(num_tensors):
        cursor.where = f"{where}, tensor {i} of {num_tensors}"
        name_bytes = _read_name(cursor)
        _require_order(previous, name_bytes, cursor.where)
        entry = _read_entry(cursor, name_bytes.decode("utf-8"), data_offset, announced)
        tensors[entry.name] = entry
        previous = name_bytes
    return tensors, cursor.offset


def encode_entry(entry: TensorEntry, *, data_offset: int) -> bytes:
    """The bytes of one entry. The writer has checked its name and shape."""
    name = entry.name.encode("utf-8")
    return b"".join(
        [
            struct.pack("<H", len(name)),
            name,
            struct.pack(
                "<BB", layout.CODE_OF_TYPE[BlockType(entry.block_type)], len(entry.shape)
            ),
            struct.pack(f"<{len(entry.shape)}Q", *entry.shape),
            struct.pack("<QQ", entry.offset_bytes - data_offset, entry.num_bytes),
        ]
    )


def require_name(name_bytes: bytes, where: str) -> None:
    """Refuse a name that is empty, too long, or no UTF-8.

    Raises:
        TensorNameError: it is.
    """
    expected = f"1..{layout.MAX_NAME_BYTES} bytes of UTF-8"
    hint = "the file is damaged, or its writer is at fault: convert the model again"
    if not 1 <= len(name_bytes) <= layout.MAX_NAME_BYTES:
        raise TensorNameError(
            "a tensor name has an impossible length",
            where=where,
            expected=expected,
            found=f"{len(name_bytes)} bytes",
            hint=hint,
        )
    try:
        name_bytes.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TensorNameError(
            "a tensor name is not UTF-8",
            where=where,
            expected=expected,
            found=f"byte 0x{name_bytes[error.start]:02x} at {error.start}: {error.reason}",
            hint=hint,
        ) from error


def require_shape(
    block_type: BlockType | ListedType, shape: tuple[int, ...], where: str
) -> None:
    """Refuse a shape that `block_type` cannot have.

    The rows of a type of ggml's are whole blocks; APR_Q4 cuts the tensor into blocks
    whatever its rows, and pads the last; the block of APR_Q8 is the tensor.

    Raises:
        TensorShapeError: no dimension, too many, one of 0, or a row that is no whole
            number of blocks.
    """
    if not 1 <= len(shape) <= layout.MAX_DIMS:
        _refuse_shape(where, f"1..{layout.MAX_DIMS} dimensions", f"{len(shape)}")
    if 0 in shape:
        _refuse_shape(where, "dimensions of at least 1", f"{shape}")
    size = block_type.elements_per_block
    if block_type is not BlockType.APR_Q4 and shape[-1] % size:
        _refuse_shape(
            where,
            f"rows of a multiple of {size} values, the block of {block_type.label}",
            f"rows of {shape[-1]} values in {shape}",
        )


def _read_name(cursor: _Cursor) -> bytes:
    length = cursor.unsigned(2, "the length of a name")
    if length > layout.MAX_NAME_BYTES:  # before it is read: it may not be there
        require_name(bytes(length), cursor.where)
    name_bytes = cursor.take(length, "a name")
    require_name(name_bytes, cursor.where)
    return name_bytes


def _require_order(previous: bytes, name_bytes: bytes, where: str) -> None:
    if previous < name_bytes:
        return
    name, before = name_bytes.decode("utf-8"), previous.decode("utf-8")
    if previous == name_bytes:
        raise TensorNameError(
            f"the tensor {name!r} is there twice",
            where=where,
            expected="every name once",
            found=f"{name!r} again",
            hint="the writer is at fault: convert the model again",
        )
    raise IndexOrderError(
        "the tensor index is out of order",
        where=where,
        expected=f"a name after {before!r}, by its bytes",
        found=repr(name),
        hint="the writer is at fault: convert the model again",
    )


def _read_entry(
    cursor: _Cursor, name: str, data_offset: int, announced: Mapping[str, object]
) -> TensorEntry:
    where = f"{cursor.where}, {name!r}"
    code = cursor.unsigned(1, "a type code")
    block_type = _block_type(code, announced, where)
    num_dims = cursor.unsigned(1, "a number of dimensions")
    if not 1 <= num_dims <= layout.MAX_DIMS:
        _refuse_shape(where, f"1..{layout.MAX_DIMS} dimensions", f"{num_dims}")
    shape = struct.unpack(f"<{num_dims}Q", cursor.take(8 * num_dims, "a shape"))
    offset = cursor.unsigned(8, "an offset")
    num_bytes = cursor.unsigned(8, "a size")
    if offset % layout.ALIGNMENT:
        raise AlignmentError(
            f"the bytes of {name!r} begin at an odd place",
            where=where,
            expected=f"an offset that is a multiple of {layout.ALIGNMENT}",
            found=f"{offset}",
            hint=_DAMAGED,
        )
    entry = TensorEntry(
        name=name,
        block_type=block_type,
        shape=shape,
        part_index=0,
        offset_bytes=data_offset + offset,
        num_bytes=num_bytes,
    )
    _require_size(entry, where)
    return entry


def _block_type(code: int, announced: Mapping[str, object], where: str) -> BlockType:
    """The type of a code. Never guessed: a wrong type is a wrong model."""
    block_type = layout.TYPE_OF_CODE.get(code)
    if block_type is None:
        _refuse_code(code, where)
    if code == block_type:  # upstream's own
        return block_type
    label = announced.get(str(code))
    if label != block_type.label:
        raise UnknownDtypeError(
            f"the type code {code} is not announced",
            where=where,
            expected=f'"{code}": "{block_type.label}" in the metadata key '
            f"{layout.BLOCK_TYPES_KEY}",
            found="nothing for it" if label is None else f"{label!r}",
            hint="import the model again with `apr import`",
        )
    return block_type


def _refuse_code(code: int, where: str) -> NoReturn:
    if code in layout.LEGACY_CODES:
        problem = f"the type code {code} has had two meanings"
        found = f"{code}: {layout.LEGACY_CODES[code]} in old files, a type of ggml in others"
        hint = "convert the model again with a current writer; `apr import` is one"
    elif code in layout.CODES_WITHOUT_CODEC:
        problem = "a tensor is of a type that no weight has"
        found = f"{code}: {layout.CODES_WITHOUT_CODEC[code]}"
        hint = "store weights as F32, F16 or BF16, and leave other data out"
    else:
        problem, found = "a tensor is of a type that nobody defines", f"{code}"
        hint = _DAMAGED
    known = ", ".join(f"{known} {kind.label}" for kind, known in _by_code())
    raise UnknownDtypeError(problem, where=where, expected=known, found=found, hint=hint)


def _by_code() -> Iterator[tuple[BlockType, int]]:
    return iter(sorted(layout.CODE_OF_TYPE.items(), key=lambda item: item[1]))


def _require_size(entry: TensorEntry, where: str) -> None:
    columns, size = entry.shape[-1], entry.block_type.elements_per_block
    if entry.block_type in _PADDED_ROW_TYPES and columns % size:
        padded = entry.num_elements // columns * entry.block_type.num_bytes(columns)
        if entry.num_bytes == padded:
            _refuse_shape(
                where,
                f"rows of a multiple of {size} values, the block of {entry.block_type.label}",
                f"rows of {columns} values, each padded to {-(-columns // size) * size}",
                hint="upstream pads such rows and this reader does not support it: "
                "import the model again from its source",
            )
    require_shape(entry.block_type, entry.shape, where)
    num_bytes = entry.block_type.num_bytes(entry.num_elements)
    if entry.num_bytes != num_bytes:
        _refuse_shape(
            where,
            f"{num_bytes} bytes, for {entry.shape} as {entry.block_type.label}",
            f"{entry.num_bytes} bytes",
        )


def _refuse_shape(where: str, expected: str, found: str, hint: str = _DAMAGED) -> NoReturn:
    raise TensorShapeError(
        "a tensor's shape does not fit its type or its bytes",
        where=where,
        expected=expected,
        found=found,
        hint=hint,
    )
