"""The state of each obligation, from records that are fresh.

| state      | when                                                                         |
| ---------- | ---------------------------------------------------------------------------- |
| DISCHARGED | a live test bound to it survived, and so did every other that can be run     |
| PARTIAL    | proved, or survived in part or at algorithm level only                       |
| BLOCKED    | none of this, and a fixture that a bound test names is absent                |
| OPEN       | none of this; or a bound test or harness says that the obligation is not met |

A test is bound to an obligation if its `rule` is the obligation's id or property, or the
equation that it applies to; a harness, if its `obligation` is. A stale record counts as not
run. Prose binds nothing: it can neither discharge nor hold back.
"""

from __future__ import annotations

import builtins
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotejar.contracts.evidence.fingerprint import Fingerprints
from cotejar.contracts.evidence.ledger import Ledger, read_ledger
from cotejar.contracts.evidence.project import Project, find_project
from cotejar.contracts.evidence.record import FalsificationRecord, ProofRecord
from cotejar.contracts.evidence.staleness import stale_reasons
from cotejar.contracts.falsify.command import NotRunnable, plan_command
from cotejar.contracts.falsify.keys import Level, TestKeys, read_test_keys
from cotejar.contracts.traceability import names_of
from cotejar.errors import NothingMeasuredError

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.contracts.corpus import Corpus
    from cotejar.contracts.schema import Contract, FalsificationTest, Harness, Obligation


class State(enum.StrEnum):
    """How far an obligation is met."""

    DISCHARGED = "DISCHARGED"
    PARTIAL = "PARTIAL"
    OPEN = "OPEN"
    BLOCKED = "BLOCKED"


class Standing(enum.StrEnum):
    """What is known now of a test or a harness."""

    SURVIVED = "SURVIVED"
    FALSIFIED = "FALSIFIED"
    STOPPED = "STOPPED"
    PROVED = "PROVED"
    REFUTED = "REFUTED"
    UNKNOWN = "UNKNOWN"
    STALE = "STALE"
    """It ran, but on what is no longer there."""
    BLOCKED = "BLOCKED"
    """A fixture that it names is absent."""
    NOT_RUN = "NOT-RUN"
    """It can run, and nobody has."""
    NOT_RUNNABLE = "NOT-RUNNABLE"
    """Prose, or a program that the project does not allow."""


AGAINST = frozenset({Standing.FALSIFIED, Standing.STOPPED, Standing.REFUTED})


@dataclass(frozen=True, kw_only=True, slots=True)
class Backing:
    """A test or harness and what is known of it."""

    id: str
    standing: Standing
    reason: str
    level: Level = Level.LIVE
    """Of a test; a proof is never live."""

    def as_json(self) -> dict[str, str]:
        """The same facts, for `--json`."""
        return {"id": self.id, "standing": self.standing.value, "reason": self.reason}


