"""JSON objects inside model files: bytes <-> dict, strict, with limits.

`.apr` keeps its metadata as JSON, safetensors its header, Hugging Face the configuration
and the tokenizer beside it. JSON is read as RFC 8259 has it: UTF-8, no NaN or infinity,
and no half of a surrogate pair; of two equal keys the last counts, as serde_json and
Python have it. The limits are ours: 64 MiB, several times the largest tokenizer in use,
and 64 levels, so that whatever walks the object afterwards cannot run out of stack.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, NoReturn

from cotejar.errors import MetadataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_JSON_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 64

# Only an escape can smuggle half a surrogate pair past the UTF-8 decoder.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_HINT = "the file is damaged, or its writer is at fault: convert the model again"
_WRITE_HINT = "the source says something that cannot be: correct its metadata"


def parse_json_object(data: bytes, *, where: str, unique: bool = False) -> dict[str, object]:
    """Read a JSON object.

    Args:
        data: the JSON.
        where: whose it is, for an error.
        unique: refuse an object that has a key twice.

    Raises:
        MetadataError: not UTF-8, not JSON, no object, nested too deep, a key twice.
    """
    text, value = _decode(data, where, unique=unique)
    if not isinstance(value, dict):
        _refuse(
            "the JSON is no object",
            where=where,
            expected="an object: {...}",
            found=f"{_json_kind(value)}: {text.strip()[:20]!r}",
        )
    _check_nesting(value, where)
    # Without the escaped backslashes, `\ud` can only be an escape.
    if _SURROGATE.search(text.replace("\\\\", "")):
        _check_surrogates(value, where)
    return value


def encode_json_object(metadata: Mapping[str, object], *, where: str) -> bytes:
    """Write a JSON object, in the order of its keys and without spaces.

    Raises:
        MetadataError: it holds a NaN, a lone surrogate, or more than 64 MiB.
    """
    try:
        text = json.dumps(metadata, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        data = text.encode("utf-8")
    except ValueError as error:
        _refuse(
            "the metadata cannot be written as JSON",
            where=where,
            expected="text that is UTF-8 and finite numbers",
            found=str(error)[:120],
            hint=_WRITE_HINT,
        )
    if len(data) > MAX_JSON_BYTES:
        _refuse(
            "the metadata is too long",
            where=where,
            expected=f"at most {MAX_JSON_BYTES} bytes of JSON",
            found=f"{len(data)} bytes",
            hint=_WRITE_HINT,
        )
    return data


def _decode(data: bytes, where: str, *, unique: bool) -> tuple[str, object]:
    """The JSON as text, and what it says."""
    hook = _refuse_repeated if unique else None
    try:
        text = data.decode("utf-8")
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=hook)
    except UnicodeDecodeError as error:
        _refuse(
            "the JSON is not UTF-8",
            where=f"{where}, byte {error.start} of {len(data)}",
            expected="UTF-8",
            found=f"byte 0x{data[error.start]:02x}: {error.reason}",
        )
    except json.JSONDecodeError as error:
        _refuse(
            "the JSON cannot be read",
            where=f"{where}, character {error.pos} of {len(text)}",
            expected="JSON",
            found=f"{error.msg}: {text[error.pos : error.pos + 20]!r}",
        )
    except _RepeatedKeyError as error:
        _refuse(
            "a key is there twice in the JSON",
            where=where,
            expected="every key of an object once",
            found=f"{str(error)[:80]!r} again",
        )
    except ValueError as error:  # a NaN, or an integer of thousands of digits
        _refuse(
            "the JSON holds a number that JSON does not have",
            where=where,
            expected="finite numbers of a sensible length",
            found=str(error).partition(";")[0],
        )
    except RecursionError:
        _refuse_depth(where)
    return text, value


def _check_nesting(value: dict[str, object], where: str) -> None:
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _containers(outer)]
        if not level:
            return
    _refuse_depth(where)


def _containers(outer: object) -> Iterable[object]:
    """What `outer` holds that can hold more. Token lists hold nothing: found fast."""
    inner = outer.values() if isinstance(outer, dict) else outer
    assert isinstance(inner, (list, type({}.values())))
    if {dict, list}.isdisjoint(map(type, inner)):
        return ()
    return (item for item in inner if isinstance(item, (dict, list)))


def _check_surrogates(value: object, where: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        _refuse(
            "a string in the JSON is half of a surrogate pair",
            where=where,
            expected="text that can be written as UTF-8",
            found=f"U+{ord(str(error.object)[error.start]):04X}",
        )


class _RepeatedKeyError(Exception):
    """Its text is the key."""


def _refuse_repeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _RepeatedKeyError(next(key for key, count in counts.items() if count > 1))
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _refuse_depth(where: str) -> NoReturn:
    _refuse(
        "the JSON is nested too deep",
        where=where,
        expected=f"at most {MAX_DEPTH} levels",
        found=f"more than {MAX_DEPTH} levels",
    )


def _refuse(
    problem: str, *, where: str, expected: str, found: str, hint: str = _HINT
) -> NoReturn:
    raise MetadataError(problem, where=where, expected=expected, found=found, hint=hint)


def _json_kind(value: object) -> str:
    kinds = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")
