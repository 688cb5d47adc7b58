"""Bitwuzla and Z3 behind one face: is a conjunction of comparisons satisfiable?

Terms keep their meaning: binary64, round to nearest even; integers are unbounded. Bitwuzla
has no integers, so integers that are only compared become 64-bit ones: a set of comparisons
among fewer than 2**32 variables and constants below 2**32 has a solution in the one exactly
where it has in the other. Integers that are added or multiplied go to Z3.

Both libraries are imported when a solver is made, never before: they are an extra.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any, Protocol

from cotejar.contracts.prove.terms import Sort, Term, Unsupported, nodes_below
from cotejar.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence

Literal = tuple[Term, bool]
"""A comparison and whether it is to hold."""

MAX_CONSTANT = 2**32
PACKAGES = {"bitwuzla": "bitwuzla", "z3": "z3-solver"}


@dataclass(frozen=True, slots=True)
class Satisfied:
    """The comparisons can hold together."""

    values: dict[str, object]


@dataclass(frozen=True, slots=True)
class Contradiction:
    """They cannot: not even those of these indices."""

    core: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Undecided:
    """Time or memory ran out."""

    why: str


Answer = Satisfied | Contradiction | Undecided


class Solver(Protocol):
    """One solver."""

    name: str

    def solves(self, literals: Sequence[Literal]) -> bool:
        """Does it have the theories that these need?"""

    def check(self, literals: Sequence[Literal], seconds: float) -> Answer:
        """Decide a conjunction."""


def load_solver_module(name: str) -> Any:
    """Import a solver's package.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise MissingExtraError(
            f"the solver {name} is not installed",
            where="pv prove",
            expected=f"the package {PACKAGES[name]}",
            found="no such package in this Python",
            hint="pip install 'cotejar[prove]'",
        ) from None


def solver_version(name: str) -> str:
    """Name and version, for records."""
    return f"{name} {metadata.version(PACKAGES[name])}"


def float_bits(value: float) -> int:
    """The 64 bits of a binary64."""
    return int(struct.unpack("<Q", struct.pack("<d", value))[0])


