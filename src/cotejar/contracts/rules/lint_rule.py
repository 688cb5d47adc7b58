"""What a rule of `pv lint` is, and what it looks at.

Each rule belongs to one gate. Ids and default severities are upstream's catalogue; where
upstream's own mapping never fires a rule of it, the rule fires here as the catalogue says.
PV-LCK-002 and COMPOSITION-002 are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from cotejar.contracts.rules.rule import AnyRule

if TYPE_CHECKING:
    from cotejar.contracts.binding import BindingRegistry
    from cotejar.contracts.findings import Finding
    from cotejar.contracts.reverse_coverage import ReverseCoverage
    from cotejar.contracts.schema import Contract, EnforcementLevel


@dataclass(frozen=True, kw_only=True, slots=True)
class LintSettings:
    """What the caller asks for."""

    bindings: BindingRegistry | None = None
    reverse: ReverseCoverage | None = None
    """Public functions that the bindings are held against, if that is asked."""
    min_score: float | None = None
    min_level: EnforcementLevel | None = None
    strict_test_binding: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class LintSubject:
    """A contract, what `pv validate` says of it, and the settings."""

    contract: Contract
    violations: tuple[Finding, ...] = ()
    settings: LintSettings = field(default_factory=LintSettings)


class LintRule(AnyRule[LintSubject]):
    """A rule of `pv lint`."""

    gate: ClassVar[str]
    effort_minutes: ClassVar[int]
    """How long mending one finding takes, as a rule of thumb."""

    def find(self, subject: LintSubject, message: str, *path: str | int) -> Finding:
        """A finding where `path` is written in the contract."""
        return self.at(subject.contract.source, message, *path)
