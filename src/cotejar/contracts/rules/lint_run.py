"""Rules of `pv lint` on a run as a whole: PV-DUP-001 and PV-SUP-001."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cotejar.contracts.findings import Finding, Severity
from cotejar.contracts.rules.rule import AnyRule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cotejar.contracts.schema import Contract


@dataclass(frozen=True, kw_only=True, slots=True)
class Suppression:
    """Findings of one rule that are reported but do not count."""

    rule: str
    stem: str | None
    """Of one contract; None for every contract."""
    reason: str
    file: str
    """Where it is written: a configuration file, or `command line`."""

    def covers(self, finding: Finding, stem: str) -> bool:
        """Is this finding, of the contract `stem`, suppressed?"""
        return finding.rule == self.rule and self.stem in (None, stem)


class RepeatedStem(AnyRule["Sequence[Contract]"]):
    """PV-DUP-001: two contracts have the same file name.

    Why:
        `depends_on`, bindings and evidence know a contract by its stem; one of the two is
        never meant.
    Bad:
        contracts/a/silu-kernel-v1.yaml and contracts/b/silu-kernel-v1.yaml
    Good:
        contracts/a/silu-kernel-v1.yaml and contracts/b/silu-simd-v1.yaml
    """

    gate: ClassVar[str] = "duplicate-stems"
    effort_minutes: ClassVar[int] = 5

    def check(self, subject: Sequence[Contract]) -> Iterator[Finding]:
        """Compare every stem with those before it."""
        first_use: dict[str, Contract] = {}
        for contract in subject:
            first = first_use.setdefault(contract.stem, contract)
            if first is not contract:
                message = f"the stem {contract.stem} is also that of {first.source.file}"
                yield self.at(contract.source, message, "metadata")


class StaleSuppression(AnyRule["Sequence[Suppression]"]):
    """PV-SUP-001: a suppression suppressed nothing.

    Why:
        What it once hid is mended; left in place, it would hide the next one.
    Bad:
        [[lint.suppress]]
        rule = "PV-AUD-004"
        reason = "the domain is in the paper"
    Good:
        (no suppression, once every equation has a domain)
    """

    severity: ClassVar[Severity] = Severity.WARNING
    gate: ClassVar[str] = "suppressions"
    effort_minutes: ClassVar[int] = 2

    def check(self, subject: Sequence[Suppression]) -> Iterator[Finding]:
        """Name each of the suppressions that were not used."""
        for unused in subject:
            scope = f" for {unused.stem}" if unused.stem else ""
            yield Finding(
                rule=self.id,
                severity=self.severity,
                message=f"the suppression of {unused.rule}{scope} suppressed nothing",
                file=unused.file,
                line=1,
                column=1,
                path="",
            )
