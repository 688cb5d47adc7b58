"""Is a formula satisfiable? Propositions first, then numbers, cell by cell.

1.  Comparisons become free Booleans. If even so nothing satisfies the formula, it is
    contradictory whatever the numbers.
2.  Otherwise a solution says which comparisons it needs. Those that share no variable are
    unrelated, so each group is asked by itself, and groups of the same shape once: 280
    equal cells cost one question.
3.  Where numbers cannot do that, the contradiction is added for every group of the shape,
    and step 1 is repeated.

Each step is exact; what is not decided in time is `Undecided`, never a guess.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cotejar.contracts.prove.solvers import (
    Z3,
    Answer,
    Bitwuzla,
    Contradiction,
    Satisfied,
    Solver,
    Undecided,
)
from cotejar.contracts.prove.terms import Term, nodes_below

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_ROUNDS = 2_000
PATIENCE_SECONDS = (2.0, 20.0, 200.0)
"""For one question to one solver: what is hard is left until the easy is done."""


@dataclass(slots=True)
class Effort:
    """What deciding cost, and who decided; part of the record."""

    formulas: int = 0
    propositional_calls: int = 0
    theory_calls: int = 0
    reused_answers: int = 0
    solvers: set[str] = field(default_factory=set)

    def as_json(self) -> dict[str, object]:
        """For records."""
        return {
            "formulas": self.formulas,
            "propositional_calls": self.propositional_calls,
            "theory_calls": self.theory_calls,
            "reused_answers": self.reused_answers,
            "decided_by": "numbers" if self.theory_calls else "control flow alone",
        }


@dataclass(frozen=True, slots=True)
class _Group:
    """Comparisons that share variables."""

    atoms: tuple[Term, ...]
    variables: tuple[str, ...]
    """In the order in which the atoms name them."""
    shape: int
    """Equal for two groups that differ in their variables' names alone."""


_Pattern = tuple[tuple[int, bool], ...]
"""Some of a group's comparisons, by index, and whether each holds."""


def _clause(group: _Group, core: _Pattern) -> list[tuple[Term, bool]]:
    return [(group.atoms[i], holds) for i, holds in core]


