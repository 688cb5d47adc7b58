"""Symbolic terms: Booleans, unbounded integers and IEEE binary64 floats, shared and folded.

    BOOL   const, var, not, and, and the comparisons < <= ==
    INT    const, var, + - *, mod (floored, by a positive constant)
    FLOAT  const, var, + - * /, neg, abs

Two equal terms are one object, so that equality is identity and a loop over 280 cells stays
small. `or` is written with `not` and `and`. Arithmetic on constants is CPython's own. A
comparison is IEEE's: NaN is less than, equal to and greater than nothing.
"""

from __future__ import annotations

import enum
import math
import struct
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MAX_FLAT = 16
"""Conjunctions up to this size are kept as one flat set, in which a contradiction shows."""


class Unsupported(Exception):  # noqa: N818 - not an error of the user's: the proof is UNKNOWN
    """Something that the engine does not model; the verdict is UNKNOWN, never a guess."""


class Sort(enum.Enum):
    """What a term is."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"


class Term:
    """A node; made by `Terms` alone."""

    __slots__ = ("args", "conjuncts", "id", "negation", "op", "sort", "value")

    def __init__(
        self, op: str, sort: Sort, args: tuple[Term, ...], value: object, id_: int
    ) -> None:
        self.op = op
        self.sort = sort
        self.args = args
        self.value = value
        """A constant's value or a variable's name."""
        self.id = id_
        """Arguments have smaller ids than what is built on them."""
        self.negation: Term | None = None
        self.conjuncts: frozenset[Term] | None = None

    def __bool__(self) -> NoReturn:
        raise Unsupported("a symbolic value was used as a plain Python one")

    __float__ = __int__ = __index__ = __iter__ = __bool__

    def __hash__(self) -> int:
        """By number, not by address, so that every run asks the solvers the same."""
        return self.id

    def __repr__(self) -> str:
        if self.op in {"const", "var"}:
            return str(self.value)
        return f"({self.op} {' '.join(map(repr, self.args))})"

    @property
    def is_atom(self) -> bool:
        """A Boolean that is no connective: a comparison or a variable."""
        return self.sort is Sort.BOOL and self.op not in {"const", "not", "and"}


class Terms:
    """Makes terms; every equal pair is made once."""

    def __init__(self) -> None:
        self._known: dict[object, Term] = {}
        self.true = self._make("const", Sort.BOOL, (), value=True)
        self.false = self._make("const", Sort.BOOL, (), value=False)
        self.true.negation, self.false.negation = self.false, self.true

    def _make(self, op: str, sort: Sort, args: tuple[Term, ...], value: object = None) -> Term:
        # A float by its bits, since 0.0 == -0.0; an enum member hashes slowly, so its text.
        shown = struct.pack("<d", value) if type(value) is float else value
        key = (op, sort._value_, *[a.id for a in args], shown)
        found = self._known.get(key)
        if found is None:
            found = Term(op, sort, args, value, len(self._known))
            self._known[key] = found
        return found

    def variable(self, name: str, sort: Sort) -> Term:
        """A free variable."""
        return self._make("var", sort, (), name)

    def constant(self, value: bool | float) -> Term:  # noqa: FBT001 - a value, no switch
        """A constant; the sort is the value's own type."""
        if isinstance(value, bool):
            return self.true if value else self.false
        if isinstance(value, int):
            return self._make("const", Sort.INT, (), value)
        if math.isnan(value):
            value = math.nan  # Python code without bit tricks sees one NaN
        return self._make("const", Sort.FLOAT, (), value)

    # --- connectives ------------------------------------------------------------------

    def not_(self, a: Term) -> Term:
        """Negation."""
        if a.negation is None:
            a.negation = self._make("not", Sort.BOOL, (a,))
            a.negation.negation = a
        return a.negation

    def and_(self, a: Term, b: Term) -> Term:
        """Conjunction; small ones are flat, so that contradictions fold to false."""
        if a is self.false or b is self.false or a is b.negation:
            return self.false
        if a is self.true or a is b:
            return b
        if b is self.true:
            return a
        left = a.conjuncts if a.op == "and" else frozenset((a,))
        right = b.conjuncts if b.op == "and" else frozenset((b,))
        if left is None or right is None or len(left) + len(right) > MAX_FLAT:
            first, second = (a, b) if a.id < b.id else (b, a)
            return self._make("and", Sort.BOOL, (first, second))
        return self._flat_and(left | right)

    def _flat_and(self, parts: frozenset[Term]) -> Term:
        """Fold contradictions, and shorten each `not (x and y)` in which x is known."""
        while True:
            for part in parts:
                if part.negation is not None and part.negation in parts:
                    return self.false
            changed = self._shorten(parts)
            if changed is None:
                return self.false
            if changed == parts:
                break
            parts = changed
        if not parts:
            return self.true
        if len(parts) == 1:
            return next(iter(parts))
        term = self._make("and", Sort.BOOL, tuple(sorted(parts, key=lambda t: t.id)))
        term.conjuncts = parts
        return term

    def _shorten(self, parts: frozenset[Term]) -> frozenset[Term] | None:
        """One step; None where `parts` contradict each other."""
        for part in parts:
            if part.op != "not":
                continue
            inner = part.args[0].conjuncts
            if inner is None:
                continue
            if any(i.negation in parts for i in inner if i.negation is not None):
                return parts - {part}
            rest = inner - parts
            if not rest:
                return None
            if len(rest) < len(inner):
                return (parts - {part}) | {self.not_(self._flat_and(rest))}
        return parts

    def or_(self, a: Term, b: Term) -> Term:
        """Disjunction."""
        return self.not_(self.and_(self.not_(a), self.not_(b)))

    def any_of(self, parts: Iterable[Term]) -> Term:
        """Disjunction of all; of none, false."""
        result = self.false
        for part in parts:
            result = self.or_(result, part)
        return result

    # --- comparisons ------------------------------------------------------------------

    def less(self, a: Term, b: Term) -> Term:
        """A < b."""
        return self._compare("<", a, b)

    def less_equal(self, a: Term, b: Term) -> Term:
        """A <= b."""
        return self._compare("<=", a, b)

    def equal(self, a: Term, b: Term) -> Term:
        """A == b: IEEE equality on floats, so that NaN differs from itself and -0.0 == 0.0."""
        if a.sort is Sort.BOOL and b.sort is Sort.BOOL:
            both = self.and_(a, b)
            return self.or_(both, self.and_(self.not_(a), self.not_(b)))
        first, second = (a, b) if a.id < b.id else (b, a)
        return self._compare("==", first, second)

    def _compare(self, op: str, a: Term, b: Term) -> Term:
        if a.sort is not b.sort or a.sort is Sort.BOOL:
            raise Unsupported(f"{a.sort.value} {op} {b.sort.value}")
        if a.op == b.op == "const":
            return self.constant(COMPARE[op](a.value, b.value))
        if a is b and a.sort is Sort.INT:
            return self.constant(op != "<")
        if a is b and op == "<":
            return self.false
        return self._make(op, Sort.BOOL, (a, b))

    # --- arithmetic -------------------------------------------------------------------

    def arithmetic(self, op: str, *args: Term) -> Term:
        """`+ - * / neg abs` on floats, `+ - * mod` on integers."""
        sort = args[0].sort
        if any(a.sort is not sort for a in args) or op not in ARITHMETIC[sort]:
            raise Unsupported(f"{op} on {', '.join(a.sort.value for a in args)}")
        if all(a.op == "const" for a in args) and not (op == "/" and args[1].value == 0):
            return self.constant(EVALUATE[op](*(a.value for a in args)))
        return self._make(op, sort, args)


COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
}
EVALUATE: dict[str, Callable[..., Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "mod": lambda a, b: a % b,
    "neg": lambda a: -a,
    "abs": abs,
}
ARITHMETIC = {
    Sort.BOOL: frozenset[str](),
    Sort.INT: frozenset({"+", "-", "*", "mod"}),
    Sort.FLOAT: frozenset({"+", "-", "*", "/", "neg", "abs"}),
}


def nodes_below(*roots: Term) -> list[Term]:
    """Every node of the terms, arguments first; no recursion, so depth does not matter."""
    seen: dict[int, Term] = {}
    pending = list(roots)
    while pending:
        term = pending.pop()
        if term.id not in seen:
            seen[term.id] = term
            pending.extend(term.args)
    return [seen[i] for i in sorted(seen)]


def evaluate(root: Term, values: Mapping[str, object]) -> object:
    """The value of a term in CPython, given its variables'."""
    known: dict[int, object] = {}
    for term in nodes_below(root):
        args = [known[a.id] for a in term.args]
        if term.op == "const":
            known[term.id] = term.value
        elif term.op == "var":
            known[term.id] = values[str(term.value)]
        elif term.op == "not":
            known[term.id] = not args[0]
        elif term.op == "and":
            known[term.id] = all(args)
        elif term.op == "/" and args[1] == 0:
            known[term.id] = math.nan  # guarded: Python raises before this value is used
        else:
            compute: Callable[..., object] = COMPARE.get(term.op) or EVALUATE[term.op]
            known[term.id] = compute(*args)
    return known[root.id]
