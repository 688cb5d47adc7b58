"""Values of the symbolic run: plain Python ones, terms, and choices among either.

A `Choice` says that a value is one thing under one guard and another under another. Guards
exclude each other, and wherever the program is, one of them holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cotejar.contracts.prove.terms import Sort, Term, Terms, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Value = Any
"""A Python value, a `Term` or a `Choice`."""

MAX_COMBINATIONS = 256
PYTHON_TYPE: dict[Sort, type] = {Sort.BOOL: bool, Sort.INT: int, Sort.FLOAT: float}


class Choice:
    """Guarded values, at least two."""

    __slots__ = ("options",)

    def __init__(self, options: tuple[tuple[Term, Value], ...]) -> None:
        self.options = options

    def __bool__(self) -> bool:
        raise Unsupported("a symbolic value was used as a plain Python one")


def options_of(terms: Terms, value: Value) -> Sequence[tuple[Term, Value]]:
    """The guarded values that a value is made of."""
    return value.options if isinstance(value, Choice) else ((terms.true, value),)


def choose(terms: Terms, options: Iterable[tuple[Term, Value]]) -> Value:
    """One value out of guarded ones; Booleans become one term, equal values one option."""
    flat = [
        (joint, leaf)
        for guard, value in options
        for inner, leaf in options_of(terms, value)
        if (joint := terms.and_(guard, inner)) is not terms.false
    ]
    if all(_is_boolean(leaf) for _, leaf in flat):
        parts = (terms.and_(guard, as_term(terms, leaf)) for guard, leaf in flat)
        # Where two guards are complements the disjunction folds to a constant.
        return plain(terms.any_of(parts)) if len(flat) != 1 else flat[0][1]
    merged: list[tuple[Term, Value]] = []
    for guard, leaf in flat:
        for at, (other_guard, other) in enumerate(merged):
            if _is_same(leaf, other):
                merged[at] = (terms.or_(other_guard, guard), other)
                break
        else:
            merged.append((guard, leaf))
    return merged[0][1] if len(merged) == 1 else Choice(tuple(merged))


def combinations(terms: Terms, values: Sequence[Value]) -> list[tuple[Term, tuple[Value, ...]]]:
    """Every way of taking one option of each value, with its guard."""
    found: list[tuple[Term, tuple[Value, ...]]] = [(terms.true, ())]
    for value in values:
        found = [
            (joint, (*leaves, leaf))
            for guard, leaves in found
            for inner, leaf in options_of(terms, value)
            if (joint := terms.and_(guard, inner)) is not terms.false
        ]
        if len(found) > MAX_COMBINATIONS:
            raise Unsupported(f"more than {MAX_COMBINATIONS} combinations of values")
    return found


def as_term(terms: Terms, value: Value) -> Term:
    """A number or Boolean as a term."""
    if isinstance(value, Term):
        return value
    if isinstance(value, (bool, int, float)):
        return terms.constant(value)
    raise Unsupported(f"{type(value).__name__} is no number")


def plain(term: Term) -> Value:
    """The Python value of a constant; other terms as they are."""
    return term.value if term.op == "const" else term


def _is_boolean(value: Value) -> bool:
    return isinstance(value, bool) or (isinstance(value, Term) and value.sort is Sort.BOOL)


def _is_same(a: Value, b: Value) -> bool:
    if isinstance(a, Term) or isinstance(b, Term):
        return a is b
    if isinstance(a, float) and isinstance(b, float):
        return repr(a) == repr(b)
    if isinstance(a, (int, str)) and type(a) is type(b):
        return bool(a == b)
    return a is b
