"""Lint a set of contracts: gate by gate, the first of which decides whether others run.

    validate            every rule of `pv validate`, under the catalogue's ids
    audit               every rule of `pv audit`, and PV-AUD
    score               PV-SCR; --min-score
    verify              the tests that commands name are there: PV-VER
    enforce             conditions and theorems: PV-ENF
    enforcement-level   what is listed against what is declared: PV-LCK
    duplicate-stems     PV-DUP

A gate fails on an error (with `strict` on a warning too). Where `validate` fails, the
others are skipped: what they would say of a broken contract means little.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotejar.contracts.corpus import find_contract_files
from cotejar.contracts.findings import Finding, Severity, count
from cotejar.contracts.lint_config import LintConfig
from cotejar.contracts.read import read_contract
from cotejar.contracts.rules.audit import AUDIT_RULES
from cotejar.contracts.rules.audit_rule import AuditSubject
from cotejar.contracts.rules.every_rule import LINT_RULES
from cotejar.contracts.rules.lint_rule import LintRule, LintSettings, LintSubject
from cotejar.contracts.rules.lint_run import RepeatedStem, StaleSuppression
from cotejar.contracts.rules.lint_validate import SchemaBroken
from cotejar.contracts.rules.spec_pointers import SPEC_RULE
from cotejar.contracts.validate import ReadProblem, validate_contract
from cotejar.errors import ContractError, CotejarError, UnknownRuleError
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cotejar.contracts.rules.lint_run import Suppression
    from cotejar.contracts.schema import Contract

GATES = (
    "validate",
    "audit",
    "score",
    "verify",
    "enforce",
    "enforcement-level",
    "duplicate-stems",
)
SAID_ELSEWHERE = frozenset({"TRACE-002", "TRACE-003"})
"""Audit rules that PV-AUD-003 and PV-VER-001 are the catalogue's names of."""
AUDIT_EFFORT_MINUTES = 15


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


@dataclass(frozen=True, kw_only=True, slots=True)
class LintReport:
    """All gates that were asked for."""

    target: str
    num_contracts: int
    """That parsed."""
    gates: tuple[GateResult, ...]
    stale: tuple[Finding, ...]
    effort_minutes: int
    strict: bool

    @property
    def findings(self) -> list[Finding]:
        """Those that count, gate by gate."""
        return [f for gate in self.gates for f in gate.findings] + [*self.stale]

    @property
    def verdict(self) -> Verdict:
        """FAIL if a gate failed; INCOMPARABLE if none ran."""
        states = {gate.state for gate in self.gates}
        if GateState.FAILED in states or (self.strict and self.stale):
            return Verdict.FAIL
        return Verdict.PASS if GateState.PASSED in states else Verdict.INCOMPARABLE

    def as_json(self) -> dict[str, Any]:
        """The same facts, for `--json`."""
        findings = self.findings
        return {
            "verdict": self.verdict.value,
            "exit_code": self.verdict.exit_code,
            "passed": self.verdict is Verdict.PASS,
            "path": self.target,
            "num_contracts": self.num_contracts,
            "num_errors": count(findings, Severity.ERROR),
            "num_warnings": count(findings, Severity.WARNING),
            "num_infos": count(findings, Severity.INFO),
            "num_suppressed": sum(len(gate.suppressed) for gate in self.gates),
            "effort_minutes": self.effort_minutes,
            "gates": [
                {
                    "gate": gate.name,
                    "state": gate.state.value,
                    "findings": [finding.as_json() for finding in gate.findings],
                    "suppressed": [
                        {**one.finding.as_json(), "reason": one.reason}
                        for one in gate.suppressed
                    ],
                }
                for gate in self.gates
            ],
            "stale_suppressions": [finding.as_json() for finding in self.stale],
        }


def lint_path(
    path: str,
    *,
    settings: LintSettings | None = None,
    config: LintConfig | None = None,
    gates: Sequence[str] = (),
    strict: bool = False,
) -> LintReport:
    """Lint one contract, or every contract under a folder; `gates` empty means all.

    Raises:
        FileError: the path is missing or cannot be read.
        NoContractsError: the folder holds no contract.
        UnknownRuleError: no gate has such a name.
    """
    _require_gates(gates)
    is_folder = Path(path).is_dir()
    files = find_contract_files(path) if is_folder else [path]
    config = config or LintConfig(severities={}, suppressions=())
    run = _Run(
        path=path,
        is_folder=is_folder,
        settings=settings or LintSettings(),
        config=config,
        strict=strict,
    )
    run.read(files)
    results = run.judge(gates)
    return LintReport(
        target=path,
        num_contracts=len(run.subjects),
        gates=results,
        stale=run.stale(gates, results),
        effort_minutes=sum(run.effort(f) for gate in results for f in gate.findings),
        strict=strict,
    )


