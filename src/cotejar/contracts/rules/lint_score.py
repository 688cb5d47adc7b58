"""Rules of the gate `score`: PV-SCR-001 to 004."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.contracts.findings import Severity
from cotejar.contracts.rules.lint_rule import LintRule
from cotejar.contracts.score import harness_part, lean_part, score_contract

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.findings import Finding
    from cotejar.contracts.rules.lint_rule import LintSubject


class LowScore(LintRule):
    """PV-SCR-001: a contract scores below the threshold.

    Why:
        The caller said how complete a contract must be. Judged with --min-score only; the
        example's is 0.9.
    Bad:
        proof_obligations:
          - {property: y is finite, lean: {theorem: t, status: wip}}
    Good:
        proof_obligations:
          - {property: y is finite, lean: {theorem: t, status: proved}}
    """

    gate = "score"
    effort_minutes = 30

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Score the contract by upstream's formula."""
        least = subject.settings.min_score
        if least is None:
            return
        score = score_contract(subject.contract, subject.settings.bindings)
        if not score.composite >= least:
            worst = score.gaps[0][0]
            message = (
                f"the score is {score.composite:.3f}, below {least}; most is lost on {worst}"
            )
            yield self.find(subject, message, "metadata")


class NoBinding(LintRule):
    """PV-SCR-002: a kernel has no entry in the binding registry.

    Why:
        No code claims to be what the contract speaks of. Judged with --binding only.
    Bad:
        bindings: []
    Good:
        bindings:
          - {contract: example-v1.yaml, equation: identity, status: implemented}
    """

    severity = Severity.WARNING
    gate = "score"
    effort_minutes = 30

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Look up the contract."""
        bindings, contract = subject.settings.bindings, subject.contract
        if (
            bindings is not None
            and contract.is_kernel
            and not bindings.entries_of(contract.stem)
        ):
            yield self.find(subject, "the binding registry has no entry for it", "metadata")


class HarnessesBelowHalf(LintRule):
    """PV-SCR-003: harnesses cover less than half of the obligations.

    Why:
        Most of what is claimed is not proved, up to any bound.
    Bad:
        kani_harnesses: []
        metadata:
          {version: 1.0.0, created: 2026-01-01, description: d, references: [Doe (2024)],
           kind: pattern}
    Good:
        kani_harnesses:
          - {id: K-1, obligation: y is finite, bound: 8, strategy: exhaustive}
    """

    severity = Severity.INFO
    gate = "score"
    effort_minutes = 30

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Take the score's part for harnesses."""
        share = harness_part(subject.contract)
        if subject.contract.obligations and share < 0.5:  # noqa: PLR2004 - the rule's own half
            message = f"harnesses cover {share:.0%} of the obligations"
            yield self.find(subject, message, "kani_harnesses")


class NothingProvedInLean(LintRule):
    """PV-SCR-004: Lean blocks are there, and none of them is proved.

    Why:
        A theorem that ends in sorry shows nothing yet.
    Bad:
        proof_obligations:
          - {property: y is finite, lean: {theorem: t, status: sorry}}
    Good:
        proof_obligations:
          - {property: y is finite, lean: {theorem: t, status: proved}}
    """

    severity = Severity.INFO
    gate = "score"
    effort_minutes = 30

    def check(self, subject: LintSubject) -> Iterator[Finding]:
        """Take the score's part for Lean; no block at all is PV-PRV-004."""
        contract = subject.contract
        if any(o.lean for o in contract.obligations) and lean_part(contract) == 0:
            yield self.find(subject, "no Lean theorem is proved", "proof_obligations")
