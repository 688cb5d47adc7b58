"""Python's operators and the built-in functions that the engine knows, over symbols.

Each takes the guard under which its operands are what they are, so that a division by zero
raises there and nowhere else. What is not listed is `Unsupported`.
"""

from __future__ import annotations

import ast
import math
from typing import TYPE_CHECKING

from cotejar.contracts.prove.terms import Sort, Term, Unsupported
from cotejar.contracts.prove.values import (
    PYTHON_TYPE,
    Value,
    as_term,
    choose,
    options_of,
    plain,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cotejar.contracts.prove.state import State

MAX_EXPONENT = 1024
MAX_EXACT_INT = 2**53
"""Integers up to here are floats exactly."""


class Operations:
    """Operators on leaves; `State.lift` takes care of choices."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.terms = state.terms

    # --- truth ------------------------------------------------------------------------

    def truth(self, value: Value) -> Term:
        """`bool(value)` as a term."""
        return as_term(self.terms, self.state.lift(self._truth, value))

    def _truth(self, guard: Term, leaf: Value) -> Value:
        del guard
        if not isinstance(leaf, Term):
            return bool(leaf)
        if leaf.sort is Sort.BOOL:
            return leaf
        zero = self.terms.constant(0 if leaf.sort is Sort.INT else 0.0)
        return self.terms.not_(self.terms.equal(leaf, zero))

    # --- comparisons ------------------------------------------------------------------

    def compare(self, op: ast.cmpop, a: Value, b: Value) -> Value:
        """One comparison."""
        if isinstance(op, (ast.In, ast.NotIn)):
            return self._contains(op, a, b)
        return self.state.lift(lambda _, x, y: self._compare(op, x, y), a, b)

    def _compare(self, op: ast.cmpop, a: Value, b: Value) -> Value:
        if isinstance(op, (ast.Is, ast.IsNot)):
            return self._identity(a, b) is isinstance(op, ast.Is)
        if isinstance(a, (list, tuple)) or isinstance(b, (list, tuple)):
            return self._compare_items(op, a, b)
        if not isinstance(a, Term) and not isinstance(b, Term):
            return CONCRETE_COMPARE[type(op)](a, b)
        pair = self._same_sort(a, b)
        if pair is None:
            if isinstance(op, (ast.Eq, ast.NotEq)):
                return isinstance(op, ast.NotEq)
            raise Unsupported("an order between a number and something else")
        return plain(self._compare_terms(op, *pair))

    def _compare_terms(self, op: ast.cmpop, x: Term, y: Term) -> Term:
        if isinstance(op, (ast.Eq, ast.NotEq)):
            equal = self.terms.equal(x, y)
            return equal if isinstance(op, ast.Eq) else self.terms.not_(equal)
        if x.sort is Sort.BOOL:
            raise Unsupported("an order between truth values")
        if isinstance(op, (ast.Gt, ast.GtE)):
            x, y = y, x
        strict = isinstance(op, (ast.Lt, ast.Gt))
        return self.terms.less(x, y) if strict else self.terms.less_equal(x, y)

    def _compare_items(self, op: ast.cmpop, a: Value, b: Value) -> Value:
        """Lists hold terms, whose own `==` is identity: never ask Python."""
        if not isinstance(op, (ast.Eq, ast.NotEq)):
            raise Unsupported("an order between lists")
        if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
            equal = self._same_items(a, b)
        else:
            equal = self.terms.false
        return plain(equal if isinstance(op, ast.Eq) else self.terms.not_(equal))

    def _identity(self, a: Value, b: Value) -> bool:
        if isinstance(a, Term) or isinstance(b, Term):
            other = b if isinstance(a, Term) else a
            if other is None:
                return False
            raise Unsupported("`is` between numbers")
        return a is b

    def _same_sort(self, a: Value, b: Value) -> tuple[Term, Term] | None:
        """Both as terms of one sort; None where one is no number."""
        numbers = (Term, bool, int, float)
        if not isinstance(a, numbers) or not isinstance(b, numbers):
            return None
        x, y = as_term(self.terms, a), as_term(self.terms, b)
        if x.sort is y.sort:
            return x, y
        wide = Sort.FLOAT if Sort.FLOAT in {x.sort, y.sort} else Sort.INT
        return self._widen(x, wide), self._widen(y, wide)

    def _widen(self, term: Term, to: Sort) -> Term:
        """A constant in the wider sort, where that loses nothing."""
        if term.sort is to:
            return term
        if term.op == "const" and isinstance(term.value, int):
            if to is Sort.INT:
                return self.terms.constant(int(term.value))
            if abs(term.value) <= MAX_EXACT_INT:
                return self.terms.constant(float(term.value))
        raise Unsupported(f"a symbolic {term.sort.value} mixed with a {to.value}")

    def _same_items(self, a: Sequence[Value], b: Sequence[Value]) -> Term:
        """`==` of two lists or tuples of one type, item by item."""
        if type(a) is not type(b) or len(a) != len(b):
            return self.terms.false
        equal = self.terms.true
        for x, y in zip(a, b, strict=True):
            self._refuse_identity(x, y)
            equal = self.terms.and_(equal, self.truth(self.compare(ast.Eq(), x, y)))
        return equal

    def _contains(self, op: ast.cmpop, item: Value, items: Value) -> Value:
        if not isinstance(items, (list, tuple)):
            raise Unsupported("`in` on something that is no list")
        self._refuse_identity(item, *items)
        same = [self.compare(ast.Eq(), item, other) for other in items]
        found = self.terms.any_of(self.truth(value) for value in same)
        return plain(found if isinstance(op, ast.In) else self.terms.not_(found))

    def _refuse_identity(self, *values: Value) -> None:
        """Lists take one NaN object for itself, and symbols have no identity."""
        for value in values:
            for _, leaf in options_of(self.terms, value):
                if isinstance(leaf, float) or (
                    isinstance(leaf, Term) and leaf.sort is Sort.FLOAT
                ):
                    raise Unsupported("== or `in` on lists that hold floats")

    # --- arithmetic -------------------------------------------------------------------

    def binary(self, op: ast.operator, a: Value, b: Value, line: int) -> Value:
        """`a op b`; a division by zero ends the run there."""
        return self.state.lift(lambda g, x, y: self._binary(g, op, x, y, line), a, b)

    def _binary(self, guard: Term, op: ast.operator, a: Value, b: Value, line: int) -> Value:
        if not isinstance(a, Term) and not isinstance(b, Term):
            return self._concrete_binary(guard, op, a, b, line)
        pair = self._same_sort(a, b)
        name = ARITHMETIC.get(type(op))
        if isinstance(op, ast.BitAnd) and pair is not None:
            return self._masked(*pair)
        if pair is None or name is None or pair[0].sort is not pair[1].sort:
            raise Unsupported(f"{type(op).__name__} on these operands")
        x, y = pair
        if name == "/" and x.sort is Sort.FLOAT:
            zero = self.terms.equal(y, self.terms.constant(0.0))
            self.state.fail(self.terms.and_(guard, zero), "ZeroDivisionError", line)
        if name == "mod" and not (y.op == "const" and isinstance(y.value, int) and y.value > 0):
            raise Unsupported("% by anything but a positive constant")
        return plain(self.terms.arithmetic(name, x, y))

    def _masked(self, x: Term, y: Term) -> Value:
        """`x & (2**k - 1)` is `x % 2**k`, for negative x too."""
        if x.op == "const":
            x, y = y, x
        mask = y.value
        if x.sort is Sort.INT and isinstance(mask, int) and mask > 0 and mask & (mask + 1) == 0:
            return plain(self.terms.arithmetic("mod", x, self.terms.constant(mask + 1)))
        raise Unsupported("& with anything but a mask of low bits")

    def _concrete_binary(
        self, guard: Term, op: ast.operator, a: Value, b: Value, line: int
    ) -> Value:
        compute = CONCRETE_BINARY.get(type(op))
        if compute is None:
            raise Unsupported(f"the operator {type(op).__name__}")
        try:
            return compute(a, b)
        except (ArithmeticError, TypeError, ValueError) as error:
            self.state.fail(guard, type(error).__name__, line)
            return None

    def unary(self, op: ast.unaryop, a: Value) -> Value:
        """`not a`, `-a`, `+a`."""
        if isinstance(op, ast.Not):
            return plain(self.terms.not_(self.truth(a)))
        if isinstance(op, ast.Invert):
            raise Unsupported("~")
        return self.state.lift(lambda _, x: self._sign(op, x), a)

    def _sign(self, op: ast.unaryop, a: Value) -> Value:
        if not isinstance(a, Term):
            return +a if isinstance(op, ast.UAdd) else -a
        if a.sort is Sort.BOOL:
            raise Unsupported("the sign of a truth value")
        if isinstance(op, ast.UAdd):
            return a
        if a.sort is Sort.FLOAT:
            return self.terms.arithmetic("neg", a)
        return self.terms.arithmetic("-", self.terms.constant(0), a)

    # --- built-in functions -----------------------------------------------------------

    def extreme(self, values: list[Value], *, largest: bool) -> Value:
        """`max` or `min`: the first of equals, and NaN as CPython has it."""
        if not values:
            raise Unsupported("max or min of nothing")
        best = values[0]
        for value in values[1:]:
            better = self.compare(ast.Gt() if largest else ast.Lt(), value, best)
            best = self.select(self.truth(better), value, best)
        return best

    def select(self, condition: Term, yes: Value, no: Value) -> Value:
        """`yes if condition else no`, both computed."""
        return choose(self.terms, [(condition, yes), (self.terms.not_(condition), no)])

    def absolute(self, value: Value) -> Value:
        """`abs`."""
        return self.state.lift(self._absolute, value)

    def _absolute(self, guard: Term, a: Value) -> Value:
        del guard
        if not isinstance(a, Term):
            return abs(a)
        if a.sort is Sort.FLOAT:
            return self.terms.arithmetic("abs", a)
        if a.sort is Sort.INT:
            negative = self.terms.less(a, self.terms.constant(0))
            return self.select(negative, self._sign(ast.USub(), a), a)
        raise Unsupported("abs of a truth value")

    def classify(self, what: str, value: Value) -> Value:
        """`math.isnan`, `math.isinf`, `math.isfinite`."""
        return self.state.lift(lambda _, x: self._classify(what, x), value)

    def _classify(self, what: str, a: Value) -> Value:
        if not isinstance(a, Term):
            return {"isnan": math.isnan, "isinf": math.isinf, "isfinite": math.isfinite}[what](
                a
            )
        if a.sort is not Sort.FLOAT:
            raise Unsupported(f"{what} of a symbolic {a.sort.value}")
        number = self.terms.equal(a, a)
        infinite = self.terms.equal(
            self.terms.arithmetic("abs", a), self.terms.constant(math.inf)
        )
        if what == "isnan":
            return plain(self.terms.not_(number))
        if what == "isinf":
            return plain(infinite)
        return plain(self.terms.and_(number, self.terms.not_(infinite)))

    def is_instance(self, value: Value, kinds: Value) -> Value:
        """`isinstance` with concrete types."""

        def judge(_: Term, leaf: Value) -> bool:
            if isinstance(leaf, Term):
                return issubclass(PYTHON_TYPE[leaf.sort], kinds)
            return isinstance(leaf, kinds)

        return self.state.lift(judge, value)


def _refuse_power() -> Value:
    raise Unsupported(f"an exponent above {MAX_EXPONENT}")


ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Mod: "mod",
}
CONCRETE_BINARY: dict[type[ast.operator], Callable[[Value, Value], Value]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.BitAnd: lambda a, b: a & b,
    ast.Pow: lambda a, b: a**b if abs(b) <= MAX_EXPONENT else _refuse_power(),
}
CONCRETE_COMPARE: dict[type[ast.cmpop], Callable[[Value, Value], Value]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}
