"""Rules of `pv audit` on what a contract says of its own changes: TRACE-006, 007 and 009."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from cotejar.contracts.changelog import read_changelog
from cotejar.contracts.findings import Severity
from cotejar.contracts.meaning import is_explained, meaning_changes
from cotejar.contracts.rules.audit_rule import AuditRule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.findings import Finding
    from cotejar.contracts.rules.audit_rule import AuditSubject


class NoFiveWhys(AuditRule):
    """TRACE-006: a change of a gate's meaning is not explained by five whys.

    Why:
        A gate that means something else than before must say why, or it will be changed
        again whenever it is in the way.
    Bad:
        changelog:
          - {version: 1.0.0, changes: [a wider band], changes_gate_meaning: true}
    Good:
        changelog:
          - version: 1.0.0
            changes: [a wider band]
            changes_gate_meaning: true
            five_whys:
              - {why: Why a wider band?, because: The samples were not the same}
    """

    def check(self, subject: AuditSubject) -> Iterator[Finding]:
        """Look at every entry of the changelog."""
        for entry in read_changelog(subject.contract):
            if entry.changes_gate_meaning and not entry.five_whys:
                message = f"version {entry.version} changes a gate's meaning without five_whys"
                yield self.at(subject.contract.source, message, "changelog", entry.index)


class NoChangelogEntry(AuditRule):
    """TRACE-007: the changelog has no entry for the contract's version.

    Why:
        Somebody changed the version and did not say what changed.
    Bad:
        changelog:
          - {version: 0.9.0, changes: [first]}
    Good:
        changelog:
          - {version: 1.0.0, changes: [second]}
          - {version: 0.9.0, changes: [first]}
    """

    severity: ClassVar[Severity] = Severity.WARNING

    def check(self, subject: AuditSubject) -> Iterator[Finding]:
        """Look for the version; a contract without a changelog owes none."""
        versions = [entry.version for entry in read_changelog(subject.contract)]
        current = subject.contract.metadata.version
        if versions and current not in versions:
            message = f"the changelog has no entry for version {current}"
            yield self.at(subject.contract.source, message, "changelog")


class UnexplainedChange(AuditRule):
    """TRACE-009: a gate means something else than in the version before, unexplained.

    Why:
        A gate that failed is easily widened until it passes. Found by comparing the two
        versions themselves, whatever the changelog admits; judged with --against only.
    Bad:
        metadata: {version: 2.0.0, description: d, references: [a]}
        parity: {gates: [{metric: rel_l2_max, sites: all, limit: 1e-2}]}
        changelog:
          - {version: 2.0.0, changes: [a limit that passes]}
    Good:
        metadata: {version: 2.0.0, description: d, references: [a]}
        parity: {gates: [{metric: rel_l2_max, sites: all, limit: 1e-2}]}
        changelog:
          - version: 2.0.0
            changes: [a limit for activations in 8 bits]
            five_whys:
              - {why: Why is 1e-5 too strict?, because: It is the rounding of float32 sums}
    """

    def check(self, subject: AuditSubject) -> Iterator[Finding]:
        """Compare parity block, equations and tolerances with those of the version before."""
        old, new = subject.previous, subject.contract
        if old is None:
            return
        changes = meaning_changes(old, new)
        if changes and not is_explained(old, new):
            message = (
                f"since version {old.metadata.version} {len(changes)} change(s) alter what a "
                f"gate means, and the changelog of {new.metadata.version} has no five_whys "
                f"for them: {'; '.join(changes)}"
            )
            yield self.at(new.source, message, "changelog")
