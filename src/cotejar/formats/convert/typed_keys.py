"""GGUF keys inside `.apr` metadata: typed, in order, and nothing stored twice.

JSON has one kind of number, GGUF ten. So that an export can restore every key exactly,
an import keeps them under `gguf.metadata` as a list in the file's order:

    ["general.architecture", "STRING", "llama"]
    ["llama.block_count", "UINT32", 30]
    ["general.languages", "ARRAY[STRING]", ["en"]]
    ["tokenizer.ggml.tokens", "ARRAY[STRING]", {"same_as": "tokenizer.vocabulary"}]

`same_as` points to the key of the `.apr` that holds the same list. A float that JSON has
no number for, NaN or infinity, is written as its bits: {"bits": "7fc00000"}.
`gguf.tensors` lists the tensors in the order of the GGUF, by its names.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from cotejar.errors import MetadataError
from cotejar.formats.gguf.value import GgufValue, ValueType

if TYPE_CHECKING:
    from collections.abc import Mapping

KEYS_KEY = "gguf.metadata"
TENSORS_KEY = "gguf.tensors"

# For each float type its numpy code, and that of the integer with the same bits.
_FLOAT_CODES = {ValueType.FLOAT32: ("<f4", "<u4"), ValueType.FLOAT64: ("<f8", "<u8")}
_ARRAY_HEAD_BYTES = 12
_BITS = re.compile(r"[0-9a-f]+")


def encode_keys(
    typed: Mapping[str, GgufValue], shared: Mapping[str, str], *, where: str
) -> list[object]:
    """Turn typed keys into what JSON can hold.

    Args:
        typed: the keys in order.
        shared: for a GGUF key whose value stands under another key as well, that key.
        where: the file, for an error.

    Raises:
        MetadataError: a string is not UTF-8.
    """
    entries: list[object] = []
    for key, value in typed.items():
        element_type = value.element_type
        kind = value.value_type.name
        if element_type is not None:
            kind = f"{kind}[{element_type.name}]"
        if key in shared:
            entries.append([key, kind, {"same_as": shared[key]}])
        else:
            entries.append([key, kind, _to_json(value, f"{where}, key {key!r}")])
    return entries


def decode_keys(metadata: Mapping[str, object], *, where: str) -> dict[str, GgufValue]:
    """Turn `gguf.metadata` back into typed keys.

    Raises:
        MetadataError: it is malformed, or a value does not fit its type.
    """
    entries = metadata[KEYS_KEY]
    if not isinstance(entries, list):
        _refuse(where, "a list of [key, type, value]", entries)
    typed: dict[str, GgufValue] = {}
    for entry in entries:
        match entry:
            case [str(key), str(kind), value] if key not in typed:
                typed[key] = _from_json(kind, value, metadata, f"{where}, {key!r}")
            case _:
                _refuse(where, "[key, type, value], each key once", entry)
    return typed


def has_number_for_all(value: GgufValue) -> bool:
    """Whether JSON has a number for every float in the value; true for all else."""
    floats = _floats(value)
    return floats is None or bool(np.isfinite(floats).all())


def _floats(value: GgufValue) -> np.ndarray | None:
    kind = value.element_type or value.value_type
    if kind not in _FLOAT_CODES:
        return None
    payload = value.payload if value.element_type is None else value.payload[_ARRAY_HEAD_BYTES:]
    return np.frombuffer(payload, dtype=_FLOAT_CODES[kind][0])


def _to_json(value: GgufValue, where: str) -> object:
    floats = _floats(value)
    if floats is None:
        return value.decode(where=where)
    numbers: list[object] = floats.tolist()
    digits = 2 * floats.itemsize
    for i in np.flatnonzero(~np.isfinite(floats)).tolist():
        bits = int.from_bytes(floats[i : i + 1].tobytes(), "little")
        numbers[i] = {"bits": f"{bits:0{digits}x}"}
    return numbers if value.element_type is not None else numbers[0]


def _from_json(
    kind: str, value: object, metadata: Mapping[str, object], where: str
) -> GgufValue:
    is_array = kind.startswith("ARRAY[") and kind.endswith("]")
    name = kind[len("ARRAY[") : -1] if is_array else kind
    if name not in ValueType.__members__ or name == "ARRAY":
        _refuse(where, "a type of GGUF, or ARRAY[TYPE]", kind)
    value_type = ValueType[name]
    match value:
        case {"same_as": str(other)}:
            if other not in metadata:
                _refuse(where, f"the key {other!r} in the metadata", "no such key")
            value = metadata[other]
        case _:
            pass
    values = value if is_array else [value]
    if not isinstance(values, list):
        _refuse(where, "a list", values)
    if value_type in _FLOAT_CODES:
        payload = _pack_floats(value_type, values, where)
    else:
        payload = GgufValue.encode_array(value_type, values, where=where).payload
        payload = payload[_ARRAY_HEAD_BYTES:]
    if not is_array:
        return GgufValue(value_type=value_type, payload=payload)
    head = GgufValue.encode_array(value_type, [], where=where).payload[:4]
    return GgufValue(
        value_type=ValueType.ARRAY,
        payload=head + len(values).to_bytes(8, "little") + payload,
    )


def _pack_floats(value_type: ValueType, values: list[object], where: str) -> bytes:
    """Narrow finite numbers; bits are put in as they are."""
    float_code, bits_code = _FLOAT_CODES[value_type]
    numbers = np.zeros(len(values), dtype=float_code)
    bits = numbers.view(bits_code)
    digits = 2 * bits.itemsize
    largest = float(np.finfo(numbers.dtype).max)
    for i, value in enumerate(values):
        match value:
            case {"bits": str(text)} if _BITS.fullmatch(text) and len(text) == digits:
                bits[i] = int(text, 16)
            case bool():
                _refuse(where, f"a {value_type.name}", value)
            case int() | float() if abs(value) <= largest:
                numbers[i] = value
            case _:
                _refuse(where, f"a {value_type.name}", value)
    return numbers.tobytes()


def _refuse(where: str, expected: str, found: object) -> NoReturn:
    raise MetadataError(
        f"{KEYS_KEY} does not describe the keys of a GGUF",
        where=where,
        expected=expected,
        found=f"{found!r:.80}",
        hint="import the model again from its source",
    )
