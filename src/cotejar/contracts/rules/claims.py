"""Rules on what a kernel must hold and state: SCHEMA-003, 004, 013, 024, PROVABILITY-001."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from cotejar.contracts.findings import Finding, Severity
from cotejar.contracts.rules.rule import Rule
from cotejar.contracts.schema import ContractKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.schema import Contract


class NoEquations(Rule):
    """SCHEMA-003: a kernel states no equation.

    Why:
        Without a formula there is nothing that an implementation could get wrong.
    Bad:
        equations:
    Good:
        equations:
          identity:
            formula: y = x
    """

    kernel_only = True

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Count the equations."""
        if not contract.equations:
            yield self.finding(contract, "a kernel needs at least one equation", "equations")


class EmptyFormula(Rule):
    """SCHEMA-004: an equation has no formula.

    Why:
        The name of an equation says nothing that could be checked.
    Bad:
        equations:
          identity:
            domain: R
    Good:
        equations:
          identity:
            formula: y = x
            domain: R
    """

    kernel_only = True

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Look at every equation."""
        for equation in contract.equations:
            if not equation.formula:
                message = f"equations.{equation.name}.formula is empty"
                yield self.finding(contract, message, "equations", equation.name, "formula")


class NotProvable(Rule):
    """PROVABILITY-001: a kernel lacks obligations, tests or harnesses.

    Why:
        A kernel's claims must be stated, falsifiable and provable: at least one obligation
        and one harness, and no fewer tests than obligations.
    Bad:
        kani_harnesses: []
    Good:
        kani_harnesses:
          - {id: KANI-EX-001, obligation: y is finite, bound: 8, strategy: exhaustive}
    """

    kernel_only = True

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Count the three lists; up to four findings."""
        num_obligations, num_tests = len(contract.obligations), len(contract.tests)
        if not num_obligations:
            yield self._missing(contract, "proof_obligations")
        if not num_tests:
            yield self._missing(contract, "falsification_tests")
        if not contract.harnesses:
            yield self._missing(contract, "kani_harnesses")
        if num_tests < num_obligations:
            message = (
                f"{num_obligations} proof_obligations but only {num_tests} "
                "falsification_tests; each obligation needs at least one"
            )
            yield self.finding(contract, message, "falsification_tests")

    def _missing(self, contract: Contract, block: str) -> Finding:
        return self.finding(contract, f"a kernel needs at least one entry in {block}", block)


class NoQaGate(Rule):
    """SCHEMA-013: a kernel has no qa_gate.

    Why:
        The gate says when the contract as a whole counts as met.
    Bad:
        qa_gate:
    Good:
        qa_gate:
          id: F-EX-001
          name: Example gate
          pass_criteria: all tests survive
    """

    severity: ClassVar[Severity] = Severity.WARNING
    kernel_only = True

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Look for the block."""
        if contract.qa_gate is None:
            yield self.finding(contract, "there is no qa_gate", "qa_gate")


class WrongTotal(Rule):
    """SCHEMA-024: the stated number of obligations is not the number listed.

    Why:
        A stated count that drifts from the list makes every coverage figure wrong.
        A contract of kind schema that lists none may count what it describes.
    Bad:
        verification_summary:
          total_obligations: 2
    Good:
        verification_summary:
          total_obligations: 1
    """

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Compare the count with the list."""
        summary, listed = contract.verification_summary, len(contract.obligations)
        if summary is None or summary.total_obligations == listed:
            return
        if contract.kind is ContractKind.SCHEMA and not listed:
            return
        message = (
            f"verification_summary.total_obligations is {summary.total_obligations}, "
            f"but proof_obligations lists {listed}"
        )
        yield self.finding(contract, message, "verification_summary", "total_obligations")
