"""Do the claims have teeth? Change the code in small ways and see a claim refuted each time.

A claim that survives every change to the code says nothing about it. Each mutant is one
change to one target function: another comparison, `or` for `and`, a constant, a verdict, a
dropped branch, a loop that is one turn short. It is

    killed       a claim fails on it, in CPython
    equivalent   proved to give the same result as the original, on lists of up to two items
    survived     neither: the claims miss it
"""

from __future__ import annotations

import ast
import copy
import importlib.util
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cotejar.contracts.prove.concrete import find_failure
from cotejar.contracts.prove.crosshair import prove_by_crosshair
from cotejar.contracts.prove.equivalence import are_equivalent
from cotejar.contracts.prove.harness import HARNESSES, Strategy
from cotejar.contracts.prove.outcome import ProofVerdict
from cotejar.contracts.prove.substitute import with_functions
from cotejar.contracts.prove.symbolic import SymbolicProof

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FunctionType

    from cotejar.contracts.prove.harness import Claim

MUTANT_BOUND = 2
NUM_QUICK_RUNS = 1_000
SECONDS_PER_CLAIM = 10.0


@dataclass(frozen=True, slots=True)
class Mutant:
    """One changed module."""

    function: str
    change: str
    """Line and what stands there instead."""
    source: str


@dataclass(kw_only=True, slots=True)
class MutationScore:
    """What became of the mutants."""

    total: int = 0
    killed: int = 0
    equivalent: list[str] = field(default_factory=list)
    survived: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    """Out of time, or neither killed nor proved equivalent."""

    def as_json(self) -> dict[str, object]:
        """For records."""
        return {
            "total": self.total,
            "killed": self.killed,
            "equivalent": self.equivalent,
            "survived": self.survived,
            "undecided": self.undecided,
        }


def score_mutants(claims: Sequence[Claim], deadline: float) -> MutationScore:
    """Try every mutant of the claims' targets against the claims."""
    score = MutationScore()
    targets = list(dict.fromkeys(target for claim in claims for target in claim.targets))
    with tempfile.TemporaryDirectory(prefix="cotejar-mutants-") as folder:
        for mutant in mutants_of(targets):
            score.total += 1
            name = f"{mutant.function}, {mutant.change}"
            if time.monotonic() > deadline:
                score.undecided.append(name)
                continue
            changed = load_functions(mutant.source, Path(folder), score.total, targets)
            _judge(score, name, claims, changed, mutant.function, deadline)
    return score


def _judge(
    score: MutationScore,
    name: str,
    claims: Sequence[Claim],
    changed: dict[FunctionType, FunctionType],
    function: str,
    deadline: float,
) -> None:
    if _is_killed_quickly(claims, changed):
        score.killed += 1
        return
    original = next(f for f in changed if f.__name__ == function)
    until = min(deadline, time.monotonic() + SECONDS_PER_CLAIM)
    if are_equivalent(original, changed[original], MUTANT_BOUND, until):
        score.equivalent.append(name)
        return
    verdicts = list(_verdicts(claims, changed, deadline))
    if ProofVerdict.REFUTED in verdicts:
        score.killed += 1
    elif ProofVerdict.UNKNOWN in verdicts:
        score.undecided.append(name)
    else:
        score.survived.append(name)


def _is_killed_quickly(
    claims: Sequence[Claim], changed: dict[FunctionType, FunctionType]
) -> bool:
    return any(
        find_failure(with_functions(claim.body, changed), MUTANT_BOUND, NUM_QUICK_RUNS)
        for claim in claims
    )


def _verdicts(
    claims: Sequence[Claim], changed: dict[FunctionType, FunctionType], deadline: float
) -> Iterator[ProofVerdict]:
    """By the solvers, until one claim is refuted."""
    for claim in claims:
        until = min(deadline, time.monotonic() + SECONDS_PER_CLAIM)
        body = with_functions(claim.body, changed)
        if claim.strategy is Strategy.SYMBOLIC:
            verdict = SymbolicProof(body, MUTANT_BOUND, until).prove().verdict
        elif claim.strategy is Strategy.CROSSHAIR:
            verdict = prove_by_crosshair(body, MUTANT_BOUND, until).verdict
        else:
            continue
        yield verdict
        if verdict is ProofVerdict.REFUTED:
            return