@dataclass(frozen=True, kw_only=True, slots=True)
class ObligationState:
    """One obligation, judged."""

    label: str
    """Its id, or else its property."""
    property: str
    state: State
    reason: str
    tests: tuple[Backing, ...]
    harnesses: tuple[Backing, ...]

    @builtins.property  # the field above took the plain name
    def is_tested(self) -> bool:
        """A bound test survived, at any level, and nothing speaks against it."""
        return self._has(Standing.SURVIVED) and not self._is_contradicted

    @builtins.property
    def is_proved(self) -> bool:
        """A bound harness is proved, and nothing speaks against it."""
        return self._has(Standing.PROVED) and not self._is_contradicted

    @builtins.property
    def _is_contradicted(self) -> bool:
        return any(b.standing in AGAINST for b in (*self.tests, *self.harnesses))

    def _has(self, standing: Standing) -> bool:
        return any(b.standing is standing for b in (*self.tests, *self.harnesses))

    def as_json(self) -> dict[str, Any]:
        """The same facts, for `--json`."""
        return {
            "obligation": self.label,
            "property": self.property,
            "state": self.state.value,
            "reason": self.reason,
            "tests": [backing.as_json() for backing in self.tests],
            "harnesses": [backing.as_json() for backing in self.harnesses],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ContractBoard:
    """One contract's obligations, tests and harnesses."""

    contract: Contract
    obligations: tuple[ObligationState, ...]
    num_not_applicable: int
    """Obligations that declare themselves to be no property of code; not counted."""
    tests: tuple[Backing, ...]
    keys: dict[str, TestKeys]
    harnesses: tuple[Backing, ...]
    truncated: str | None
    """What is wrong with the last line of the evidence, if a crash cut it short."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoreboard:
    """Every contract of a corpus, judged."""

    contracts: tuple[ContractBoard, ...]

    def count(self, state: State) -> int:
        """How many obligations are in this state."""
        return sum(1 for b in self.contracts for o in b.obligations if o.state is state)

    @property
    def total(self) -> str:
        """Discharged + partial: `15+33`."""
        return f"{self.count(State.DISCHARGED)}+{self.count(State.PARTIAL)}"


def score_corpus(corpus: Corpus, evidence: Path | None = None) -> Scoreboard:
    """Judge every obligation of every contract.

    Args:
        corpus: the contracts.
        evidence: folder of the records, instead of each project's own.

    Raises:
        EvidenceError: a file of evidence is malformed.
        ContractError: the project's settings, or a test's keys, mean nothing.
        FileError: evidence or settings cannot be read.
        NothingMeasuredError: no contract states an obligation.
    """
    found: dict[Path, tuple[Project, Fingerprints]] = {}
    boards = []
    for contract in corpus.contracts:
        project = find_project(contract.source.file)
        project, fingerprints = found.setdefault(project.root, (project, Fingerprints(project)))
        ledger = read_ledger(evidence or project.evidence, contract.stem)
        boards.append(_score_contract(contract, project, fingerprints, ledger))
    if not any(board.obligations for board in boards):
        raise NothingMeasuredError(
            "decline: no contract states an obligation",
            where=corpus.target,
            expected="at least one entry of `proof_obligations` that applies to code",
            found=f"{len(boards)} contracts without one",
            hint="name the folder that holds the contracts; nothing was judged",
        )
    return Scoreboard(contracts=tuple(boards))


def _score_contract(
    contract: Contract, project: Project, fingerprints: Fingerprints, ledger: Ledger
) -> ContractBoard:
    keys = dict(read_test_keys(contract))
    judge = _Judge(contract, project, fingerprints, ledger)
    tests = {test.id: judge.test(test, keys[test.id]) for test in contract.tests}
    harnesses = {harness.id: judge.harness(harness) for harness in contract.harnesses}
    applicable = [o for o in contract.obligations if not o.is_not_applicable]
    states = []
    for obligation in applicable:
        names = names_of(obligation)
        bound_tests = [tests[t.id] for t in contract.tests if t.rule in names]
        bound_harnesses = [harnesses[h.id] for h in contract.harnesses if h.obligation in names]
        states.append(_judge_obligation(obligation, bound_tests, bound_harnesses))
    return ContractBoard(
        contract=contract,
        obligations=tuple(states),
        num_not_applicable=len(contract.obligations) - len(applicable),
        tests=tuple(tests.values()),
        keys=keys,
        harnesses=tuple(harnesses.values()),
        truncated=ledger.truncated,
    )


class _Judge:
    """Says what is known now of one contract's tests and harnesses."""

    def __init__(
        self, contract: Contract, project: Project, fingerprints: Fingerprints, ledger: Ledger
    ) -> None:
        self._contract = contract
        self._project = project
        self._fingerprints = fingerprints
        self._ledger = ledger

    def test(self, test: FalsificationTest, keys: TestKeys) -> Backing:
        standing, reason = self._recorded(test.id, FalsificationRecord)
        if standing in {Standing.NOT_RUN, Standing.STALE}:
            absent = [f for f in keys.fixtures if self._fingerprints.find_model(f) is None]
            plan = plan_command(test.test, self._project, shell=True)  # noqa: S604 - only planned
            if isinstance(plan, NotRunnable):
                standing, reason = Standing.NOT_RUNNABLE, plan.reason
            elif absent:
                standing = Standing.BLOCKED
                reason = f"a fixture is absent: {', '.join(absent)}"
        return Backing(id=test.id, standing=standing, reason=reason, level=keys.level)

    def harness(self, harness: Harness) -> Backing:
        standing, reason = self._recorded(harness.id, ProofRecord)
        record = self._ledger.latest(harness.id, ProofRecord)
        if (
            standing is Standing.PROVED
            and isinstance(record, ProofRecord)
            and harness.bound is not None
            and (record.bound is None or record.bound < harness.bound)
        ):
            standing = Standing.UNKNOWN
            reason = f"proved up to bound {record.bound} only, not {harness.bound}"
        return Backing(id=harness.id, standing=standing, reason=reason, level=Level.ALGORITHM)

    def _recorded(
        self, record_id: str, kind: type[FalsificationRecord | ProofRecord]
    ) -> tuple[Standing, str]:
        record = self._ledger.latest(record_id, kind)
        if record is None:
            return Standing.NOT_RUN, "never run"
        changed = stale_reasons(record, self._contract, self._fingerprints)
        if changed:
            return Standing.STALE, f"{'; '.join(changed)} since {record.stamp.started}"
        return Standing(record.verdict.value), record.reason


def _judge_obligation(
    obligation: Obligation, tests: list[Backing], harnesses: list[Backing]
) -> ObligationState:
    state, reason = _state(tests, harnesses)
    return ObligationState(
        label=obligation.id or obligation.property,
        property=obligation.property,
        state=state,
        reason=reason,
        tests=tuple(tests),
        harnesses=tuple(harnesses),
    )


def _state(tests: list[Backing], harnesses: list[Backing]) -> tuple[State, str]:
    against = [b for b in (*tests, *harnesses) if b.standing in AGAINST]
    if against:
        return State.OPEN, _named(against)
    runnable = [t for t in tests if t.standing is not Standing.NOT_RUNNABLE]
    survived = [t for t in runnable if t.standing is Standing.SURVIVED]
    missing = [t for t in runnable if t.standing is not Standing.SURVIVED]
    live = [t for t in survived if t.level is Level.LIVE]
    proved = [h for h in harnesses if h.standing is Standing.PROVED]
    if live and not missing:
        return State.DISCHARGED, _named(survived + proved)
    if proved or survived:
        held_back = f"; but {_named(missing)}" if missing else "; no live evidence"
        return State.PARTIAL, _named(proved + survived) + held_back
    blocked = [t for t in missing if t.standing is Standing.BLOCKED]
    if blocked:
        return State.BLOCKED, _named(blocked)
    if tests or harnesses:
        return State.OPEN, _named([*missing, *harnesses] or tests)
    return State.OPEN, "no test and no harness names it"


def _named(backings: list[Backing]) -> str:
    """`F-1, F-2 SURVIVED; F-3 STALE (the code changed)`."""
    groups: dict[str, list[str]] = {}
    for backing in backings:
        why = f" ({backing.reason})" if backing.reason else ""
        groups.setdefault(f"{backing.standing.value}{why}", []).append(backing.id)
    return "; ".join(f"{', '.join(ids)} {what}" for what, ids in groups.items())
