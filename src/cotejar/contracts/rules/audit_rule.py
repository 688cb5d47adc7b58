"""What a rule of `pv audit` judges."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cotejar.contracts.rules.rule import AnyRule

if TYPE_CHECKING:
    from cotejar.contracts.binding import BindingRegistry
    from cotejar.contracts.prove.harness import Registry
    from cotejar.contracts.schema import Contract


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditSubject:
    """A contract, and what it is held against."""

    contract: Contract
    bindings: BindingRegistry | None = None
    """None: no rule asks for code."""
    previous: Contract | None = None
    """The version before this one; None: no rule asks what changed."""
    harnesses: Registry | None = None
    """What `@harness` registered; None: no rule asks for it."""

    @property
    def folder(self) -> Path:
        """Where the search for named files starts, and goes upward."""
        return Path(self.contract.source.file).resolve().parent


class AuditRule(AnyRule[AuditSubject]):
    """A rule of `pv audit`."""
