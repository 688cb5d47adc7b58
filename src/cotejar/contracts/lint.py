"""Lint a set of contracts: gate by gate, the first of which decides whether others run.

    validate            every rule of `pv validate`, under the catalogue's ids
    audit               every rule of `pv audit`, and PV-AUD
    score               PV-SCR; --min-score
    verify              the tests that commands name are there: PV-VER
    enforce             conditions and theorems: PV-ENF
    enforcement-level   what is listed against what is declared: PV-LCK
    reverse-coverage    functions of --source that no contract speaks of: PV-RCV
    duplicate-stems     PV-DUP
    composition         what one contract assumes of another: COMPOSITION
    trend               this run against those before it: PV-TRD; --trend

A gate fails on an error (with `strict` on a warning too) that no baseline knows. Where
`validate` fails, the others are skipped: what they would say of a broken contract means
little. A gate that lacks what it needs is skipped too, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cotejar.contracts.corpus import find_contract_files, is_folder
from cotejar.contracts.findings import Finding, Severity, count
from cotejar.contracts.lint_changed import (
    find_changed_files,
    nothing_changed,
    select_changed,
)
from cotejar.contracts.lint_config import LintConfig
from cotejar.contracts.lint_report import GateResult, GateState, LintReport, Suppressed
from cotejar.contracts.lint_trend import append_snapshot, make_snapshot, step_of, trend_file
from cotejar.contracts.read import read_contract
from cotejar.contracts.rules.audit import AUDIT_RULES
from cotejar.contracts.rules.audit_rule import AuditSubject
from cotejar.contracts.rules.every_rule import LINT_RULES, RUN_RULES, gate_of
from cotejar.contracts.rules.lint_reverse import REVERSE_RULES
from cotejar.contracts.rules.lint_rule import LintRule, LintSettings, LintSubject
from cotejar.contracts.rules.lint_run import RepeatedStem, StaleSuppression
from cotejar.contracts.rules.lint_shapes import COMPOSITION_RULES
from cotejar.contracts.rules.lint_trend import TREND_RULES
from cotejar.contracts.rules.lint_validate import SchemaBroken
from cotejar.contracts.rules.spec_pointers import SPEC_RULE
from cotejar.contracts.score import score_contract
from cotejar.contracts.validate import ReadProblem, validate_contract
from cotejar.errors import ContractError, CotejarError, UnknownRuleError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cotejar.contracts.lint_baseline import Baseline
    from cotejar.contracts.lint_trend import Snapshot
    from cotejar.contracts.rules.lint_run import Suppression
    from cotejar.contracts.schema import Contract

GATES = (
    "validate",
    "audit",
    "score",
    "verify",
    "enforce",
    "enforcement-level",
    "reverse-coverage",
    "duplicate-stems",
    "composition",
    "trend",
)
SAID_ELSEWHERE = frozenset({"TRACE-002", "TRACE-003"})
"""Audit rules that PV-AUD-003 and PV-VER-001 are the catalogue's names of."""
AUDIT_EFFORT_MINUTES = 15
ASKED_FOR = ("reverse-coverage", "trend")
"""Gates that run only where an option asks for them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LintScope:
    """Which contracts are judged, and what they are held against."""

    changed_since: str | None = None
    """A revision in git: only contracts that differ from it, and those that depend on them."""
    baseline: Baseline | None = None
    records_trend: bool = False
    """Compare with earlier runs, and add this one to them."""


def lint_path(
    path: str,
    *,
    settings: LintSettings | None = None,
    config: LintConfig | None = None,
    gates: Sequence[str] = (),
    strict: bool = False,
    scope: LintScope | None = None,
) -> LintReport:
    """Lint one contract, or every contract under a folder; `gates` empty means all.

    Raises:
        FileError: the path is missing or cannot be read, or the trend cannot be kept.
        NoContractsError: the folder holds no contract.
        NothingMeasuredError: no contract changed, or the source holds no function.
        UnknownRuleError: no gate has such a name.
        UsageError: git does not know the revision, or a trend of a part is asked for.
    """
    scope = scope or LintScope()
    _require_gates(gates)
    if scope.records_trend and (gates or scope.changed_since):
        raise _trend_of_a_part()
    in_folder = is_folder(path)
    files = find_contract_files(path) if in_folder else [path]
    run = _Run(
        path=path,
        is_folder=in_folder,
        settings=settings or LintSettings(),
        config=config or LintConfig(severities={}, suppressions=()),
        strict=strict,
        scope=scope,
    )
    run.read(files)
    results = run.judge(gates)
    return LintReport(
        target=path,
        num_contracts=len(run.contracts),
        num_judged=len(run.subjects) + len(run.broken),
        gates=results,
        stale=run.stale(gates, results),
        effort_minutes=sum(run.effort(f) for gate in results for f in gate.findings),
        strict=strict,
        changed_since=scope.changed_since,
        num_gone=None if scope.baseline is None else scope.baseline.num_left,
        snapshot=run.snapshot,
    )


@dataclass(kw_only=True, slots=True)
class _Run:
    """The contracts of one run and what was used of its suppressions."""

    path: str
    is_folder: bool
    settings: LintSettings
    config: LintConfig
    strict: bool
    scope: LintScope
    contracts: list[Contract] = field(default_factory=list)
    """All that parse: rules on names between contracts need the unchanged ones too."""
    subjects: list[LintSubject] = field(default_factory=list)
    broken: list[Finding] = field(default_factory=list)
    used: set[Suppression] = field(default_factory=set)
    efforts: dict[str, int] = field(default_factory=dict)
    snapshot: Snapshot | None = None

    def read(self, files: Iterable[str]) -> None:
        """Parse every file; one that does not parse is a finding of PV-VAL-001."""
        rules = (*LINT_RULES, *RUN_RULES)
        self.efforts = {rule.id: rule.effort_minutes for rule in rules}
        # One file that cannot be read must not hide what the others of a folder hold.
        caught = CotejarError if self.is_folder else ContractError
        for file in files:
            try:
                self.contracts.append(read_contract(file))
            except caught as error:
                finding = ReadProblem.of(error).as_finding(file)
                message = f"{finding.rule}: {finding.message}"
                self.broken.append(replace(finding, rule=SchemaBroken().id, message=message))
        judged = self.contracts
        if self.scope.changed_since is not None:
            judged = self._select(self.scope.changed_since)
        for contract in judged:
            violations = validate_contract(contract)
            self.subjects.append(
                LintSubject(contract=contract, violations=violations, settings=self.settings)
            )

    def _select(self, revision: str) -> list[Contract]:
        """The contracts that changed, or depend on one; drop broken files that did not."""
        changed = find_changed_files(self.path, revision)
        selected = select_changed(self.contracts, changed)
        self.broken = [f for f in self.broken if Path(f.file).resolve() in selected]
        judged = [c for c in self.contracts if Path(c.source.file).resolve() in selected]
        if not judged and not self.broken:
            raise nothing_changed(self.path, revision)
        return judged

    def judge(self, gates: Sequence[str]) -> tuple[GateResult, ...]:
        """Run the gates in order; after a failed `validate` the rest is skipped."""
        results: list[GateResult] = []
        for name in GATES:
            if gates and name not in gates:
                continue
            invalid = bool(results) and results[0].name == "validate"
            invalid = invalid and results[0].state is GateState.FAILED
            why_skipped = "validate failed" if invalid else self._lacks(name)
            if why_skipped:
                skipped = GateState.SKIPPED
                results.append(GateResult(name=name, state=skipped, why_skipped=why_skipped))
            else:
                results.append(self._run_gate(name, results))
        return tuple(results)

    def stale(self, gates: Sequence[str], results: Sequence[GateResult]) -> tuple[Finding, ...]:
        """Suppressions that nothing used, where every gate had its say."""
        skipped = {r.name for r in results if r.state is GateState.SKIPPED}
        complete = not gates and skipped <= set(ASKED_FOR) and not self.scope.changed_since
        unused = [
            s
            for s in self.config.suppressions
            if s not in self.used and gate_of(s.rule) not in skipped
        ]
        return tuple(StaleSuppression().check(unused)) if complete else ()

    def effort(self, finding: Finding) -> int:
        """Minutes to mend a finding, as a rule of thumb."""
        return self.efforts.get(finding.rule, AUDIT_EFFORT_MINUTES)

    def _lacks(self, gate: str) -> str:
        """What a gate needs and was not given."""
        if gate == "reverse-coverage" and self.settings.reverse is None:
            return "needs --binding and --source"
        if gate == "trend" and not self.scope.records_trend:
            return "needs --trend"
        return ""

    def _run_gate(self, name: str, before: Sequence[GateResult]) -> GateResult:
        counted: list[Finding] = []
        suppressed: list[Suppressed] = []
        known: list[Finding] = []
        for finding, stem in self._find(name, before):
            severity = self.config.severities.get(finding.rule, finding.severity)
            if severity is None:
                continue
            judged = replace(finding, severity=severity)
            cover = next((s for s in self.config.suppressions if s.covers(judged, stem)), None)
            if cover is not None:
                self.used.add(cover)
                suppressed.append(Suppressed(finding=judged, reason=cover.reason))
            elif self.scope.baseline is not None and self.scope.baseline.take(judged):
                known.append(judged)
            else:
                counted.append(judged)
        fatal = {Severity.ERROR, Severity.WARNING} if self.strict else {Severity.ERROR}
        failed = any(finding.severity in fatal for finding in counted)
        return GateResult(
            name=name,
            state=GateState.FAILED if failed else GateState.PASSED,
            findings=tuple(counted),
            suppressed=tuple(suppressed),
            known=tuple(known),
        )

    def _find(self, gate: str, before: Sequence[GateResult]) -> Iterable[tuple[Finding, str]]:
        """Every finding of a gate, with the stem of its contract."""
        rules: list[LintRule] = [rule for rule in LINT_RULES if rule.gate == gate]
        if gate == "validate":
            yield from _with_stems(self.broken)
        for subject in self.subjects:
            for rule in rules:
                for finding in rule.check(subject):
                    yield finding, subject.contract.stem
            if gate == "audit":
                yield from self._audit(subject.contract)
        yield from _with_stems(self._find_between(gate, before))

    def _find_between(self, gate: str, before: Sequence[GateResult]) -> Iterable[Finding]:
        """Every finding of a gate that looks at more than one contract, or at none."""
        judged = {subject.contract.source.file for subject in self.subjects}
        found: list[Finding] = []
        if gate == "duplicate-stems":
            found += RepeatedStem().check(self.contracts)
        if gate == "composition":
            found += [f for rule in COMPOSITION_RULES for f in rule.check(self.contracts)]
        if self.scope.changed_since is not None:
            found = [finding for finding in found if finding.file in judged]
        if gate == "audit" and self.is_folder and self.scope.changed_since is None:
            found += SPEC_RULE.check(self.contracts)
        if gate == "reverse-coverage" and self.settings.reverse is not None:
            found += [f for rule in REVERSE_RULES for f in rule.check(self.settings.reverse)]
        if gate == "trend" and self.contracts:
            found += self._step(before)
        return found

    def _step(self, before: Sequence[GateResult]) -> Iterable[Finding]:
        """Compare with earlier runs, then add this one to them."""
        findings = [finding for gate in before for finding in gate.findings]
        scores = [
            score_contract(contract, self.settings.bindings).composite
            for contract in self.contracts
        ]
        file = trend_file(self.path)
        self.snapshot = make_snapshot(
            self.path,
            num_contracts=len(scores),
            num_errors=count(findings, Severity.ERROR),
            num_warnings=count(findings, Severity.WARNING),
            mean_score=sum(scores) / len(scores),
        )
        step = step_of(file, self.snapshot)
        append_snapshot(file, self.snapshot)
        return [finding for rule in TREND_RULES for finding in rule.check(step)]

    def _audit(self, contract: Contract) -> Iterable[tuple[Finding, str]]:
        subject = AuditSubject(contract=contract, bindings=self.settings.bindings)
        for rule in AUDIT_RULES:
            if rule.id not in SAID_ELSEWHERE:
                for finding in rule.check(subject):
                    yield finding, contract.stem


def _with_stems(findings: Iterable[Finding]) -> Iterable[tuple[Finding, str]]:
    return ((finding, Path(finding.file).stem) for finding in findings)


def _trend_of_a_part() -> UsageError:
    return UsageError(
        "a trend is of every contract and every gate",
        where="--trend",
        expected="no --gate and no --diff beside it",
        found="one of them",
        hint="leave out --trend here, and run it over the whole folder",
    )


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
