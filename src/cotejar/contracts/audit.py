"""Audit contracts: follow every name, from equation to code and from spec to contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotejar.contracts.corpus import is_folder
from cotejar.contracts.findings import Finding, Severity, count
from cotejar.contracts.rules.audit import AUDIT_RULES
from cotejar.contracts.rules.audit_rule import AuditSubject
from cotejar.contracts.rules.spec_pointers import SPEC_RULE
from cotejar.contracts.traceability import (
    EquationLinks,
    trace_contract,
    trace_harnesses,
)
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from cotejar.contracts.binding import BindingRegistry
    from cotejar.contracts.corpus import Corpus
    from cotejar.contracts.previous import PreviousVersions
    from cotejar.contracts.prove.harness import Registry
    from cotejar.contracts.schema import Contract


@dataclass(frozen=True, kw_only=True, slots=True)
class ContractAudit:
    """One contract's chains and findings."""

    file: str
    num_equations: int
    num_obligations: int
    num_tests: int
    num_harnesses: int
    chains: tuple[EquationLinks, ...]
    harness_code: dict[str, tuple[str, ...]]
    """Each harness's id, and the functions that it is about; empty without a registry."""
    compared_with: str | None
    """Which old version it was held against; None if none was asked for."""
    findings: tuple[Finding, ...]

    def as_json(self) -> dict[str, Any]:
        """The same facts, for `--json`."""
        return {
            "file": self.file,
            "equations": self.num_equations,
            "proof_obligations": self.num_obligations,
            "falsification_tests": self.num_tests,
            "kani_harnesses": self.num_harnesses,
            "chains": [chain.as_json() for chain in self.chains],
            "harness_code": {name: list(code) for name, code in self.harness_code.items()},
            "compared_with": self.compared_with,
            "findings": [finding.as_json() for finding in self.findings],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditReport:
    """All contracts of a corpus, and the specifications that they cite."""

    contracts: tuple[ContractAudit, ...]
    spec_findings: tuple[Finding, ...]

    @property
    def findings(self) -> list[Finding]:
        """The findings of all contracts, then those of the specifications."""
        return [f for audit in self.contracts for f in audit.findings] + [*self.spec_findings]

    @property
    def verdict(self) -> Verdict:
        """FAIL if any finding is an error."""
        failed = count(self.findings, Severity.ERROR) > 0
        return Verdict.FAIL if failed else Verdict.PASS

    def as_json(self) -> dict[str, Any]:
        """The same facts, for `--json`."""
        return {
            "verdict": self.verdict.value,
            "exit_code": self.verdict.exit_code,
            "num_errors": count(self.findings, Severity.ERROR),
            "num_warnings": count(self.findings, Severity.WARNING),
            "contracts": [audit.as_json() for audit in self.contracts],
            "spec_findings": [finding.as_json() for finding in self.spec_findings],
        }


def audit_corpus(
    corpus: Corpus,
    bindings: BindingRegistry | None = None,
    *,
    harnesses: Registry | None = None,
    against: PreviousVersions | None = None,
) -> AuditReport:
    """Audit every contract and, of a folder, every section that one of them cites.

    Args:
        corpus: the contracts.
        bindings: which function computes which equation, if that is asked.
        harnesses: what `@harness` registered, if that is asked.
        against: the versions before these, if changes of meaning are looked for.

    Raises:
        FileError: an old version cannot be read.
        ContractError: an old version is no contract.
    """
    # One contract alone says nothing of the others that a section names.
    of_folder = is_folder(corpus.target)
    return AuditReport(
        contracts=tuple(
            _audit_contract(c, bindings, harnesses, against) for c in corpus.contracts
        ),
        spec_findings=tuple(SPEC_RULE.check(corpus.contracts)) if of_folder else (),
    )


def audit_text(report: AuditReport) -> str:
    """The chains of each contract, the findings, and the counts."""
    lines: list[str] = []
    for audit in report.contracts:
        lines.append(
            f"{audit.file}: {audit.num_equations} equations, {audit.num_obligations} "
            f"obligations, {audit.num_tests} tests, {audit.num_harnesses} harnesses"
        )
        for chain in audit.chains:
            code = f" -> {chain.code}" if chain.code else ""
            lines.append(f"  {chain.equation or '(no equation named)'}{code}")
            for link in chain.obligations:
                tests = ", ".join(link.tests) or "no test named"
                harnesses = ", ".join(link.harnesses) or "no harness named"
                lines.append(f"    {link.type} {link.label}: {tests}; {harnesses}")
        lines += [f"  {name} -> {', '.join(c)}" for name, c in audit.harness_code.items() if c]
        if audit.compared_with:
            lines.append(f"  compared with {audit.compared_with}")
        lines += [finding.as_text() for finding in audit.findings]
    lines += [finding.as_text() for finding in report.spec_findings]
    errors = count(report.findings, Severity.ERROR)
    warnings = count(report.findings, Severity.WARNING)
    return "\n".join([*lines, "", f"{errors} error(s), {warnings} warning(s)"])


def _audit_contract(
    contract: Contract,
    bindings: BindingRegistry | None,
    harnesses: Registry | None,
    against: PreviousVersions | None,
) -> ContractAudit:
    previous = None if against is None else against.find(contract.source.file)
    subject = AuditSubject(
        contract=contract, bindings=bindings, previous=previous, harnesses=harnesses
    )
    compared_with = None
    if against is not None:
        old = f"version {previous.metadata.version}" if previous else "nothing: it is new since"
        compared_with = f"{old} {'in ' if previous else ''}{against.name}"
    return ContractAudit(
        file=contract.source.file,
        num_equations=len(contract.equations),
        num_obligations=len(contract.obligations),
        num_tests=len(contract.tests),
        num_harnesses=len(contract.harnesses),
        chains=trace_contract(contract, bindings),
        harness_code={} if harnesses is None else trace_harnesses(contract, harnesses),
        compared_with=compared_with,
        findings=tuple(f for rule in AUDIT_RULES for f in rule.check(subject)),
    )
