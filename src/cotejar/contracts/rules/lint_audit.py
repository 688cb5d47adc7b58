"""Rules of the gate `audit`: PV-AUD-001 to 005, PV-PRV-003 and 004."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cotejar.contracts.findings import Severity
from cotejar.contracts.rules.lint_rule import LintRule
from cotejar.contracts.rules.rule import blank
from cotejar.contracts.schema import ObligationType
from cotejar.contracts.traceability import names_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.findings import Finding
    from cotejar.contracts.rules.lint_rule import LintSubject

_PAPER = re.compile(r"\((?:18|19|20)[0-9]{2}[a-z]?\)|arxiv|doi\.org|\bdoi:", re.IGNORECASE)


class FewHarnesses(LintRule):
    """PV-PRV-003: a kernel has fewer harnesses than obligations.

    Why:
        Some obligation is tested only, and a test shows that it can hold, not that it does.
    Bad:
        proof_obligations:
          - {property: p, lean: {theorem: t, status: proved}}
          - {property: q, lean: {theorem: t, status: proved}}
        falsification_tests:
          - {id: F-1, prediction: p, if_fails: f, test: "true"}
          - {id: F-2, prediction: q, if_fails: f, test: "true"}
    Good:
        proof_obligations:
          - {property: p, lean: {theorem: t, status: proved}}
    """

    severity = Severity.WARNING
    gate = "audit"
    effort_minutes = 60

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Count both lists; no harness at all is PV-PRV-001."""
        harnesses, owed = len(subject.contract.harnesses), len(subject.contract.obligations)
        if subject.contract.is_kernel and 0 < harnesses < owed:
            message = f"{harnesses} harnesses for {owed} obligations"
            yield self.find(subject, message, "kani_harnesses")


class NoLean(LintRule):
    """PV-PRV-004: no obligation has a Lean proof.

    Why:
        A bound stays a bound; only a proof covers every size.
    Bad:
        proof_obligations:
          - {type: invariant, property: y is finite}
    Good:
        proof_obligations:
          - {type: invariant, property: y is finite, lean: {theorem: t, status: proved}}
    """

    severity = Severity.INFO
    gate = "audit"
    effort_minutes = 60

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Look for a `lean` block."""
        contract = subject.contract
        if contract.obligations and not any(o.lean for o in contract.obligations):
            yield self.find(subject, "no obligation has a Lean proof", "proof_obligations")


class UntestedObligation(LintRule):
    """PV-AUD-001: no test names an obligation that has an id.

    Why:
        Nobody can say which test would contradict it.
    Bad:
        proof_obligations:
          - {id: PO-1, property: y is finite, lean: {theorem: t, status: proved}}
    Good:
        proof_obligations:
          - {id: PO-1, property: y is finite, lean: {theorem: t, status: proved}}
        falsification_tests:
          - {id: F-1, rule: PO-1, prediction: no NaN, if_fails: overflow, test: "true"}
    """

    severity = Severity.WARNING
    gate = "audit"
    effort_minutes = 15

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Look in every test's rule for the id, the property or the equation."""
        contract = subject.contract
        rules = {test.rule for test in contract.tests}
        for index, obligation in enumerate(contract.obligations):
            if obligation.id is None or obligation.is_not_applicable:
                continue
            if rules.isdisjoint(names_of(obligation)):
                message = f"no test names the obligation {obligation.id}"
                yield self.find(subject, message, "proof_obligations", index, "id")


class NoPaper(LintRule):
    """PV-AUD-002: no reference looks like a paper.

    Why:
        A formula should come from somewhere that was reviewed: a year in brackets, an
        arXiv number or a DOI counts.
    Bad:
        metadata:
          {version: 1.0.0, created: 2026-01-01, description: d, references: [a colleague]}
    Good:
        metadata:
          {version: 1.0.0, created: 2026-01-01, description: d, references: [Doe (2024)]}
    """

    severity = Severity.INFO
    gate = "audit"
    effort_minutes = 15

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Look at every reference."""
        references = subject.contract.metadata.references
        if references and not any(_PAPER.search(text) for text in references):
            yield self.find(subject, "no reference is a paper", "metadata", "references")


class UnnamedObligation(LintRule):
    """PV-AUD-003: nothing names an obligation that has an id.

    Why:
        An id is there to be referred to; without a reference nothing discharges it.
    Bad:
        proof_obligations:
          - {id: PO-1, property: y is bounded, lean: {theorem: t, status: proved}}
    Good:
        proof_obligations:
          - {id: PO-1, property: y is bounded, lean: {theorem: t, status: proved}}
        falsification_tests:
          - {id: F-1, rule: PO-1, prediction: no NaN, if_fails: overflow, test: "true"}
    """

    severity = Severity.WARNING
    gate = "audit"
    effort_minutes = 15

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Look in every test and every harness."""
        contract = subject.contract
        texts = {t.rule for t in contract.tests} | {h.obligation for h in contract.harnesses}
        for index, obligation in enumerate(contract.obligations):
            if obligation.id is None or obligation.is_not_applicable:
                continue
            if texts.isdisjoint(names_of(obligation)):
                message = f"nothing names the obligation {obligation.id}"
                yield self.find(subject, message, "proof_obligations", index, "id")


class NoDomain(LintRule):
    """PV-AUD-004: an equation has no domain.

    Why:
        A formula holds somewhere; tests need to know where to draw their inputs.
    Bad:
        equations:
          identity: {formula: y = x, preconditions: [x], postconditions: [y], lean_theorem: t}
    Good:
        equations:
          identity: {formula: y = x, domain: R, preconditions: [x], postconditions: [y],
                     lean_theorem: t}
    """

    severity = Severity.WARNING
    gate = "audit"
    effort_minutes = 15

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Look at every equation."""
        for equation in subject.contract.equations:
            if blank(equation.domain):
                message = f"the equation {equation.name} has no domain"
                yield self.find(subject, message, "equations", equation.name)


class NoTolerance(LintRule):
    """PV-AUD-005: an equivalence has no tolerance.

    Why:
        Two floating-point results are equal to within something; reader and runner must
        not guess what.
    Bad:
        proof_obligations:
          - {type: equivalence, property: y is finite, lean: {theorem: t, status: proved}}
    Good:
        proof_obligations:
          - {type: equivalence, property: y is finite, tolerance: 1e-6,
             lean: {theorem: t, status: proved}}
    """

    severity = Severity.WARNING
    gate = "audit"
    effort_minutes = 15

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Look at every obligation of type equivalence."""
        for index, obligation in enumerate(subject.contract.obligations):
            if obligation.type is ObligationType.EQUIVALENCE and obligation.tolerance is None:
                message = f"proof_obligations[{index}] is an equivalence without a tolerance"
                yield self.find(subject, message, "proof_obligations", index)