class Bitwuzla:
    """Floats, and integers that are only compared."""

    name = "bitwuzla"

    def __init__(self) -> None:
        self.api = load_solver_module("bitwuzla")
        self.manager = self.api.TermManager()
        self._variables: dict[tuple[str, str], Any] = {}
        kind = self.api.Kind
        self.float_sort = self.manager.mk_fp_sort(11, 53)
        self.bits_sort = self.manager.mk_bv_sort(64)
        self.rounding = self.manager.mk_rm_value(self.api.RoundingMode.RNE)
        self.kinds = {
            (Sort.FLOAT, "<"): kind.FP_LT,
            (Sort.FLOAT, "<="): kind.FP_LEQ,
            (Sort.FLOAT, "=="): kind.FP_EQUAL,
            (Sort.FLOAT, "neg"): kind.FP_NEG,
            (Sort.FLOAT, "abs"): kind.FP_ABS,
            (Sort.FLOAT, "+"): kind.FP_ADD,
            (Sort.FLOAT, "-"): kind.FP_SUB,
            (Sort.FLOAT, "*"): kind.FP_MUL,
            (Sort.FLOAT, "/"): kind.FP_DIV,
            (Sort.INT, "<"): kind.BV_SLT,
            (Sort.INT, "<="): kind.BV_SLE,
            (Sort.INT, "=="): kind.EQUAL,
        }

    def solves(self, literals: Sequence[Literal]) -> bool:
        """All but integer arithmetic and huge integer constants."""
        for term in nodes_below(*(term for term, _ in literals)):
            if term.sort is not Sort.INT or term.op == "var":
                continue
            if not (isinstance(term.value, int) and abs(term.value) < MAX_CONSTANT):
                return False
        return True

    def check(self, literals: Sequence[Literal], seconds: float) -> Answer:
        """Decide a conjunction."""
        options = self.api.Options()
        for option in ("PRODUCE_MODELS", "PRODUCE_UNSAT_ASSUMPTIONS"):
            options.set(getattr(self.api.Option, option), True)  # noqa: FBT003 - its signature
        options.set(self.api.Option.TIME_LIMIT_PER, max(1, int(seconds * 1000)))
        solver = self.api.Bitwuzla(self.manager, options)
        made = self.translate([term for term, _ in literals])
        assumptions = [
            made[t.id] if holds else self.manager.mk_term(self.api.Kind.NOT, [made[t.id]])
            for t, holds in literals
        ]
        result = solver.check_sat(*assumptions)
        if result == self.api.Result.SAT:
            variables = nodes_below(*(term for term, _ in literals))
            return Satisfied(
                {
                    str(v.value): self.value_of(v.sort, solver.get_value(made[v.id]))
                    for v in variables
                    if v.op == "var"
                }
            )
        if result == self.api.Result.UNSAT:
            failed = {t.id() for t in solver.get_unsat_assumptions()}
            core = [i for i, a in enumerate(assumptions) if a.id() in failed]
            return Contradiction(tuple(core) or tuple(range(len(literals))))
        return Undecided(f"{self.name} gave up after {seconds:.0f} s")

    def translate(self, roots: Sequence[Term]) -> dict[int, Any]:
        """Bitwuzla's terms by our ids."""
        made: dict[int, Any] = {}
        for term in nodes_below(*roots):
            made[term.id] = self._translate_one(term, [made[a.id] for a in term.args])
        return made

    def _translate_one(self, term: Term, args: list[Any]) -> Any:
        if term.op == "var":
            sorts = {Sort.FLOAT: self.float_sort, Sort.INT: self.bits_sort}
            sort = sorts.get(term.sort) or self.manager.mk_bool_sort()
            return self.variable(sort, str(term.value))
        if term.op == "const":
            return self.constant(term.value)
        if term.op in {"not", "and"}:
            kind = self.api.Kind.NOT if term.op == "not" else self.api.Kind.AND
            return self.manager.mk_term(kind, args)
        kind = self.kinds.get((term.args[0].sort, term.op))
        if kind is None:
            raise Unsupported(f"{term.op} in {self.name}")
        if term.sort is Sort.FLOAT and term.op in {"+", "-", "*", "/"}:
            args = [self.rounding, *args]
        return self.manager.mk_term(kind, args)

    def constant(self, value: object) -> Any:
        """A number or truth value."""
        if isinstance(value, bool):
            return self.manager.mk_true() if value else self.manager.mk_false()
        if isinstance(value, float):
            bits = self.manager.mk_bv_value(self.bits_sort, f"{float_bits(value):064b}", 2)
            kind = self.api.Kind.FP_TO_FP_FROM_BV
            return self.manager.mk_term(kind, [bits], [11, 53])
        return self.manager.mk_bv_value(self.bits_sort, f"{int(str(value)) % 2**64:064b}", 2)

    def variable(self, sort: Any, name: str) -> Any:
        """The one variable of that name."""
        key = (str(sort), name)
        if key not in self._variables:
            self._variables[key] = self.manager.mk_const(sort, name)
        return self._variables[key]

    def value_of(self, sort: Sort, value: Any) -> object:
        """A value of a model as Python has it."""
        if sort is Sort.BOOL:
            return bool(value.is_true())
        if sort is Sort.INT:
            number = int(value.value(2), 2)
            return number - 2**64 if number >= 2**63 else number
        if value.is_fp_value_nan():
            return math.nan
        sign, exponent, fraction = value.value()
        return _from_bits(int(sign + exponent + fraction, 2))


