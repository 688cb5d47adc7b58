"""What a run of `pv lint` found, gate by gate; as text and for `--json`."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotejar.contracts.findings import Finding, Severity, count
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from cotejar.contracts.lint_trend import Snapshot


class GateState(enum.Enum):
    """How a gate ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True, slots=True)
class Suppressed:
    """A finding that does not count, and why."""

    finding: Finding
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GateResult:
    """One gate's findings."""

    name: str
    state: GateState
    findings: tuple[Finding, ...] = ()
    suppressed: tuple[Suppressed, ...] = ()
    known: tuple[Finding, ...] = ()
    """In the baseline; they do not count."""
    why_skipped: str = ""

    def as_json(self) -> dict[str, Any]:
        """The same facts, for `--json`."""
        return {
            "gate": self.name,
            "state": self.state.value,
            "why_skipped": self.why_skipped or None,
            "findings": [finding.as_json() for finding in self.findings],
            "known": [finding.as_json() for finding in self.known],
            "suppressed": [
                {**one.finding.as_json(), "reason": one.reason} for one in self.suppressed
            ],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class LintReport:
    """All gates that were asked for."""

    target: str
    num_contracts: int
    """That parsed."""
    num_judged: int
    """Contracts that were judged, broken ones too; fewer than there are where only those
    that changed are judged.
    """
    gates: tuple[GateResult, ...]
    stale: tuple[Finding, ...]
    effort_minutes: int
    strict: bool
    changed_since: str | None = None
    num_gone: int | None = None
    """Findings of the baseline that are not here any more; None without a baseline."""
    snapshot: Snapshot | None = None
    """What was added to the trend."""

    @property
    def findings(self) -> list[Finding]:
        """Those that count, gate by gate."""
        return [f for gate in self.gates for f in gate.findings] + [*self.stale]

    @property
    def known(self) -> list[Finding]:
        """Those that the baseline knows."""
        return [finding for gate in self.gates for finding in gate.known]

    @property
    def verdict(self) -> Verdict:
        """FAIL if a gate failed; INCOMPARABLE if none ran, or no contract could be read."""
        states = {gate.state for gate in self.gates}
        if GateState.FAILED in states or (self.strict and self.stale):
            return Verdict.FAIL
        measured = GateState.PASSED in states and self.num_contracts > 0
        return Verdict.PASS if measured else Verdict.INCOMPARABLE

    def as_json(self) -> dict[str, Any]:
        """The same facts, for `--json`."""
        findings = self.findings
        return {
            "verdict": self.verdict.value,
            "exit_code": self.verdict.exit_code,
            "passed": self.verdict is Verdict.PASS,
            "path": self.target,
            "num_contracts": self.num_contracts,
            "num_judged": self.num_judged,
            "changed_since": self.changed_since,
            "num_errors": count(findings, Severity.ERROR),
            "num_warnings": count(findings, Severity.WARNING),
            "num_infos": count(findings, Severity.INFO),
            "num_suppressed": sum(len(gate.suppressed) for gate in self.gates),
            "num_known": sum(len(gate.known) for gate in self.gates),
            "num_gone": self.num_gone,
            "effort_minutes": self.effort_minutes,
            "gates": [gate.as_json() for gate in self.gates],
            "stale_suppressions": [finding.as_json() for finding in self.stale],
            "trend": None if self.snapshot is None else self.snapshot.as_json(),
        }


def lint_text(report: LintReport, *, least: Severity = Severity.INFO) -> str:
    """The gates, the findings of at least that severity by file, and the summary."""
    shown = tuple(Severity)[: tuple(Severity).index(least) + 1]
    lines = [_gate_line(gate) for gate in report.gates]
    by_file: dict[str, list[Finding]] = {}
    for finding in report.findings:
        if finding.severity in shown:
            by_file.setdefault(finding.file, []).append(finding)
    for file, findings in by_file.items():
        lines += ["", file]
        lines += [
            f"  {f.line}:{f.column} [{f.severity.label}] {f.rule}: {f.message}"
            for f in findings
        ]
    return "\n".join([*lines, "", *_summary(report)])


def _gate_line(gate: GateResult) -> str:
    if gate.state is GateState.SKIPPED:
        return f"[SKIP] {gate.name}{f': {gate.why_skipped}' if gate.why_skipped else ''}"
    word = "PASS" if gate.state is GateState.PASSED else "FAIL"
    found = f"{len(gate.findings)} finding(s)" if gate.findings else "nothing found"
    known = f", {len(gate.known)} in the baseline" if gate.known else ""
    return f"[{word}] {gate.name}: {found}{known}"


def _summary(report: LintReport) -> list[str]:
    facts = report.as_json()
    judged = f"{report.num_contracts} contract(s)"
    if report.changed_since is not None:
        judged = f"{report.num_judged} of {judged}, changed since {report.changed_since}"
    lines = [
        f"Summary: {facts['num_errors']} errors, {facts['num_warnings']} warnings, "
        f"{facts['num_infos']} infos, {facts['num_suppressed']} suppressed, in {judged}",
        f"Effort: about {report.effort_minutes} minutes",
    ]
    if report.num_gone is not None:
        lines.append(f"Baseline: {facts['num_known']} known, {report.num_gone} gone")
    if report.snapshot is not None:
        lines.append(f"Trend: {report.snapshot.as_text()}")
    return [*lines, f"Result: {report.verdict.value}"]
