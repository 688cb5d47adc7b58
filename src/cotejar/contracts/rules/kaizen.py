"""Rules on improvement records, `metadata.kind: kaizen`: KAIZEN-001 to 006.

A record claims a measured movement from `baseline` to `target`; the rules ask that it
names itself, can be contradicted, and moves. Two shapes hold a pair: `baseline` and
`target` side by side, or one `baseline` with `before` and `after` in it.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

from cotejar.contracts.rules.rule import Rule, blank

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.findings import Finding
    from cotejar.contracts.schema import Contract, KaizenRecord

STATUSES = ("draft", "implemented", "implementing", "pending", "planned")
COST_WORDS = ("alloc", "bytes", "churn", "launch", "overhead", "sync", "wasted", "_us", "_ms")
"""A metric whose name holds one of these is a cost: lower is better."""

_QUANTITY = re.compile(
    r"(?:<=|>=|<|>|~)?\s*([-0-9._]+)\s*(?:%|\+|x|B|KB|MB|GB|KiB|MiB|GiB|ms|us|s)?"
)
_DECIMAL = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")


class Movement(NamedTuple):
    """One metric that both sides give as a quantity."""

    name: str
    before: float
    after: float


class _KaizenRule(Rule):
    """A rule that only improvement records are held to."""

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Judge the record, if the contract is one."""
        if contract.kaizen is not None:
            yield from self.check_record(contract, contract.kaizen)

    @abstractmethod
    def check_record(self, contract: Contract, record: KaizenRecord) -> Iterator[Finding]:
        """Every violation of the record."""


class NoRecordId(_KaizenRule):
    """KAIZEN-001: an improvement record has no contract id.

    Why:
        Other records and ledgers refer to it by that id.
    Bad:
        metadata: {version: 1.0.0, description: d, kind: kaizen, references: [A source]}
        status: implemented
        invariants: [output unchanged]
    Good:
        metadata: {version: 1.0.0, description: d, kind: kaizen, references: [A source]}
        contract: C-EX-001
        status: implemented
        invariants: [output unchanged]
    """

    def check_record(self, contract: Contract, record: KaizenRecord) -> Iterator[Finding]:
        """Look at the top-level `contract`."""
        if not record.contract:
            message = "an improvement record needs a top-level `contract` id"
            yield self.finding(contract, message, "contract")


class UnknownStatus(_KaizenRule):
    """KAIZEN-002: an improvement record has no known status.

    Why:
        A typo in a status would pass for a state of its own.
    Bad:
        metadata: {version: 1.0.0, description: d, kind: kaizen, references: [A source]}
        contract: C-EX-001
        status: done
        invariants: [output unchanged]
    Good:
        metadata: {version: 1.0.0, description: d, kind: kaizen, references: [A source]}
        contract: C-EX-001
        status: implemented
        invariants: [output unchanged]
    """

    def check_record(self, contract: Contract, record: KaizenRecord) -> Iterator[Finding]:
        """Look at the top-level `status`; blanks around it do not matter."""
        if (record.status or "").strip() not in STATUSES:
            found = "missing" if blank(record.status) else repr(record.status)
            message = (
                f"the top-level status is {found}; it must be one of: {', '.join(STATUSES)}"
            )
            yield self.finding(contract, message, "status")


class NothingFalsifiable(_KaizenRule):
    """KAIZEN-003: an improvement record states nothing that can fail.

    Why:
        What cannot be contradicted is an opinion, not an improvement.
    Bad:
        metadata: {version: 1.0.0, description: d, kind: kaizen, references: [A source]}
        contract: C-EX-001
        status: planned
        proof_obligations: []
        falsification_tests: []
    Good:
        metadata: {version: 1.0.0, description: d, kind: kaizen, references: [A source]}
        contract: C-EX-001
        status: planned
        invariants: [output unchanged]
        proof_obligations: []
        falsification_tests: []
    """

    def check_record(self, contract: Contract, record: KaizenRecord) -> Iterator[Finding]:
        """Look for a pair, invariants, obligations or tests."""
        stated = (
            pair(record) is not None
            or record.invariants not in (None, [], {})
            or contract.obligations
            or contract.tests
        )
        if not stated:
            message = (
                "the record states nothing that can fail: no baseline with a target, no "
                "invariants, no obligations, no tests"
            )
            yield self.finding(contract, message, "baseline")


