"""What changed in a `parity` block, and whether more or less can pass afterwards.

A gate is known by its metric and its sites. `limit: x` passes values up to x; a `band`
[low, high] on a ratio passes what lies in it, so a wider one passes more.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

LISTS = ("preconditions", "required_sites", "scopes")
"""Lists of which every item must hold: dropping one lets more pass."""
KNOWN = (*LISTS, "gates")


class Effect(enum.Enum):
    """What a change does to a verdict."""

    LOOSER = "lets more pass"
    OTHER_MEANING = "means something else"
    STRICTER = "lets less pass"
    NEUTRAL = "judges the same"

    @property
    def bump_name(self) -> str:
        """The step of the version that it asks for."""
        loose = self in {Effect.LOOSER, Effect.OTHER_MEANING}
        if loose:
            return "MAJOR"
        return "MINOR" if self is Effect.STRICTER else "PATCH"


@dataclass(frozen=True, slots=True)
class Change:
    """One change: its sign (`+`, `-` or `~`), in words, and what it does."""

    sign: str
    text: str
    effect: Effect
    is_first: bool = False
    """A gate, or a whole block, that was not there: it changes no gate that was."""

    @property
    def changes_meaning(self) -> bool:
        """Does a gate that was there judge otherwise than before?"""
        return self.effect is not Effect.NEUTRAL and not self.is_first


def parity_changes(old: Any, new: Any) -> Iterator[Change]:
    """Compare two `parity` blocks, as plain data; None where a contract has none."""
    before, after = _mapping(old), _mapping(new)
    if not before and not after:
        return
    if not before or not after:
        removed = bool(before)
        effect = Effect.LOOSER if removed else Effect.STRICTER
        yield Change("-" if removed else "+", "the block", effect, is_first=not removed)
        return
    for name in LISTS:
        yield from _list_changes(name, _items(before.get(name)), _items(after.get(name)))
    yield from _gate_changes(_gates(before), _gates(after))
    for name in sorted({*before, *after} - set(KNOWN), key=str):
        if before.get(name) != after.get(name):
            yield Change("~", str(name), Effect.NEUTRAL)


def _list_changes(name: str, old: list[str], new: list[str]) -> Iterator[Change]:
    before, after = dict.fromkeys(old), dict.fromkeys(new)
    for item in before:
        if item not in after:
            yield Change("-", f"{name}: {item}", Effect.LOOSER)
    for item in after:
        if item not in before:
            yield Change("+", f"{name}: {item}", Effect.STRICTER)


def _gate_changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    for key, gate in old.items():
        if key not in new:
            yield Change("-", f"gate {key}", Effect.LOOSER)
        elif _interval(gate) != _interval(new[key]):
            words = f"gate {key}: {_show(gate)} -> {_show(new[key])}"
            yield Change("~", words, _compare(_interval(gate), _interval(new[key])))
        elif _without_interval(gate) != _without_interval(new[key]):
            yield Change("~", f"gate {key}: its text", Effect.NEUTRAL)
    for key in new:
        if key not in old:
            yield Change("+", f"gate {key}", Effect.STRICTER, is_first=True)


def _compare(old: tuple[float, float] | None, new: tuple[float, float] | None) -> Effect:
    """Stricter only if everything that passes now passed before."""
    if old is None or new is None:
        return Effect.OTHER_MEANING
    if old[0] <= new[0] and new[1] <= old[1]:
        return Effect.STRICTER
    if new[0] <= old[0] and old[1] <= new[1]:
        return Effect.LOOSER
    return Effect.OTHER_MEANING


def _interval(gate: Any) -> tuple[float, float] | None:
    """The values that pass; None if the gate has neither a limit nor a band of numbers."""
    values = _mapping(gate)
    band, limit = values.get("band"), values.get("limit")
    ends = (
        [_number(end) for end in band]
        if isinstance(band, list)
        else [-math.inf, _number(limit)]
    )
    match ends:
        case [float(low), float(high)]:
            return low, high
        case _:
            return None


def _number(value: Any) -> float | None:
    """A float, or None for text, booleans and NaN, with which nothing can be compared."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    return float(value)


def _show(gate: Any) -> str:
    values = _mapping(gate)
    return f"band {values['band']}" if "band" in values else f"limit {values.get('limit')}"


def _without_interval(gate: Any) -> dict[Any, Any]:
    return {k: v for k, v in _mapping(gate).items() if k not in {"band", "limit"}}


def _gates(block: dict[Any, Any]) -> dict[str, Any]:
    """The gates by `metric at sites`; of two alike the second is `metric at sites #2`."""
    gates: dict[str, Any] = {}
    seen: Counter[str] = Counter()
    listed = block.get("gates")
    for gate in listed if isinstance(listed, list) else []:
        values = _mapping(gate)
        name = f"{values.get('metric')} at {values.get('sites', 'all')}"
        seen[name] += 1
        gates[f"{name} #{seen[name]}" if seen[name] > 1 else name] = gate
    return gates


def _items(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}
