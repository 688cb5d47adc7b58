"""What CrossHair's stand-ins are compared with CPython on: numbers, truth values and texts."""

from __future__ import annotations

import operator
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from cotejar.contracts.prove.crosshair_engine import Engine

NUMBERS = (-(2**64), -7, -1, 0, 1, 3)
"""Every pair of them is compared."""
TEXTS = ("", "a", ":", "ab", "\ud800", "\U0001f600")
"""The same. Half a pair and a character beyond the first plane are among them."""
CHARACTERS = ("", "a", ":", "\u00b2", "\u0130", "\ud800")
"""Each is looked at alone. `int` refuses the fourth, which is a digit; the lower case of the
fifth is two characters."""

NUMBER_OPERATIONS: dict[str, Callable[[Any, Any], object]] = {
    **{name: getattr(operator, name) for name in ("add", "sub", "mul", "eq", "ne")},
    **{name: getattr(operator, name) for name in ("lt", "le", "gt", "ge")},
    **{name: getattr(operator, name) for name in ("and_", "or_", "xor")},
    "<<": lambda a, b: a << b if 0 <= b < len(NUMBERS) else None,
    ">>": lambda a, b: a >> b if 0 <= b < len(NUMBERS) else None,
    "** and ~": lambda a, b: ~(a**3) + b**2,
    "divmod": lambda a, b: divmod(a, b) if b else None,
    "//": lambda a, b: a // b if b else None,
    "%": lambda a, b: a % b if b else None,
    "min": min,
    "max": max,
    "abs and -": lambda a, b: abs(a) - -b,
    "and": lambda a, b: a > 0 and b > 0,
    "or, not": lambda a, b: a > 0 or not b,
    "truth": lambda a, b: bool(a) is bool(b),
    "chain": lambda a, b: NUMBERS[1] < a <= b,
}
TEXT_OPERATIONS: dict[str, Callable[[Any, Any], object]] = {
    **{name: getattr(operator, name) for name in ("add", "eq", "ne", "lt", "le", "contains")},
    **{name: getattr(str, name) for name in ("startswith", "endswith", "find", "rfind")},
    **{name: getattr(str, name) for name in ("count", "strip", "lstrip", "rstrip")},
    **{name: getattr(str, name) for name in ("removeprefix", "removesuffix")},
    "split": lambda a, b: a.split(b) if b else a.split(),
    "partition": lambda a, b: a.partition(b) if b else None,
    "rpartition": lambda a, b: a.rpartition(b) if b else None,
    "replace": lambda a, b: a.replace(b, "x"),
    "join": lambda a, b: b.join([a, "x", a]),
    "*": lambda a, b: a * len(b),
    "index": lambda a, b: a[len(b)] if len(b) < len(a) else None,
    "slice": lambda a, b: a[len(b) :] + a[: -1 - len(b)] + a[::-1],
    "ord": lambda a, b: [ord(x) - ord(y) for x, y in zip(a, b, strict=False)],
    "truth": lambda a, b: bool(a) is bool(b),
}
CHARACTER_OPERATIONS: dict[str, Callable[[Any, Any], object]] = {
    "isdigit": lambda a, _: a.isdigit(),
    "isdecimal": lambda a, _: a.isdecimal(),
    "isalpha": lambda a, _: a.isalpha(),
    "isspace": lambda a, _: a.isspace(),
    "isupper": lambda a, _: a.isupper(),
    "lower": lambda a, _: a.lower(),
    "upper": lambda a, _: a.upper(),
    "splitlines": lambda a, _: a.splitlines(),
}


def compare_numbers(engine: Engine) -> tuple[int, str]:
    """Every operation on every pair of `NUMBERS`; see `compare`."""
    pairs = [(a, b) for a in NUMBERS for b in NUMBERS]
    return compare(engine, int, pairs, NUMBER_OPERATIONS)


def compare_texts(engine: Engine) -> tuple[int, str]:
    """Every operation on every pair of `TEXTS`, then on each of `CHARACTERS`."""
    pairs = [(a, b) for a in TEXTS for b in TEXTS]
    num_pairs, difference = compare(engine, str, pairs, TEXT_OPERATIONS)
    if difference:
        return num_pairs, difference
    alone = [(character, "") for character in CHARACTERS]
    num_alone, difference = compare(engine, str, alone, CHARACTER_OPERATIONS)
    return num_pairs + num_alone, difference


def compare(
    engine: Engine,
    kind: type,
    pairs: Iterable[tuple[Any, Any]],
    operations: Mapping[str, Callable[[Any, Any], object]],
) -> tuple[int, str]:
    """Compute with stand-ins that can have one value only, and with that value in CPython.

    Returns:
        How many results were compared, and the first that differs, in words.
    """
    compared = 0
    for a, b in pairs:
        right = {name: ascii(operation(a, b)) for name, operation in operations.items()}
        found = _computed_with(engine, kind, a, b, operations)
        if found.keys() != right.keys():
            late = " before the time was up" if time.monotonic() > engine.deadline else ""
            return compared, f"{a!a} and {b!a} were not reached{late}"
        for name, shown in right.items():
            compared += 1
            if found[name] != shown:
                return compared, f"{name} of {a!a} and {b!a} is {found[name]}, not {shown}"
    return compared, ""


def _computed_with(
    engine: Engine,
    kind: type,
    a: object,
    b: object,
    operations: Mapping[str, Callable[[Any, Any], object]],
) -> dict[str, str]:
    made: dict[str, object] = {}
    found: dict[str, str] = {}

    def compute() -> None:
        made.clear()
        x, y = engine.stand_in(kind, "a"), engine.stand_in(kind, "b")
        if x == a and y == b:
            made.update({name: operation(x, y) for name, operation in operations.items()})

    def read(failure: Exception | None) -> bool:
        if failure is None and made:
            found.update({k: ascii(v) for k, v in engine.values_of(made).items()})
        return bool(made)

    engine.explore(compute, read)
    return found
