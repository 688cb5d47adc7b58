"""A finding: a place, a rule id, a message; what every check returns."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


class Severity(enum.StrEnum):
    """How much a finding weighs. Only an ERROR fails a contract."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def label(self) -> str:
        """The word in upstream's text lines."""
        return {"error": "ERROR", "warning": "WARN", "info": "INFO"}[self.value]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One violation of one rule at one place."""

    rule: str
    """Its id, never reused: `SCHEMA-001`."""
    severity: Severity
    message: str
    file: str
    """As the user named it, or as the walk of a folder found it."""
    line: int
    """From 1."""
    column: int
    """From 1."""
    path: str
    """The same place in the contract's own terms: `proof_obligations[2].property`."""

    def as_json(self) -> dict[str, Any]:
        """The same facts, for `--json`."""
        return {
            "rule": self.rule,
            "severity": self.severity.value,
            "message": self.message,
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "path": self.path,
        }

    def as_text(self) -> str:
        """Upstream's line, and the place behind it."""
        where = f"{self.file}:{self.line}:{self.column}"
        return f"[{self.severity.label}] {self.rule}: {self.message} ({where})"


def count(findings: Iterable[Finding], severity: Severity) -> int:
    """How many findings have this severity."""
    return sum(1 for finding in findings if finding.severity is severity)
