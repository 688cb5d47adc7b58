"""What a plain YAML scalar means: the rules of serde_yaml 0.9, not of PyYAML.

| text                              | here and upstream | PyYAML's safe loader |
| --------------------------------- | ----------------- | -------------------- |
| `1e-5`                            | a float           | a string             |
| `2026-04-01`                      | a string          | a date               |
| `yes` `no` `on` `off`             | strings           | booleans             |
| `045`                             | a string          | 37                   |
| `2_000_000`                       | a string          | an integer           |
| `12:30`                           | a string          | 750                  |
| `0o17` `0b101`                    | integers          | a string; 5          |

Text in, values out; nothing here knows about nodes or files.
"""

from __future__ import annotations

import math
import re

NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_INFINITIES = {
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
# Rust's f64 grammar without its words for infinity; one sign, ASCII digits only.
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"([+-]?)(?:0x([0-9A-Fa-f]+)|0o([0-7]+)|0b([01]+)|([0-9]+))")
_LEADING_ZERO = re.compile(r"[+-]?0[0-9]+")
_MAX_DIGITS = 400
"""Longer numbers fit no field; Python's own conversion limit is never reached."""


def parse_bool(text: str) -> bool | None:
    """`true` and `false` in three spellings; None for all other text."""
    if text in _TRUE:
        return True
    return False if text in _FALSE else None


def parse_integer(text: str) -> int | None:
    """Decimal, `0x`, `0o` or `0b`, with a sign; a leading zero makes it a string."""
    match = _INTEGER.fullmatch(text)
    if match is None or len(text) > _MAX_DIGITS or _LEADING_ZERO.fullmatch(text):
        return None
    sign, hexadecimal, octal, binary, decimal = match.groups()
    if hexadecimal is not None:
        magnitude = int(hexadecimal, 16)
    elif octal is not None:
        magnitude = int(octal, 8)
    elif binary is not None:
        magnitude = int(binary, 2)
    else:
        magnitude = int(decimal)
    return -magnitude if sign == "-" else magnitude


def parse_float(text: str) -> float | None:
    """A finite decimal number, or one of YAML's words for infinity and NaN."""
    if text in _INFINITIES:
        return _INFINITIES[text]
    if len(text) > _MAX_DIGITS or not _FLOAT.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def resolve(text: str) -> None | bool | int | float | str:
    """The value of a plain scalar where no field asks for a type."""
    if text in NULLS:
        return None
    boolean = parse_bool(text)
    if boolean is not None or text[0].isalpha():  # a number starts with no letter
        return text if boolean is None else boolean
    integer = parse_integer(text)
    if integer is not None:
        return integer
    if _LEADING_ZERO.fullmatch(text):
        return text
    number = parse_float(text)
    return text if number is None else number