class Z3:
    """Everything, slowly: unbounded integer arithmetic, and a second try at floats."""

    name = "z3"

    def __init__(self) -> None:
        self.api = load_solver_module("z3")

    def solves(self, literals: Sequence[Literal]) -> bool:
        """Always."""
        del literals
        return True

    def check(self, literals: Sequence[Literal], seconds: float) -> Answer:
        """Decide a conjunction."""
        z3 = self.api
        solver = z3.Solver()
        solver.set("timeout", max(1, int(seconds * 1000)))
        made = self.translate([term for term, _ in literals])
        labels = [z3.Bool(f"literal!{i}") for i in range(len(literals))]
        for label, (term, holds) in zip(labels, literals, strict=True):
            fact = made[term.id] if holds else z3.Not(made[term.id])
            solver.add(z3.Implies(label, fact))
        result = solver.check(*labels)
        if result == z3.sat:
            model = solver.model()
            variables = nodes_below(*(term for term, _ in literals))
            return Satisfied(
                {
                    str(v.value): self.value_of(model.eval(made[v.id], model_completion=True))
                    for v in variables
                    if v.op == "var"
                }
            )
        if result == z3.unsat:
            failed = {str(label) for label in solver.unsat_core()}
            core = [i for i, label in enumerate(labels) if str(label) in failed]
            return Contradiction(tuple(core) or tuple(range(len(literals))))
        return Undecided(f"{self.name} gave up: {solver.reason_unknown()}")

    def translate(self, roots: Sequence[Term]) -> dict[int, Any]:
        """Z3's terms by our ids."""
        made: dict[int, Any] = {}
        for term in nodes_below(*roots):
            made[term.id] = self._translate_one(term, [made[a.id] for a in term.args])
        return made

    def _translate_one(self, term: Term, args: list[Any]) -> Any:
        z3 = self.api
        if term.op == "var":
            name = str(term.value)
            sort = {Sort.FLOAT: z3.Float64, Sort.INT: z3.IntSort, Sort.BOOL: z3.BoolSort}
            return z3.Const(name, sort[term.sort]())
        if term.op == "const":
            return self.constant(term.value)
        if term.op in {"not", "and"}:
            return z3.Not(args[0]) if term.op == "not" else z3.And(*args)
        rounding = z3.RNE()
        meaning = {
            (Sort.FLOAT, "<"): z3.fpLT,
            (Sort.FLOAT, "<="): z3.fpLEQ,
            (Sort.FLOAT, "=="): z3.fpEQ,
            (Sort.FLOAT, "neg"): z3.fpNeg,
            (Sort.FLOAT, "abs"): z3.fpAbs,
            (Sort.FLOAT, "+"): lambda a, b: z3.fpAdd(rounding, a, b),
            (Sort.FLOAT, "-"): lambda a, b: z3.fpSub(rounding, a, b),
            (Sort.FLOAT, "*"): lambda a, b: z3.fpMul(rounding, a, b),
            (Sort.FLOAT, "/"): lambda a, b: z3.fpDiv(rounding, a, b),
            (Sort.INT, "<"): lambda a, b: a < b,
            (Sort.INT, "<="): lambda a, b: a <= b,
            (Sort.INT, "=="): lambda a, b: a == b,
            (Sort.INT, "+"): lambda a, b: a + b,
            (Sort.INT, "-"): lambda a, b: a - b,
            (Sort.INT, "*"): lambda a, b: a * b,
            (Sort.INT, "mod"): lambda a, b: a % b,  # the divisor is positive: floored too
        }
        return meaning[term.args[0].sort, term.op](*args)

    def constant(self, value: object) -> Any:
        """A number or truth value."""
        z3 = self.api
        if isinstance(value, bool):
            return z3.BoolVal(value)
        if isinstance(value, float):
            return z3.fpBVToFP(z3.BitVecVal(float_bits(value), 64), z3.Float64())
        return z3.IntVal(value)

    def value_of(self, value: Any) -> object:
        """A value of a model as Python has it."""
        z3 = self.api
        if z3.is_bool(value):
            return z3.is_true(value)
        if z3.is_int(value):
            return value.as_long()
        if value.isNaN():
            return math.nan
        bits = z3.simplify(z3.fpToIEEEBV(value))
        return _from_bits(bits.as_long())


def _from_bits(bits: int) -> float:
    return float(struct.unpack("<d", struct.pack("<Q", bits))[0])