class Decider:
    """Decides formulas over one `Terms`; answers about a shape of group are kept."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        """On `time.monotonic`'s clock."""
        self.effort = Effort()
        self.bitwuzla = Bitwuzla()
        self._z3: Z3 | None = None
        self.patience_seconds = PATIENCE_SECONDS[0]
        self._answers: dict[object, tuple[Answer, tuple[str, ...]]] = {}
        self._shapes: dict[object, int] = {}
        self._cores: dict[object, set[_Pattern]] = {}
        """Contradictions by shape: what one formula taught holds in the next."""

    def decide(self, formula: Term) -> Satisfied | Undecided | None:
        """Values that satisfy a formula; None where nothing does."""
        self.effort.formulas += 1
        if formula.op == "const":
            return Satisfied({}) if formula.value else None
        nodes = nodes_below(formula)
        atoms = [node for node in nodes if node.is_atom]
        booleans = [node for node in nodes if node.sort.value == "bool"]
        groups = _group(atoms, self._shapes)
        undecided = Undecided("the time is up")
        for self.patience_seconds in PATIENCE_SECONDS:
            propositions = _Propositions(self.bitwuzla, booleans, formula)
            for group in groups:
                for core in self._cores.get(group.shape, ()):
                    propositions.forbid(_clause(group, core))
            answer = self._search(_Search(formula, booleans, groups, propositions))
            if not isinstance(answer, Undecided):
                return answer
            undecided = answer
        return undecided

    def _search(self, search: _Search) -> Satisfied | Undecided | None:
        """Propositions and numbers in turn, until they agree or nothing is left.

        What the solvers do not decide is set aside: other values may satisfy the formula. If
        none do, the answer is `Undecided`.
        """
        aside: Undecided | None = None
        for _ in range(MAX_ROUNDS):
            if time.monotonic() > self.deadline:
                return Undecided("the time is up")
            self.effort.propositional_calls += 1
            self.effort.solvers.add(self.bitwuzla.name)
            model = search.propositions.solve()
            if isinstance(model, Undecided):
                return model
            if model is None:
                return aside
            found = self._check_groups(search, model)
            if isinstance(found, Satisfied):
                return found
            aside = found or aside
        return Undecided(f"{MAX_ROUNDS} rounds of contradictions")

    def _check_groups(
        self, search: _Search, model: dict[int, bool]
    ) -> Satisfied | Undecided | None:
        """Values for all groups; else what stood in the way is forbidden, in every group alike.

        None where that were contradictions only, `Undecided` where something was set aside.
        """
        needed = _justify(search.formula, search.booleans, model)
        values: dict[str, object] = {}
        cores: set[tuple[int, _Pattern]] = set()
        aside: Undecided | None = None
        for group in search.groups:
            pattern = tuple(
                (i, needed[a.id]) for i, a in enumerate(group.atoms) if a.id in needed
            )
            if not pattern:
                continue
            answer, names = self._ask(group, pattern)
            if isinstance(answer, Satisfied):
                own = dict(zip(names, group.variables, strict=True))
                values |= {own[name]: value for name, value in answer.values.items()}
            elif isinstance(answer, Contradiction):
                core = tuple(pattern[i] for i in answer.core)
                cores.add((group.shape, core))
                self._cores.setdefault(group.shape, set()).add(core)
            else:
                aside = answer
                cores.add((group.shape, pattern))
                break
        if not cores:
            return Satisfied(values)
        for group in search.groups:
            for shape, core in cores:
                if group.shape == shape:
                    search.propositions.forbid(_clause(group, core))
        return aside

    def _ask(self, group: _Group, pattern: _Pattern) -> tuple[Answer, tuple[str, ...]]:
        key = (group.shape, pattern)
        if key in self._answers:
            self.effort.reused_answers += 1
            return self._answers[key]
        literals = [(group.atoms[i], holds) for i, holds in pattern]
        answer = self._solve(literals)
        if isinstance(answer, Undecided):
            return answer, group.variables  # never kept: more time may decide it
        self._answers[key] = answer, group.variables
        return self._answers[key]

    def _solve(self, literals: list[tuple[Term, bool]]) -> Answer:
        answer: Answer = Undecided("no solver has the theory")
        for solver in self._portfolio():
            left = min(self.patience_seconds, self.deadline - time.monotonic())
            if left <= 0:
                return Undecided("the time is up")
            if not solver.solves(literals):
                continue
            self.effort.theory_calls += 1
            answer = solver.check(literals, left)
            if not isinstance(answer, Undecided):
                self.effort.solvers.add(solver.name)
                return answer
        return answer

    def _portfolio(self) -> Iterable[Solver]:
        yield self.bitwuzla
        if self._z3 is None:
            self._z3 = Z3()
        yield self._z3


class _Propositions:
    """The formula with every comparison a free Boolean."""

    def __init__(self, solver: Bitwuzla, booleans: Sequence[Term], formula: Term) -> None:
        self.api, self.manager = solver.api, solver.manager
        options = self.api.Options()
        options.set(self.api.Option.PRODUCE_MODELS, True)  # noqa: FBT003 - its signature
        # On one long chain of cells its preprocessing takes most of the time.
        options.set(self.api.Option.PREPROCESS, False)  # noqa: FBT003 - its API
        self.solver = self.api.Bitwuzla(self.manager, options)
        sort = self.manager.mk_bool_sort()
        self.made: dict[int, Any] = {}
        for node in booleans:
            args = [self.made[a.id] for a in node.args] if not node.is_atom else []
            if node.is_atom:
                self.made[node.id] = self.manager.mk_const(sort, f"atom{node.id}")
            elif node.op == "const":
                make = self.manager.mk_true if node.value else self.manager.mk_false
                self.made[node.id] = make()
            else:
                kind = self.api.Kind.NOT if node.op == "not" else self.api.Kind.AND
                self.made[node.id] = self.manager.mk_term(kind, args)
        self.atoms = [node for node in booleans if node.is_atom]
        self.solver.assert_formula(self.made[formula.id])

    def solve(self) -> dict[int, bool] | Undecided | None:
        """A value for every comparison; None where there is none."""
        result = self.solver.check_sat()
        if result == self.api.Result.UNSAT:
            return None
        if result != self.api.Result.SAT:
            return Undecided("the propositions were not decided")
        values = self.solver.get_value
        return {atom.id: bool(values(self.made[atom.id]).is_true()) for atom in self.atoms}

    def forbid(self, clause: Sequence[tuple[Term, bool]]) -> None:
        """These cannot hold together."""
        kind = self.api.Kind
        parts = [
            self.manager.mk_term(kind.NOT, [self.made[t.id]]) if holds else self.made[t.id]
            for t, holds in clause
        ]
        self.solver.assert_formula(
            parts[0] if len(parts) == 1 else self.manager.mk_term(kind.OR, parts)
        )


