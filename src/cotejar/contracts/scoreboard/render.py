"""The scoreboard as text, Markdown and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cotejar.contracts.findings import Finding, Severity, count
from cotejar.contracts.scoreboard.states import State
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.contracts.scoreboard.states import Scoreboard


def total_text(scoreboard: Scoreboard) -> str:
    """`15+33 of 57 obligations (15 discharged, 33 partial, 7 open, 2 blocked)`."""
    counts = ", ".join(f"{scoreboard.count(s)} {s.value.lower()}" for s in State)
    num_obligations = sum(len(board.obligations) for board in scoreboard.contracts)
    apart = sum(board.num_not_applicable for board in scoreboard.contracts)
    not_counted = f"; {apart} not applicable" if apart else ""
    return f"{scoreboard.total} of {num_obligations} obligations ({counts}{not_counted})"


def scoreboard_text(scoreboard: Scoreboard, findings: Sequence[Finding] = ()) -> str:
    """A line an obligation, the findings, and the total."""
    lines = []
    for board in scoreboard.contracts:
        lines.append(board.contract.source.file)
        for obligation in board.obligations:
            state = obligation.state.value
            lines.append(f"  {state:<10} {obligation.label}: {obligation.reason}")
    lines += [finding.as_text() for finding in findings]
    return "\n".join([*lines, "", total_text(scoreboard)])


def scoreboard_markdown(scoreboard: Scoreboard, findings: Sequence[Finding] = ()) -> str:
    """A table for a README, with the total above it."""
    lines = [
        f"**{total_text(scoreboard)}**",
        "",
        "| contract | obligation | state | why |",
        "| --- | --- | --- | --- |",
    ]
    for board in scoreboard.contracts:
        for obligation in board.obligations:
            cells = (
                f"`{board.contract.stem}`",
                obligation.label,
                obligation.state.value,
                obligation.reason,
            )
            lines.append("| " + " | ".join(_cell(text) for text in cells) + " |")
    if findings:
        lines += ["", *(f"- {_cell(finding.as_text())}" for finding in findings)]
    return "\n".join(lines)


def check_verdict(findings: Sequence[Finding], num_skipped_files: int) -> Verdict:
    """FAIL if a claim is not borne out; a file that nobody could read leaves it open."""
    if count(findings, Severity.ERROR):
        return Verdict.FAIL
    return Verdict.INCOMPARABLE if num_skipped_files else Verdict.PASS


def scoreboard_json(
    scoreboard: Scoreboard, findings: Sequence[Finding], exit_code: int
) -> dict[str, Any]:
    """The same facts, for `--json`."""
    return {
        "exit_code": exit_code,
        "total": scoreboard.total,
        "counts": {state.value: scoreboard.count(state) for state in State},
        "contracts": [
            {
                "file": board.contract.source.file,
                "contract": board.contract.stem,
                "num_not_applicable": board.num_not_applicable,
                "truncated": board.truncated,
                "obligations": [o.as_json() for o in board.obligations],
            }
            for board in scoreboard.contracts
        ],
        "findings": [finding.as_json() for finding in findings],
    }


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
