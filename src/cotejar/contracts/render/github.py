"""Findings as GitHub workflow commands, which become annotations on a pull request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.contracts.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cotejar.contracts.findings import Finding

COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def github_lines(findings: Iterable[Finding]) -> list[str]:
    """One `::error file=...,line=...,col=...,title=RULE::message` a finding."""
    return [
        f"::{COMMANDS[finding.severity]} file={_property(finding.file)},"
        f"line={finding.line},col={finding.column},title={_property(finding.rule)}"
        f"::{_data(finding.message)}"
        for finding in findings
    ]


def _data(text: str) -> str:
    """Escape what would end the command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escape what would end a property too."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
