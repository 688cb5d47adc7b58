"""Rules of `pv audit` on harnesses and the functions registered for them: TRACE-010, 011."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from cotejar.contracts.findings import Severity
from cotejar.contracts.rules.audit_rule import AuditRule
from cotejar.contracts.traceability import names_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.findings import Finding
    from cotejar.contracts.rules.audit_rule import AuditSubject
    from cotejar.contracts.schema import Contract


class UnregisteredHarness(AuditRule):
    """TRACE-010: nobody registered a harness of that id.

    Why:
        `pv prove` then has nothing to run, and the obligation stays unproved. A note, since
        a contract may be written before its harness.
    Bad:
        kani_harnesses:
          - {id: KANI-9, obligation: y is finite, bound: 8}
    Good:
        kani_harnesses:
          - {id: KANI-1, obligation: y is finite, bound: 8}
    """

    severity: ClassVar[Severity] = Severity.INFO

    def check(self, subject: AuditSubject) -> Iterator[Finding]:
        """Look up every harness."""
        for index, harness in enumerate(subject.contract.harnesses):
            if subject.harnesses is not None and not subject.harnesses.claims_of(harness.id):
                message = f"no harness {harness.id} is registered: nothing can prove it"
                path = ("kani_harnesses", index, "id")
                yield self.at(subject.contract.source, message, *path)


class OtherHarness(AuditRule):
    """TRACE-011: the registered harness is of another obligation, or of a smaller bound.

    Why:
        What it proves is then not what the contract says that it proves.
    Bad:
        kani_harnesses:
          - {id: KANI-1, obligation: y is finite, bound: 9}
    Good:
        kani_harnesses:
          - {id: KANI-1, obligation: y is finite, bound: 8}
    """

    def check(self, subject: AuditSubject) -> Iterator[Finding]:
        """Hold every claim of a harness against the contract's words."""
        contract, registry = subject.contract, subject.harnesses
        for index, harness in enumerate(contract.harnesses):
            path = ("kani_harnesses", index)
            for claim in () if registry is None else registry.claims_of(harness.id):
                if not _same_obligation(contract, harness.obligation, claim.obligation):
                    message = (
                        f"{claim.label} is registered for {claim.obligation!r}, and the "
                        f"contract has it for {harness.obligation!r}"
                    )
                    yield self.at(contract.source, message, *path, "obligation")
                if harness.bound is not None and claim.bound < harness.bound:
                    message = (
                        f"{claim.label} goes up to {claim.bound}, and the contract says "
                        f"{harness.bound}"
                    )
                    yield self.at(contract.source, message, *path, "bound")


def _same_obligation(contract: Contract, one: str, other: str) -> bool:
    """Equal, or two names of one obligation."""
    both = {one, other}
    return one == other or any(both <= names_of(o) for o in contract.obligations)