@dataclass(frozen=True, slots=True)
class _Search:
    """One formula being decided."""

    formula: Term
    booleans: Sequence[Term]
    """Its Boolean nodes, arguments first."""
    groups: Sequence[_Group]
    propositions: _Propositions


def _justify(
    formula: Term, booleans: Sequence[Term], model: dict[int, bool]
) -> dict[int, bool]:
    """The comparisons that make the formula true in this model; the others do not matter."""
    truth: dict[int, bool] = {}
    for node in booleans:
        if node.is_atom:
            truth[node.id] = model[node.id]
        elif node.op == "const":
            truth[node.id] = bool(node.value)
        elif node.op == "not":
            truth[node.id] = not truth[node.args[0].id]
        else:
            truth[node.id] = all(truth[a.id] for a in node.args)
    needed: dict[int, Term] = {}
    pending = [formula]
    while pending:
        node = pending.pop()
        if node.id in needed:
            continue
        needed[node.id] = node
        if node.op == "and" and not truth[node.id]:
            false = [a for a in node.args if not truth[a.id]]
            pending.append(next((a for a in false if a.id in needed), false[0]))
        elif not node.is_atom:
            pending.extend(node.args)
    return {i: truth[i] for i, node in needed.items() if node.is_atom}


def _group(atoms: Sequence[Term], shapes: dict[object, int]) -> list[_Group]:
    """Split comparisons into groups that share no variable."""
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    names_of: dict[int, list[str]] = {}
    for atom in atoms:
        names = [str(n.value) for n in nodes_below(atom) if n.op == "var"]
        names_of[atom.id] = names
        for name in names:
            parent.setdefault(name, name)
            parent[find(name)] = find(names[0])
    members: dict[str, list[Term]] = {}
    for atom in atoms:
        members.setdefault(find(names_of[atom.id][0]), []).append(atom)
    return [_describe(tuple(group), shapes) for group in members.values()]


def _describe(atoms: tuple[Term, ...], shapes: dict[object, int]) -> _Group:
    numbers: dict[int, int] = {}
    variables: list[str] = []
    shape: list[object] = []
    # Nodes in the order in which the atoms reach them, not by id: ids differ between cells.
    for atom in atoms:
        for node in _in_order(atom, numbers):
            numbers[node.id] = len(numbers)
            value: object = repr(node.value) if node.op == "const" else None
            if node.op == "var":
                value = len(variables)
                variables.append(str(node.value))
            shape.append((node.op, node.sort, value, *(numbers[a.id] for a in node.args)))
        shape.append(numbers[atom.id])
    return _Group(atoms, tuple(variables), shapes.setdefault(tuple(shape), len(shapes)))


def _in_order(root: Term, known: dict[int, int]) -> Iterable[Term]:
    """Nodes below `root` that are not known yet, arguments first."""
    pending: list[tuple[Term, bool]] = [(root, False)]
    seen: set[int] = set()
    while pending:
        node, opened = pending.pop()
        if node.id in known or node.id in seen:
            continue
        if opened or not node.args:
            seen.add(node.id)
            yield node
        else:
            pending.append((node, True))
            pending.extend((a, False) for a in reversed(node.args))
