"""`--json`: one strict JSON object on stdout.

Strict is RFC 8259: UTF-8 without half surrogate pairs, and no NaN or infinity, which JSON
does not have. A number that is not finite becomes null, and the object that holds it gets
a sibling that says what it was:

    {"min": null, "min_nonfinite": "Infinity"}

so that a reader never takes text for a number, and nothing is hidden. In a list there is
no place for a sibling: the number becomes null.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import click

JsonValue: TypeAlias = (
    "dict[str, JsonValue] | list[JsonValue] | str | int | float | bool | None"
)

NONFINITE_SUFFIX = "_nonfinite"


def print_json(facts: Mapping[str, object]) -> None:
    """Print one object, indented, in UTF-8 whatever the locale says."""
    click.echo(encode_json(facts).encode("utf-8"))


def encode_json(facts: Mapping[str, object]) -> str:
    """Write one object as text.

    Raises:
        TypeError: a value that is neither JSON's nor a path, an enum or a number of numpy.
    """
    return json.dumps(strict(facts), indent=2, ensure_ascii=False, allow_nan=False)


def strict(value: object) -> JsonValue:
    """Make of a value what JSON has; see the module for numbers that are not finite."""
    if isinstance(value, enum.Enum):
        return strict(value.value)
    if hasattr(value, "tolist"):  # numpy's scalars and arrays, without importing numpy
        return strict(value.tolist())
    if isinstance(value, Mapping):
        return _strict_object(value)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
        return [strict(item) for item in value]
    return _strict_scalar(value)


def nonfinite_name(number: float) -> str:
    """What a number that is not finite is called."""
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"


def _strict_scalar(value: object) -> JsonValue:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (str, Path)):
        # A file name that is not UTF-8 arrives with half surrogate pairs in it.
        return str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def _strict_object(facts: Mapping[object, object]) -> dict[str, JsonValue]:
    result: dict[str, JsonValue] = {}
    for key, value in facts.items():
        name = str(strict(str(key)))
        result[name] = strict(value)
        if hasattr(value, "item") and not getattr(value, "shape", ()):
            value = value.item()  # noqa: PLW2901 - numpy's float32 is no float of Python's
        if isinstance(value, float) and not math.isfinite(value):
            result[name + NONFINITE_SUFFIX] = nonfinite_name(value)
    return result
