"""Is the engine Python? A grid of small functions and special numbers, before every proof.

A proof is worth what the engine is: were `<=` taken for `<` in it, harness and production
would be misread alike and no replay would show it. So every construct is run over symbols,
its result worked out for each pair of the grid by CPython and by both solvers, and compared
with what CPython makes of the function itself: values, signs of zeros, NaN and exceptions.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotejar.contracts.prove.conformance_cases import (
    FLOAT_CASES,
    INT_ARITHMETIC_CASES,
    INT_ORDER_CASES,
)
from cotejar.contracts.prove.execute import Executor
from cotejar.contracts.prove.solvers import Z3, Bitwuzla
from cotejar.contracts.prove.source import SourceReader
from cotejar.contracts.prove.state import State
from cotejar.contracts.prove.terms import Sort, Term, Terms, evaluate
from cotejar.contracts.prove.values import Choice, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Case = Callable[[Any, Any], object]

SUBNORMAL = 5e-324
FLOATS = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    2.0,
    0.1,
    1 + 2.0**-52,
    1 - 2.0**-53,
    SUBNORMAL,
    -SUBNORMAL,
    sys.float_info.min,
    sys.float_info.max,
    -sys.float_info.max,
    3.5,
    math.inf,
    -math.inf,
    math.nan,
)
Z3_FLOATS = (0.0, -0.0, 1.0, -2.5, SUBNORMAL, sys.float_info.max, math.inf, math.nan)
INTS = (-(2**31) - 1, -8, -1, 0, 1, 2, 7, 255, 256, 2**31 - 1, 2**32 - 1)
WIDE_INTS = (*INTS, -(2**70), 2**32, 2**70 + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Conformance:
    """How often engine and CPython were compared, and the first difference."""

    num_compared: int
    difference: str
    """Empty where there is none."""

    @property
    def agrees(self) -> bool:
        """Something was compared, and nothing differed."""
        return self.num_compared > 0 and not self.difference


def check_conformance() -> Conformance:
    """Compare everything; about two seconds."""
    compared = 0
    for difference in _differences():
        compared += 1
        if difference:
            return Conformance(num_compared=compared, difference=difference)
    return Conformance(num_compared=compared, difference="")


def _differences() -> Iterator[str]:
    """One text a comparison, empty where both agree."""
    floats = [_Case(f, Sort.FLOAT) for f in FLOAT_CASES]
    ordered = [_Case(f, Sort.INT) for f in INT_ORDER_CASES]
    counted = [_Case(f, Sort.INT) for f in INT_ARITHMETIC_CASES]
    yield from _compare(floats, FLOATS, "CPython", _by_cpython)
    yield from _compare([*ordered, *counted], WIDE_INTS, "CPython", _by_cpython)
    bitwuzla, z3 = Bitwuzla(), Z3()
    yield from _compare(floats, FLOATS, "bitwuzla", _by_bitwuzla(bitwuzla, floats))
    yield from _compare(ordered, INTS, "bitwuzla", _by_bitwuzla(bitwuzla, ordered))
    yield from _compare(floats, Z3_FLOATS, "z3", _by_z3(z3, floats))
    both = [*ordered, *counted]
    yield from _compare(both, WIDE_INTS, "z3", _by_z3(z3, both))


class _Case:
    """One function, run over two symbols."""

    def __init__(self, function: Case, sort: Sort) -> None:
        self.function = function
        self.terms = Terms()
        state = State(self.terms)
        executor = Executor(state, SourceReader(), None)
        symbols = [self.terms.variable(name, sort) for name in ("a", "b")]
        self.sort = sort
        self.result = executor.call(function, symbols, {})
        self.raises = [(v.guard, v.what) for v in state.violations]
        self.roots = list(_terms_in(self.result)) + [guard for guard, _ in self.raises]

    def outcome(self, known: dict[int, object]) -> str:
        """What happens, given the value of every term."""
        for guard, what in self.raises:
            if known[guard.id]:
                return what
        return _show(_concrete(self.result, known))

    def expected(self, a: object, b: object) -> str:
        """What CPython does."""
        try:
            return _show(self.function(a, b))
        except ArithmeticError as error:
            return type(error).__name__


def _compare(
    cases: Sequence[_Case],
    numbers: Sequence[object],
    who: str,
    values: Callable[[_Case, object, object], dict[int, object]],
) -> Iterator[str]:
    for a in numbers:
        for b in numbers:
            for case in cases:
                expected = case.expected(a, b)
                found = case.outcome(values(case, a, b))
                same = expected == found
                name = getattr(case.function, "__name__", "?")
                yield (
                    ""
                    if same
                    else (f"{name}({a!r}, {b!r}) is {expected} in CPython and {found} by {who}")
                )


def _by_cpython(case: _Case, a: object, b: object) -> dict[int, object]:
    return {root.id: evaluate(root, {"a": a, "b": b}) for root in case.roots}


def _by_bitwuzla(
    solver: Bitwuzla, cases: Sequence[_Case]
) -> Callable[[_Case, object, object], dict[int, object]]:
    api, manager = solver.api, solver.manager
    made = {id(case): solver.translate(case.roots) for case in cases}
    options = api.Options()
    options.set(api.Option.PRODUCE_MODELS, True)  # noqa: FBT003 - its signature
    current: list[Any] = [None, None]

    def values(case: _Case, a: object, b: object) -> dict[int, object]:
        translated = made[id(case)]
        if current[0] != (repr(a), repr(b), case.sort):
            checker = api.Bitwuzla(manager, options)
            sort = solver.float_sort if case.sort is Sort.FLOAT else solver.bits_sort
            for name, value in (("a", a), ("b", b)):
                variable, constant = solver.variable(sort, name), solver.constant(value)
                fact = manager.mk_term(api.Kind.EQUAL, [variable, constant])
                checker.assert_formula(fact)
            checker.check_sat()
            current[:] = [(repr(a), repr(b), case.sort), checker]
        get = current[1].get_value
        return {r.id: solver.value_of(r.sort, get(translated[r.id])) for r in case.roots}

    return values


def _by_z3(
    solver: Z3, cases: Sequence[_Case]
) -> Callable[[_Case, object, object], dict[int, object]]:
    z3 = solver.api
    made = {id(case): solver.translate(case.roots) for case in cases}

    def values(case: _Case, a: object, b: object) -> dict[int, object]:
        sort = z3.Float64() if case.sort is Sort.FLOAT else z3.IntSort()
        pairs = [(z3.Const(n, sort), solver.constant(v)) for n, v in (("a", a), ("b", b))]
        return {
            r.id: solver.value_of(z3.simplify(z3.substitute(made[id(case)][r.id], *pairs)))
            for r in case.roots
        }

    return values


def _terms_in(value: Value) -> Iterator[Term]:
    if isinstance(value, Term):
        yield value
    elif isinstance(value, Choice):
        for guard, leaf in value.options:
            yield guard
            yield from _terms_in(leaf)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _terms_in(item)


def _concrete(value: Value, known: dict[int, object]) -> object:
    if isinstance(value, Term):
        return known[value.id]
    if isinstance(value, Choice):
        for guard, leaf in value.options:
            if known[guard.id]:
                return _concrete(leaf, known)
        return "no option holds"
    if isinstance(value, (list, tuple)):
        return [_concrete(item, known) for item in value]
    return value


def _show(value: object) -> str:
    """Text that tells 0.0 from -0.0, and a truth value from a number."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_show(item) for item in value)}]"
    return repr(value)
