"""The header of one `.safetensors` file: every tensor's place, checked.

    0..8      u64, little-endian: N, at most 100,000,000
    8..8+N    JSON: {"NAME": {"dtype": "BF16", "shape": [R, C], "data_offsets": [BEGIN, END]}}
    8+N..     the data; offsets count from here

The tensors fill the data without a gap and without sharing a byte; `__metadata__` is an
object of strings. Source: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, TypeGuard

from cotejar.errors import (
    LimitError,
    MetadataError,
    TensorNameError,
    TensorOverlapError,
    TensorRangeError,
    TensorShapeError,
    TrailingDataError,
    UnknownDtypeError,
)
from cotejar.formats.json_object import parse_json_object
from cotejar.formats.model_file import TensorEntry
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from cotejar.formats.mapped_file import MappedFile

MAX_HEADER_BYTES = 100_000_000
MAX_DIMS = 8
METADATA_KEY = "__metadata__"

_LENGTH_BYTES = 8
_BLOCK_TYPES = {"F32": BlockType.F32, "F16": BlockType.F16, "BF16": BlockType.BF16}
_DAMAGED = "the file is damaged: fetch it again"


def read_header(
    mapped: MappedFile, *, part_index: int
) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """Read a file's tensor table, in the order of its JSON, and its `__metadata__`.

    Raises:
        TruncatedError, LimitError: the header does not fit the file, or is too long.
        MetadataError: the JSON is broken, or does not say what it must.
        UnknownDtypeError, TensorShapeError, TensorNameError: a tensor no engine can use.
        TensorRangeError, TensorOverlapError, TrailingDataError: the tensors do not fill
            the data exactly.
    """
    where = str(mapped.path)
    length = int.from_bytes(mapped.bytes(0, _LENGTH_BYTES, "the header's length"), "little")
    if length > MAX_HEADER_BYTES:
        raise LimitError(
            "the header is too long",
            where=where,
            expected=f"at most {MAX_HEADER_BYTES} bytes",
            found=f"{length} bytes",
            hint="is it a safetensors file at all? `apr inspect` tells formats apart",
        )
    data = mapped.bytes(_LENGTH_BYTES, length, "the header")
    values = parse_json_object(data, where=f"{where}, header", unique=True)
    texts = _file_metadata(values.pop(METADATA_KEY, {}), where)
    data_offset = _LENGTH_BYTES + length
    tensors = {
        name: _entry(name, value, data_offset, part_index, where)
        for name, value in values.items()
    }
    _check_ranges(mapped, tensors, data_offset)
    return tensors, texts


def _file_metadata(value: object, where: str) -> dict[str, str]:
    if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
        return value
    raise MetadataError(
        f"{METADATA_KEY} is no object of strings",
        where=f"{where}, header",
        expected='{"key": "text"}',
        found=f"{value!r:.60}",
        hint=_DAMAGED,
    )


def _entry(
    name: str, value: object, data_offset: int, part_index: int, where: str
) -> TensorEntry:
    if not name:
        raise TensorNameError(
            "a tensor has no name",
            where=f"{where}, header",
            expected="a name",
            found="''",
            hint=_DAMAGED,
        )
    where = f"{where}, tensor {name!r}"
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        found = ", ".join(map(repr, value)) if isinstance(value, dict) else f"{value!r:.60}"
        _refuse_entry(where, "an object of dtype, shape and data_offsets", f"{found:.120}")
    block_type = _block_type(value["dtype"], where)
    shape = _shape(value["shape"], where)
    begin, end = _offsets(value["data_offsets"], where)
    entry = TensorEntry(
        name=name,
        block_type=block_type,
        shape=shape,
        part_index=part_index,
        offset_bytes=data_offset + begin,
        num_bytes=end - begin,
    )
    num_bytes = block_type.num_bytes(entry.num_elements)
    if num_bytes != entry.num_bytes:
        raise TensorShapeError(
            "a tensor's shape does not fit its bytes",
            where=where,
            expected=f"{num_bytes} bytes, for {list(shape)} as {block_type.label}",
            found=f"{entry.num_bytes} bytes: data_offsets {[begin, end]}",
            hint=_DAMAGED,
        )
    return entry


def _block_type(value: object, where: str) -> BlockType:
    block_type = _BLOCK_TYPES.get(value) if isinstance(value, str) else None
    if block_type is None:
        raise UnknownDtypeError(
            "a tensor is of a type that is not read here",
            where=where,
            expected=", ".join(_BLOCK_TYPES),
            found=f"{value!r:.60}",
            hint="save the model as float32, float16 or bfloat16, not quantised",
        )
    return block_type


def _shape(value: object, where: str) -> tuple[int, ...]:
    if not _are_counts(value):
        _refuse_entry(where, "a shape: a list of whole numbers", f"{value!r:.60}")
    if len(value) > MAX_DIMS or 0 in value:
        raise TensorShapeError(
            "a tensor has a shape that no weight has",
            where=where,
            expected=f"at most {MAX_DIMS} dimensions, each at least 1",
            found=f"{value!r:.60}",
            hint=_DAMAGED,
        )
    return tuple(value)


def _offsets(value: object, where: str) -> tuple[int, int]:
    if not _are_counts(value) or len(value) != 2 or value[0] > value[1]:  # noqa: PLR2004 - a pair
        _refuse_entry(where, "data_offsets: [begin, end], ascending", f"{value!r:.60}")
    return value[0], value[1]


def _are_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _refuse_entry(where: str, expected: str, found: str) -> NoReturn:
    raise MetadataError(
        "the header does not describe a tensor",
        where=where,
        expected=expected,
        found=found,
        hint=_DAMAGED,
    )


def _check_ranges(
    mapped: MappedFile, tensors: dict[str, TensorEntry], data_offset: int
) -> None:
    """Each begins where the one before it ends, and the last ends with the file."""
    end, previous = data_offset, "the header"
    for entry in sorted(tensors.values(), key=lambda entry: entry.offset_bytes):
        stop = entry.offset_bytes + entry.num_bytes
        where = f"{mapped.path}, tensor {entry.name!r}"
        if stop > mapped.size_bytes:
            raise TensorRangeError(
                f"the tensor {entry.name!r} runs past the end of the file",
                where=where,
                expected=f"bytes {entry.offset_bytes}..{stop}",
                found=f"the file ends at byte {mapped.size_bytes}",
                hint="the file is cut short or damaged: fetch it again",
            )
        if entry.offset_bytes < end:
            raise TensorOverlapError(
                f"the tensors {previous} and {entry.name!r} share bytes",
                where=where,
                expected=f"bytes from {end} on, where {previous} ends",
                found=f"bytes {entry.offset_bytes}..{stop}",
                hint=_DAMAGED,
            )
        if entry.offset_bytes > end:
            raise TensorRangeError(
                f"there is a hole before the tensor {entry.name!r}",
                where=where,
                expected=f"it to begin at byte {end}, where {previous} ends",
                found=f"byte {entry.offset_bytes}",
                hint=_DAMAGED,
            )
        end, previous = stop, repr(entry.name)
    if mapped.size_bytes > end:
        raise TrailingDataError(
            "the file goes on after its last tensor",
            where=str(mapped.path),
            expected=f"{end} bytes",
            found=f"{mapped.size_bytes} bytes",
            hint=_DAMAGED,
        )