@dataclass(kw_only=True, slots=True)
class _Run:
    """The contracts of one run and what was used of its suppressions."""

    path: str
    is_folder: bool
    settings: LintSettings
    config: LintConfig
    strict: bool
    subjects: list[LintSubject] = field(default_factory=list)
    broken: list[Finding] = field(default_factory=list)
    used: set[Suppression] = field(default_factory=set)
    efforts: dict[str, int] = field(default_factory=dict)

    def read(self, files: Iterable[str]) -> None:
        """Parse every file; one that does not parse is a finding of PV-VAL-001."""
        self.efforts = {rule.id: rule.effort_minutes for rule in LINT_RULES}
        self.efforts["PV-DUP-001"] = RepeatedStem.effort_minutes
        # One file that cannot be read must not hide what the others of a folder hold.
        caught = CotejarError if self.is_folder else ContractError
        for file in files:
            try:
                contract = read_contract(file)
            except caught as error:
                finding = ReadProblem.of(error).as_finding(file)
                message = f"{finding.rule}: {finding.message}"
                self.broken.append(replace(finding, rule=SchemaBroken().id, message=message))
            else:
                violations = validate_contract(contract)
                self.subjects.append(
                    LintSubject(
                        contract=contract, violations=violations, settings=self.settings
                    )
                )

    def judge(self, gates: Sequence[str]) -> tuple[GateResult, ...]:
        """Run the gates in order; after a failed `validate` the rest is skipped."""
        results: list[GateResult] = []
        for name in GATES:
            if gates and name not in gates:
                continue
            validated = not results or results[0].name != "validate"
            if not validated and results[0].state is GateState.FAILED:
                results.append(GateResult(name=name, state=GateState.SKIPPED))
            else:
                results.append(self._run_gate(name))
        return tuple(results)

    def stale(self, gates: Sequence[str], results: Sequence[GateResult]) -> tuple[Finding, ...]:
        """Suppressions that nothing used, where every gate had its say."""
        complete = not gates and all(r.state is not GateState.SKIPPED for r in results)
        unused = [s for s in self.config.suppressions if s not in self.used]
        return tuple(StaleSuppression().check(unused)) if complete else ()

    def effort(self, finding: Finding) -> int:
        """Minutes to mend a finding, as a rule of thumb."""
        return self.efforts.get(finding.rule, AUDIT_EFFORT_MINUTES)

    def _run_gate(self, name: str) -> GateResult:
        counted: list[Finding] = []
        suppressed: list[Suppressed] = []
        for finding, stem in self._find(name):
            severity = self.config.severities.get(finding.rule, finding.severity)
            if severity is None:
                continue
            judged = replace(finding, severity=severity)
            cover = next((s for s in self.config.suppressions if s.covers(judged, stem)), None)
            if cover is None:
                counted.append(judged)
            else:
                self.used.add(cover)
                suppressed.append(Suppressed(finding=judged, reason=cover.reason))
        fatal = {Severity.ERROR, Severity.WARNING} if self.strict else {Severity.ERROR}
        failed = any(finding.severity in fatal for finding in counted)
        return GateResult(
            name=name,
            state=GateState.FAILED if failed else GateState.PASSED,
            findings=tuple(counted),
            suppressed=tuple(suppressed),
        )

    def _find(self, gate: str) -> Iterable[tuple[Finding, str]]:
        """Every finding of a gate, with the stem of its contract."""
        contracts = [subject.contract for subject in self.subjects]
        if gate == "validate":
            yield from ((finding, Path(finding.file).stem) for finding in self.broken)
        if gate == "duplicate-stems":
            yield from ((f, Path(f.file).stem) for f in RepeatedStem().check(contracts))
        rules: list[LintRule] = [rule for rule in LINT_RULES if rule.gate == gate]
        for subject in self.subjects:
            for rule in rules:
                for finding in rule.check(subject):
                    yield finding, subject.contract.stem
            if gate == "audit":
                yield from self._audit(subject.contract)
        if gate == "audit" and self.is_folder:
            yield from ((f, Path(f.file).stem) for f in SPEC_RULE.check(contracts))

    def _audit(self, contract: Contract) -> Iterable[tuple[Finding, str]]:
        subject = AuditSubject(contract=contract, bindings=self.settings.bindings)
        for rule in AUDIT_RULES:
            if rule.id not in SAID_ELSEWHERE:
                for finding in rule.check(subject):
                    yield finding, contract.stem


def lint_text(report: LintReport, *, least: Severity = Severity.INFO) -> str:
    """The gates, the findings of at least that severity by file, and the summary."""
    shown = tuple(Severity)[: tuple(Severity).index(least) + 1]
    lines = []
    for gate in report.gates:
        word = {"passed": "PASS", "failed": "FAIL", "skipped": "SKIP"}[gate.state.value]
        found = f"{len(gate.findings)} finding(s)" if gate.findings else "nothing found"
        lines.append(f"[{word}] {gate.name}{'' if word == 'SKIP' else f': {found}'}")
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
    facts = report.as_json()
    lines += [
        "",
        f"Summary: {facts['num_errors']} errors, {facts['num_warnings']} warnings, "
        f"{facts['num_infos']} infos, {facts['num_suppressed']} suppressed, in "
        f"{report.num_contracts} contract(s)",
        f"Effort: about {report.effort_minutes} minutes",
        f"Result: {report.verdict.value}",
    ]
    return "\n".join(lines)


def _require_gates(gates: Sequence[str]) -> None:
    unknown = [name for name in gates if name not in GATES]
    if unknown:
        raise UnknownRuleError(
            f"there is no gate {unknown[0]!r}",
            where="--gate",
            expected=f"one of: {', '.join(GATES)}",
            found=unknown[0],
            hint="without --gate every gate runs",
        )