class IncomparableTarget(_KaizenRule):
    """KAIZEN-004: a target has no baseline that it can be compared with.

    Why:
        An improvement is relative to a measurement of the same quantity before.
    Bad:
        metadata: {version: 1.0.0, description: d, kind: kaizen, references: [A source]}
        contract: C-EX-001
        status: planned
        target: {allocs: 3}
    Good:
        metadata: {version: 1.0.0, description: d, kind: kaizen, references: [A source]}
        contract: C-EX-001
        status: planned
        baseline: {allocs: 9}
        target: {allocs: 3}
    """

    def check_record(self, contract: Contract, record: KaizenRecord) -> Iterator[Finding]:
        """Both must be mappings with a key in common."""
        if record.target is None:
            return
        if not isinstance(record.target, dict):
            yield self.finding(contract, "target is no mapping of metrics", "target")
        elif not isinstance(record.baseline, dict):
            message = "target has no baseline mapping to be compared with"
            yield self.finding(contract, message, "baseline")
        elif not record.baseline.keys() & record.target.keys():
            message = "baseline and target have no metric in common"
            yield self.finding(contract, message, "target")


class NothingMoves(_KaizenRule):
    """KAIZEN-005: no metric moves from baseline to target.

    Why:
        A record that claims no movement cannot be wrong.
    Bad:
        metadata: {version: 1.0.0, description: d, kind: kaizen, references: [A source]}
        contract: C-EX-001
        status: planned
        baseline: {allocs: 9}
        target: {allocs: 9}
    Good:
        metadata: {version: 1.0.0, description: d, kind: kaizen, references: [A source]}
        contract: C-EX-001
        status: planned
        baseline: {allocs: 9}
        target: {allocs: "<5"}
    """

    def check_record(self, contract: Contract, record: KaizenRecord) -> Iterator[Finding]:
        """Compare every metric that both sides give as a quantity."""
        sides = pair(record)
        if sides is None:
            return
        moves = movements(*sides)
        if not moves:
            message = "no metric is a quantity on both sides, so nothing can be compared"
            yield self.finding(contract, message, "target")
        elif all(move.before == move.after for move in moves):
            names = ", ".join(move.name for move in moves)
            message = f"no comparable metric moves: {names}"
            yield self.finding(contract, message, "target")


class EveryCostRises(_KaizenRule):
    """KAIZEN-006: a cost rises and no cost falls.

    Why:
        Then baseline and target are the wrong way round, or it is a regression. A record
        may buy one cost with another: one that falls is enough.
    Bad:
        metadata: {version: 1.0.0, description: d, kind: kaizen, references: [A source]}
        contract: C-EX-001
        status: planned
        baseline: {allocs: 3, sync_points: 2}
        target: {allocs: 9, sync_points: 2}
    Good:
        metadata: {version: 1.0.0, description: d, kind: kaizen, references: [A source]}
        contract: C-EX-001
        status: planned
        baseline: {allocs: 3, sync_points: 2}
        target: {allocs: 9, sync_points: 1}
    """

    def check_record(self, contract: Contract, record: KaizenRecord) -> Iterator[Finding]:
        """Look at every comparable metric whose name says that it is a cost."""
        sides = pair(record)
        if sides is None:
            return
        costs = [
            move
            for move in movements(*sides)
            if any(word in move.name.lower() for word in COST_WORDS)
        ]
        risen = [move for move in costs if move.after > move.before]
        if risen and not any(move.after < move.before for move in costs):
            rises = ", ".join(f"{m.name} {m.before:g} -> {m.after:g}" for m in risen)
            message = f"costs rise and none falls: {rises}; are baseline and target swapped?"
            yield self.finding(contract, message, "target")


def pair(record: KaizenRecord) -> tuple[dict[Any, Any], dict[Any, Any]] | None:
    """The metrics before and after; None if the record does not give both as mappings."""
    baseline = record.baseline
    if not isinstance(baseline, dict):
        return None
    before, after = baseline.get("before"), baseline.get("after")
    if isinstance(before, dict) and isinstance(after, dict):
        return before, after
    return (baseline, record.target) if isinstance(record.target, dict) else None


def movements(before: dict[Any, Any], after: dict[Any, Any]) -> list[Movement]:
    """Every metric that both sides give as a quantity."""
    found = []
    for name, value in before.items():
        if not isinstance(name, str) or name not in after:
            continue
        first, second = parse_quantity(value), parse_quantity(after[name])
        if first is not None and second is not None:
            found.append(Movement(name, first, second))
    return found


def parse_quantity(value: object) -> float | None:
    """A number, or text such as `<5`, `1_000+`, `100%`, `3 ms`; a date or prose is None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        # An integer of 400 digits has no float.
        return float(value) if abs(value) <= 1e308 else None  # noqa: PLR2004 - a float's range
    if not isinstance(value, str):
        return None
    match = _QUANTITY.fullmatch(value.strip())
    digits = match.group(1).replace("_", "") if match else ""
    number = float(digits) if _DECIMAL.fullmatch(digits) else math.inf
    return number if math.isfinite(number) else None
