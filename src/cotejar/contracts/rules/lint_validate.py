"""Rules of the gate `validate`: PV-VAL-001 to 006, PV-PRV-001 and 002."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from cotejar.contracts.findings import Severity
from cotejar.contracts.rules.lint_rule import LintRule
from cotejar.contracts.rules.rule import blank

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.findings import Finding
    from cotejar.contracts.rules.lint_rule import LintSubject


_TAKEN = frozenset({"SCHEMA-002", "SCHEMA-004", "SCHEMA-005", "SCHEMA-006"})
"""Violations that have an id of their own below."""


class SchemaBroken(LintRule):
    """PV-VAL-001: a rule of the schema is broken.

    Why:
        What `pv validate` rejects is judged no further. A file that does not parse is
        reported under this id too.
    Bad:
        metadata:
          {version: 1.0.0, created: 2026-01-01, description: d, references: []}
    Good:
        metadata:
          {version: 1.0.0, created: 2026-01-01, description: d, references: [Doe (2024)]}
    """

    gate = "validate"
    effort_minutes = 5

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Everything that no other rule of the catalogue takes up."""
        for violation in subject.violations:
            taken = violation.rule in _TAKEN
            provability = violation.rule == "PROVABILITY-001"
            if not taken and (not provability or violation.path == "proof_obligations"):
                message = f"{violation.rule}: {violation.message}"
                yield replace(violation, rule=self.id, message=message)


class _Validated(LintRule):
    """Violations of `pv validate` under the catalogue's id; each keeps its own severity."""

    gate = "validate"
    effort_minutes = 5
    sources: ClassVar[frozenset[str]]

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Pick them out."""
        for violation in subject.violations:
            if violation.rule in self.sources:
                message = f"{violation.rule}: {violation.message}"
                yield replace(violation, rule=self.id, message=message)


class NoVersion(_Validated):
    """PV-VAL-002: the version is empty.

    Why:
        Evidence and dependants name a contract by its version.
    Bad:
        metadata:
          {version: "", created: 2026-01-01, description: d, references: [Doe (2024)]}
    Good:
        metadata:
          {version: 1.0.0, created: 2026-01-01, description: d, references: [Doe (2024)]}
    """

    sources = frozenset({"SCHEMA-002"})


class NoCreated(LintRule):
    """PV-VAL-003: there is no date of creation.

    Why:
        Whoever finds a contract wants to know whether it is older than what it judges.
    Bad:
        metadata:
          {version: 1.0.0, description: d, references: [Doe (2024)]}
    Good:
        metadata:
          {version: 1.0.0, created: 2026-01-01, description: d, references: [Doe (2024)]}
    """

    severity = Severity.WARNING
    gate = "validate"
    effort_minutes = 5

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Look at `metadata.created`."""
        if blank(subject.contract.metadata.created):
            yield self.find(subject, "metadata.created is missing", "metadata", "created")


class EmptyFormula(_Validated):
    """PV-VAL-004: an equation has no formula.

    Why:
        The name of an equation says nothing that could be checked.
    Bad:
        equations:
          identity: {domain: R, preconditions: [x], postconditions: [y], lean_theorem: t}
    Good:
        equations:
          identity: {formula: y = x, domain: R, preconditions: [x], postconditions: [y],
                     lean_theorem: t}
    """

    sources = frozenset({"SCHEMA-004"})


class EmptyProperty(_Validated):
    """PV-VAL-005: an obligation states no property.

    Why:
        There is nothing to prove.
    Bad:
        proof_obligations:
          - {type: invariant, property: "", lean: {theorem: t, status: proved}}
    Good:
        proof_obligations:
          - {type: invariant, property: y is finite, lean: {theorem: t, status: proved}}
    """

    sources = frozenset({"SCHEMA-005"})


class RepeatedFormal(_Validated):
    """PV-VAL-006: two obligations have the same formal text.

    Why:
        The second adds nothing, or it was copied and not adapted.
    Bad:
        proof_obligations:
          - {property: p, formal: f, lean: {theorem: t, status: proved}}
          - {property: q, formal: f, lean: {theorem: t, status: proved}}
        falsification_tests:
          - {id: F-1, prediction: p, if_fails: f, test: "true"}
          - {id: F-2, prediction: q, if_fails: f, test: "true"}
        kani_harnesses:
          - {id: K-1, obligation: p, bound: 8, strategy: exhaustive}
          - {id: K-2, obligation: q, bound: 8, strategy: exhaustive}
    Good:
        proof_obligations:
          - {property: p, formal: f, lean: {theorem: t, status: proved}}
          - {property: q, formal: g, lean: {theorem: t, status: proved}}
        falsification_tests:
          - {id: F-1, prediction: p, if_fails: f, test: "true"}
          - {id: F-2, prediction: q, if_fails: f, test: "true"}
        kani_harnesses:
          - {id: K-1, obligation: p, bound: 8, strategy: exhaustive}
          - {id: K-2, obligation: q, bound: 8, strategy: exhaustive}
    """

    severity = Severity.WARNING
    sources = frozenset({"SCHEMA-006"})


class NoHarness(LintRule):
    """PV-PRV-001: a kernel has no harness.

    Why:
        Nothing of it is proved, up to any bound.
    Bad:
        kani_harnesses: []
    Good:
        kani_harnesses:
          - {id: K-1, obligation: y is finite, bound: 8, strategy: exhaustive}
    """

    gate = "validate"
    effort_minutes = 60

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Count the harnesses."""
        if subject.contract.is_kernel and not subject.contract.harnesses:
            yield self.find(subject, "a kernel needs a harness", "kani_harnesses")


class NoTests(LintRule):
    """PV-PRV-002: a kernel has no tests, or fewer than obligations.

    Why:
        A claim that no test could contradict is not falsifiable.
    Bad:
        falsification_tests: []
    Good:
        falsification_tests:
          - {id: F-1, rule: finite, prediction: no NaN, if_fails: overflow, test: "true"}
    """

    gate = "validate"
    effort_minutes = 60

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Count both lists."""
        tests, obligations = len(subject.contract.tests), len(subject.contract.obligations)
        if subject.contract.is_kernel and tests < max(obligations, 1):
            message = f"{tests} tests for {obligations} obligations"
            yield self.find(subject, message, "falsification_tests")
