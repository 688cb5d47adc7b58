"""Rules of `pv audit`: does every part of a contract lead to another? AUDIT-, BIND-, TRACE-.

AUDIT-001 to 003 are upstream's. TRACE- rules are ours: they follow the names further, to
tests in the code and to sections of a specification and back.

The rules on the binding registry are in `audit_bindings.py`, those on changelogs in
`audit_changelog.py`, those on registered harnesses in `audit_harnesses.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from cotejar.contracts.findings import Severity
from cotejar.contracts.rules.audit_bindings import BINDING_RULES
from cotejar.contracts.rules.audit_changelog import (
    NoChangelogEntry,
    NoFiveWhys,
    UnexplainedChange,
)
from cotejar.contracts.rules.audit_harnesses import OtherHarness, UnregisteredHarness
from cotejar.contracts.rules.audit_rule import AuditRule
from cotejar.contracts.traceability import (
    defines,
    find_upward,
    names_in,
    names_of,
    pytest_nodes,
    read_sections,
    spec_references,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.findings import Finding
    from cotejar.contracts.rules.audit_rule import AuditSubject


class NotFalsifiable(AuditRule):
    """AUDIT-001: a contract has no falsification tests.

    Why:
        Nothing could show it wrong.
    Bad:
        falsification_tests: []
    Good:
        falsification_tests:
          - {id: F-1, rule: identity, prediction: no NaN, if_fails: overflow}
    """

    severity: ClassVar[Severity] = Severity.WARNING

    def check(self, subject: AuditSubject) -> Iterator[Finding]:
        """Count the tests."""
        if not subject.contract.tests:
            message = "no falsification tests: nothing could show this contract wrong"
            yield self.at(subject.contract.source, message, "falsification_tests")


class HarnessOfNothing(AuditRule):
    """AUDIT-002: a harness names no obligation.

    Why:
        What it proves counts for nothing.
    Bad:
        kani_harnesses:
          - {id: KANI-1, obligation: "", bound: 8}
    Good:
        kani_harnesses:
          - {id: KANI-1, obligation: y is finite, bound: 8}
    """

    def check(self, subject: AuditSubject) -> Iterator[Finding]:
        """Look at every harness."""
        for index, harness in enumerate(subject.contract.harnesses):
            if not harness.obligation:
                message = f"the harness {harness.id} names no obligation"
                path = ("kani_harnesses", index, "obligation")
                yield self.at(subject.contract.source, message, *path)


class NoObligations(AuditRule):
    """AUDIT-003: a contract has equations but no obligations.

    Why:
        Nothing says what about the equations must be shown.
    Bad:
        proof_obligations: []
    Good:
        proof_obligations:
          - {type: invariant, property: y is finite}
    """

    severity: ClassVar[Severity] = Severity.WARNING

    def check(self, subject: AuditSubject) -> Iterator[Finding]:
        """Count both."""
        if subject.contract.equations and not subject.contract.obligations:
            message = "there are equations but no obligations derived from them"
            yield self.at(subject.contract.source, message, "proof_obligations")


class DanglingHarness(AuditRule):
    """TRACE-001: a harness names an obligation that the contract does not have.

    Why:
        A renamed obligation leaves its proof behind, and nobody misses it.
    Bad:
        kani_harnesses:
          - {id: KANI-1, obligation: OLD-NAME, bound: 8}
    Good:
        kani_harnesses:
          - {id: KANI-1, obligation: y is finite, bound: 8}
    """

    severity: ClassVar[Severity] = Severity.WARNING

    def check(self, subject: AuditSubject) -> Iterator[Finding]:
        """Look for an obligation's id or property, or an equation, of that text."""
        contract = subject.contract
        names = names_in(contract)
        for index, harness in enumerate(contract.harnesses):
            if harness.obligation and harness.obligation not in names:
                message = (
                    f"the harness {harness.id} names {harness.obligation!r}, which is no "
                    "obligation's id or property and no equation here"
                )
                yield self.at(contract.source, message, "kani_harnesses", index, "obligation")