def load_functions(
    source: str, folder: Path, number: int, targets: Sequence[FunctionType]
) -> dict[FunctionType, FunctionType]:
    """Import `source` as a module of its own; original -> its function of the same name.

    Targets of other modules stay themselves and are left out.
    """
    name = f"cotejar_mutant_{number}"
    file = folder / f"{name}.py"
    file.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with HARNESSES.ignoring():
            spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    found = {target: getattr(module, target.__name__, None) for target in targets}
    return {target: made for target, made in found.items() if made is not None}


def mutants_of(targets: Sequence[FunctionType]) -> list[Mutant]:
    """Every mutant of the functions, each module once changed in one place."""
    found: list[Mutant] = []
    for target in targets:
        text = Path(target.__code__.co_filename).read_text(encoding="utf-8")
        tree = ast.parse(text)
        function = next(
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name == target.__name__
        )
        for path, replacement in _changes(function):
            changed = copy.deepcopy(tree)
            where = changed.body[tree.body.index(function)]
            old = _replace(where, path, replacement)
            change = f"line {old.lineno}: {ast.unparse(replacement)} for {ast.unparse(old)}"
            found.append(Mutant(target.__name__, change, ast.unparse(changed)))
    unique = {mutant.source: mutant for mutant in found}
    return list(unique.values())


_Path = tuple[tuple[str, int | None], ...]


def _changes(function: ast.FunctionDef) -> Iterator[tuple[_Path, ast.expr]]:
    """Where to put what; the paths lead through fields and list indices."""
    pending: list[tuple[_Path, ast.AST]] = [
        ((("body", i),), statement) for i, statement in enumerate(function.body)
    ]
    while pending:
        path, node = pending.pop(0)
        if isinstance(node, ast.expr):
            for replacement in _instead_of(node):
                yield path, replacement
        if isinstance(node, (ast.If, ast.IfExp)):
            for constant in (True, False):
                yield (*path, ("test", None)), ast.Constant(constant)
        for name, value in ast.iter_fields(node):
            if isinstance(value, ast.AST):
                pending.append(((*path, (name, None)), value))
            elif isinstance(value, list):
                pending += [
                    ((*path, (name, i)), item)
                    for i, item in enumerate(value)
                    if isinstance(item, ast.AST)
                ]


def _replace(root: ast.AST, path: _Path, replacement: ast.expr) -> ast.expr:
    """Put `replacement` at the end of the path; return what was there."""
    node = root
    for name, index in path[:-1]:
        value = getattr(node, name)
        node = value if index is None else value[index]
    name, index = path[-1]
    if index is None:
        old = getattr(node, name)
        setattr(node, name, ast.copy_location(replacement, old))
    else:
        items = getattr(node, name)
        old = items[index]
        items[index] = ast.copy_location(replacement, old)
    return old  # type: ignore[no-any-return]


_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq, ast.LtE, ast.GtE),
    ast.NotEq: (ast.Eq, ast.Lt, ast.Gt),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
}
_ATTRIBUTES = {
    "PASS": ("FAIL", "INCOMPARABLE"),
    "FAIL": ("PASS", "INCOMPARABLE"),
    "INCOMPARABLE": ("PASS", "FAIL"),
    "nan": ("inf",),
    "inf": ("nan",),
    "isfinite": ("isnan",),
}


def _instead_of(node: ast.expr) -> Iterator[ast.expr]:
    """Small changes to one expression."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for op in _COMPARISONS.get(type(node.ops[0]), ()):
            yield ast.Compare(node.left, [op()], node.comparators)
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield ast.BoolOp(other, node.values)
        yield from node.values
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        yield ast.BinOp(node.right, node.op, node.left)
        yield ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right)
    else:
        yield from _instead_of_a_part(node)


def _instead_of_a_part(node: ast.expr) -> Iterator[ast.expr]:
    """The same for expressions without operators."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        if not isinstance(node.value, bool):
            yield ast.Constant(node.value + 1)
            yield ast.Constant(node.value - 1)
    elif isinstance(node, ast.Attribute):
        for name in _ATTRIBUTES.get(node.attr, ()):
            yield ast.Attribute(node.value, name, ast.Load())
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Name):
        yield ast.Subscript(node.value, ast.Constant(0), ast.Load())
    elif isinstance(node, ast.Call) and ast.unparse(node.func) == "range":
        last = node.args[-1]
        yield ast.Call(node.func, [ast.BinOp(last, ast.Sub(), ast.Constant(1))], [])
        yield ast.Call(node.func, [ast.Constant(1), last], [])
