"""What contracts claim of themselves, held against the evidence.

| rule       | a claim                                                                  |
| ---------- | ------------------------------------------------------------------------ |
| PV-CLM-001 | `verification_summary.l2_property_tested`: obligations with a survivor   |
| PV-CLM-002 | `verification_summary.l3_kani_proved`: obligations that are proved       |
| PV-CLM-003 | `l4_lean_proved`, `lean.status: proved`: no record of a Lean proof is kept |
| PV-CLM-004 | `status`, at the top or in `metadata`, that says the contract is met     |
| PV-CLM-005 | a test's `discharge_status`, or its `algorithm_evidence.status`          |
| PV-CLM-006 | a harness's `actually_verified: true`                                    |
| PV-CLM-007 | a word of status that this check does not know: a note, not an error     |

Words of status that claim everything, that claim something, and that claim nothing are
listed below; case and hyphens do not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cotejar.contracts.findings import Finding, Severity
from cotejar.contracts.schema import LeanStatus
from cotejar.contracts.scoreboard.states import Standing, State
from cotejar.contracts.source import path_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.scoreboard.states import ContractBoard, Scoreboard

CLAIMS_ALL = frozenset(
    {
        "ACTIVE_RUNTIME",
        "DISCHARGED",
        "ENFORCED",
        "IMPLEMENTED",
        "PROVED",
        "PROVEN",
        "SHIPPED",
        "VERIFIED",
    }
)
CLAIMS_PART = frozenset(
    {"ACTIVE_ALGORITHM_LEVEL", "ACTIVE_FUNCTIONAL", "PARTIAL", "PARTIAL_ALGORITHM_LEVEL"}
)
CLAIMS_NOTHING = frozenset(
    {
        "ACTIVE",
        "BLOCKED",
        "BLOCKER_FIXTURE_ABSENT",
        "DEPRECATED",
        "DRAFT",
        "IMPLEMENTING",
        "OPEN",
        "PENDING",
        "PLANNED",
        "PRE_REGISTERED",
        "PROPOSED",
    }
)


def check_claims(scoreboard: Scoreboard) -> list[Finding]:
    """Every claim that the evidence does not bear out."""
    return [finding for board in scoreboard.contracts for finding in _check(board)]


def _check(board: ContractBoard) -> Iterator[Finding]:
    yield from _check_summary(board)
    yield from _check_lean(board)
    yield from _check_status(board)
    yield from _check_tests(board)
    yield from _check_harnesses(board)


def _check_summary(board: ContractBoard) -> Iterator[Finding]:
    summary = board.contract.verification_summary
    if summary is None:
        return
    num_tested = sum(o.is_tested for o in board.obligations)
    num_proved = sum(o.is_proved for o in board.obligations)
    counts = (
        ("PV-CLM-001", "l2_property_tested", summary.l2_property_tested, num_tested),
        ("PV-CLM-002", "l3_kani_proved", summary.l3_kani_proved, num_proved),
    )
    for rule, key, claimed, found in counts:
        if claimed > found:
            message = f"{key} claims {claimed} obligations; fresh evidence shows {found}"
            yield _finding(board, rule, message, "verification_summary", key)


def _check_lean(board: ContractBoard) -> Iterator[Finding]:
    summary = board.contract.verification_summary
    if summary is not None and summary.l4_lean_proved > 0:
        message = f"l4_lean_proved claims {summary.l4_lean_proved}; no Lean proof is on record"
        yield _finding(board, "PV-CLM-003", message, "verification_summary", "l4_lean_proved")
    for index, obligation in enumerate(board.contract.obligations):
        if obligation.lean is not None and obligation.lean.status is LeanStatus.PROVED:
            message = f"{obligation.lean.theorem} is called proved; no Lean proof is on record"
            path = ("proof_obligations", index, "lean", "status")
            yield _finding(board, "PV-CLM-003", message, *path)


def _check_status(board: ContractBoard) -> Iterator[Finding]:
    source = board.contract.source
    metadata = source.value_of("metadata")
    inner = metadata.get("status") if isinstance(metadata, dict) else None
    for text, path in (
        (source.value_of("status"), ("status",)),
        (inner, ("metadata", "status")),
    ):
        if not isinstance(text, str):
            continue
        word = _normal(text)
        allowed = _allowed_states(word)
        if allowed is None:
            yield _unknown_word(board, text, *path)
            continue
        short = [o for o in board.obligations if o.state not in allowed]
        if short or (not board.obligations and len(allowed) < len(State)):
            named = ", ".join(f"{o.label} is {o.state.value}" for o in short[:3])
            message = (
                f"status {text} needs every obligation {' or '.join(allowed)}; "
                f"{len(short)} of {len(board.obligations)} are not: {named or 'there is none'}"
            )
            yield _finding(board, "PV-CLM-004", message, *path)


def _check_tests(board: ContractBoard) -> Iterator[Finding]:
    standings = {test.id: test for test in board.tests}
    for index, test in enumerate(board.contract.tests):
        text = board.keys[test.id].discharge_status
        if text is None:
            continue
        path = ("falsification_tests", index, "discharge_status")
        allowed = _allowed_states(_normal(text))
        if allowed is None:
            yield _unknown_word(board, text, *path)
        elif len(allowed) < len(State):
            found = standings[test.id]
            if found.standing is not Standing.SURVIVED:
                why = f" ({found.reason})" if found.reason else ""
                message = f"{test.id} is called {text}; it is {found.standing.value}{why}"
                yield _finding(board, "PV-CLM-005", message, *path)


def _check_harnesses(board: ContractBoard) -> Iterator[Finding]:
    standings = {harness.id: harness for harness in board.harnesses}
    for index, harness in enumerate(board.contract.harnesses):
        found = standings[harness.id]
        if harness.actually_verified and found.standing is not Standing.PROVED:
            why = f" ({found.reason})" if found.reason else ""
            message = f"{harness.id} is called verified; it is {found.standing.value}{why}"
            path = ("kani_harnesses", index, "actually_verified")
            yield _finding(board, "PV-CLM-006", message, *path)


def _normal(text: str) -> str:
    return text.strip().upper().replace("-", "_").replace(" ", "_")


def _allowed_states(word: str) -> tuple[State, ...] | None:
    """States that bear the word out; None if the word is unknown."""
    if word in CLAIMS_ALL:
        return (State.DISCHARGED,)
    if word in CLAIMS_PART:
        return (State.DISCHARGED, State.PARTIAL)
    return tuple(State) if word in CLAIMS_NOTHING else None


def _unknown_word(board: ContractBoard, text: str, *path: str | int) -> Finding:
    message = f"{text!r} is no word of status that this check knows; nothing was checked"
    return _finding(board, "PV-CLM-007", message, *path, severity=Severity.INFO)


def _finding(
    board: ContractBoard,
    rule: str,
    message: str,
    *path: str | int,
    severity: Severity = Severity.ERROR,
) -> Finding:
    source = board.contract.source
    place: Any = source.place_of(path)
    return Finding(
        rule=rule,
        severity=severity,
        message=message,
        file=source.file,
        line=place.line,
        column=place.column,
        path=path_text(path),
    )
