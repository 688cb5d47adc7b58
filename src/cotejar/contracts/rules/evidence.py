"""Rules on falsification tests and harnesses: SCHEMA-007 to 012."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from cotejar.contracts.findings import Finding, Severity
from cotejar.contracts.rules.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cotejar.contracts.schema import Contract, FalsificationTest, Harness

TESTS = "falsification_tests"
HARNESSES = "kani_harnesses"


class _RepeatedId(Rule):
    """An id that an entry above has already."""

    block: ClassVar[str]

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Compare every id with those above it."""
        first_use: dict[str, int] = {}
        for index, entry in enumerate(self._entries(contract)):
            first = first_use.setdefault(entry.id, index)
            if first != index:
                message = f"the id {entry.id} is also that of {self.block}[{first}]"
                yield self.finding(contract, message, self.block, index, "id")

    def _entries(self, contract: Contract) -> Sequence[FalsificationTest | Harness]:
        return contract.tests if self.block == TESTS else contract.harnesses


class RepeatedTestId(_RepeatedId):
    """SCHEMA-007: two falsification tests have the same id.

    Why:
        Evidence is recorded under the id; one record would stand for two tests.
    Bad:
        falsification_tests:
          - {id: F-1, prediction: no NaN, if_fails: overflow}
          - {id: F-1, prediction: below 1, if_fails: scale}
    Good:
        falsification_tests:
          - {id: F-1, prediction: no NaN, if_fails: overflow}
          - {id: F-2, prediction: below 1, if_fails: scale}
    """

    block = TESTS


class NoPrediction(Rule):
    """SCHEMA-008: a falsification test predicts nothing.

    Why:
        A run can only contradict what was predicted.
    Bad:
        falsification_tests:
          - {id: F-1, if_fails: overflow}
    Good:
        falsification_tests:
          - {id: F-1, prediction: no NaN, if_fails: overflow}
    """

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Look at every test."""
        for index, test in enumerate(contract.tests):
            if not test.prediction:
                message = f"the falsification test {test.id} has no prediction"
                yield self.finding(contract, message, TESTS, index, "prediction")


class NoDiagnosis(Rule):
    """SCHEMA-009: a falsification test does not say what its failure means.

    Why:
        Whoever sees it fail should not start from nothing.
    Bad:
        falsification_tests:
          - {id: F-1, prediction: no NaN}
    Good:
        falsification_tests:
          - {id: F-1, prediction: no NaN, if_fails: overflow}
    """

    severity: ClassVar[Severity] = Severity.WARNING

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Look at every test."""
        for index, test in enumerate(contract.tests):
            if not test.if_fails:
                message = f"the falsification test {test.id} has no if_fails"
                yield self.finding(contract, message, TESTS, index, "if_fails")


class RepeatedHarnessId(_RepeatedId):
    """SCHEMA-010: two harnesses have the same id.

    Why:
        A proof is recorded under the id; one record would stand for two harnesses.
    Bad:
        kani_harnesses:
          - {id: KANI-1, obligation: y is finite, bound: 8}
          - {id: KANI-1, obligation: y is finite, bound: 16}
    Good:
        kani_harnesses:
          - {id: KANI-1, obligation: y is finite, bound: 8}
          - {id: KANI-2, obligation: y is finite, bound: 16}
    """

    block = HARNESSES


class NoObligation(Rule):
    """SCHEMA-011: a harness discharges no obligation.

    Why:
        A proof of nothing that was asked raises every count and shows nothing.
    Bad:
        kani_harnesses:
          - {id: KANI-1, obligation: "", bound: 8}
    Good:
        kani_harnesses:
          - {id: KANI-1, obligation: y is finite, bound: 8}
    """

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Look at every harness."""
        for index, harness in enumerate(contract.harnesses):
            if not harness.obligation:
                message = f"the harness {harness.id} names no obligation"
                yield self.finding(contract, message, HARNESSES, index, "obligation")


class NoBound(Rule):
    """SCHEMA-012: a harness has no bound.

    Why:
        Bounded checking without a bound does not say what it has shown.
    Bad:
        kani_harnesses:
          - {id: KANI-1, obligation: y is finite}
    Good:
        kani_harnesses:
          - {id: KANI-1, obligation: y is finite, bound: 8}
    """

    severity: ClassVar[Severity] = Severity.WARNING

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Look at every harness."""
        for index, harness in enumerate(contract.harnesses):
            if harness.bound is None:
                message = f"the harness {harness.id} has no bound"
                yield self.finding(contract, message, HARNESSES, index, "bound")