class UntracedObligation(AuditRule):
    """TRACE-002: no test and no harness names an obligation that has an id.

    Why:
        An id is there to be referred to; without a reference nothing discharges it.
    Bad:
        proof_obligations:
          - {id: PO-1, type: invariant, property: y is bounded}
    Good:
        proof_obligations:
          - {id: PO-1, type: invariant, property: y is bounded}
        falsification_tests:
          - {id: F-1, rule: PO-1, prediction: no NaN, if_fails: overflow}
        kani_harnesses:
          - {id: KANI-1, obligation: PO-1, bound: 8}
    """

    severity: ClassVar[Severity] = Severity.WARNING

    def check(self, subject: AuditSubject) -> Iterator[Finding]:
        """Look for the id, the property or the equation in every test and harness."""
        contract = subject.contract
        texts = {t.rule for t in contract.tests} | {h.obligation for h in contract.harnesses}
        for index, obligation in enumerate(contract.obligations):
            if obligation.id is None or obligation.is_not_applicable:
                continue
            if texts.isdisjoint(names_of(obligation)):
                message = f"no test and no harness names the obligation {obligation.id}"
                yield self.at(contract.source, message, "proof_obligations", index, "id")


class MissingTest(AuditRule):
    """TRACE-003: a pytest command names a test that is not there.

    Why:
        pytest then runs nothing, and what was never run was never survived.
    Bad:
        falsification_tests:
          - {id: F-1, rule: finite, prediction: no NaN, if_fails: overflow,
             test: "pytest tests/test_example.py::test_gone"}
    Good:
        falsification_tests:
          - {id: F-1, rule: finite, prediction: no NaN, if_fails: overflow,
             test: "pytest tests/test_example.py::test_it"}
    """

    def check(self, subject: AuditSubject) -> Iterator[Finding]:
        """Look for the file upward from the contract, and in it for the function."""
        contract = subject.contract
        for index, test in enumerate(contract.tests):
            for file, function in pytest_nodes(test.test or ""):
                found = find_upward(subject.folder, file)
                if found is None:
                    message = f"{test.id} runs {file}, and there is no such file"
                elif function is not None and not defines(found, function):
                    message = f"{test.id} runs {function}, which {file} does not define"
                else:
                    continue
                yield self.at(contract.source, message, "falsification_tests", index, "test")


class MissingSection(AuditRule):
    """TRACE-004: a reference names a section that its document does not have.

    Why:
        Sections are renumbered; a contract must not rest on one that is gone.
    Bad:
        metadata:
          {version: 1.0.0, description: d, references: [docs/spec.md §9]}
    Good:
        metadata:
          {version: 1.0.0, description: d, references: [docs/spec.md §1]}
    """

    def check(self, subject: AuditSubject) -> Iterator[Finding]:
        """Look for the file upward from the contract, and in it for the heading."""
        for index, file, section in _spec_references(subject):
            found = find_upward(subject.folder, file)
            if found is None:
                message = f"the reference names {file}, and there is no such file"
            elif section not in read_sections(found):
                message = f"the reference names {file} §{section}, which has no such section"
            else:
                continue
            yield self.at(subject.contract.source, message, "metadata", "references", index)


class OneWayReference(AuditRule):
    """TRACE-005: a section that a contract cites does not name the contract back.

    Why:
        Whoever changes the section must see which contracts rest on it.
    Bad:
        metadata:
          {version: 1.0.0, description: d, references: [docs/spec.md §2]}
    Good:
        metadata:
          {version: 1.0.0, description: d, references: [docs/spec.md §1]}
    """

    def check(self, subject: AuditSubject) -> Iterator[Finding]:
        """Look for the contract's stem in the section's `Contracts:` lines."""
        stem = subject.contract.stem
        for index, file, section in _spec_references(subject):
            found = find_upward(subject.folder, file)
            cited = None if found is None else read_sections(found).get(section)
            if cited is not None and stem not in {name for name, _ in cited.contracts}:
                message = (
                    f"{file} §{section} does not name this contract: "
                    f"add `{stem}` to its `Contracts:` line"
                )
                path = ("metadata", "references", index)
                yield self.at(subject.contract.source, message, *path)


def _spec_references(subject: AuditSubject) -> Iterator[tuple[int, str, str]]:
    """Each `FILE.md §N` of the metadata's references, with the reference's index."""
    for index, reference in enumerate(subject.contract.metadata.references):
        for file, section in spec_references(reference):
            yield index, file, section


AUDIT_RULES: tuple[AuditRule, ...] = (
    NotFalsifiable(),
    HarnessOfNothing(),
    NoObligations(),
    *BINDING_RULES,
    DanglingHarness(),
    UntracedObligation(),
    MissingTest(),
    MissingSection(),
    OneWayReference(),
    NoFiveWhys(),
    NoChangelogEntry(),
    UnexplainedChange(),
    UnregisteredHarness(),
    OtherHarness(),
)
"""In the order of the output; TRACE-008, over a whole folder, is in `spec_pointers.py`."""
