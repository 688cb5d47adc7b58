"""Findings as a SARIF 2.1.0 log, which code-scanning services read.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cotejar import __version__
from cotejar.contracts.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cotejar.contracts.findings import Finding
    from cotejar.contracts.rules.rule import RuleHelp

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def sarif_log(
    findings: Iterable[Finding],
    rules: Iterable[RuleHelp],
    *,
    known: Iterable[Finding] | None = None,
) -> dict[str, Any]:
    """One run, with the rules that may fire and the findings that did.

    `known` are the findings that a baseline has too; None: there is no baseline.
    """
    driver = {
        "name": "pv",
        "version": __version__,
        "rules": [_rule(rule) for rule in rules],
    }
    results = [_result(finding) for finding in findings]
    if known is not None:
        results = [{**result, "baselineState": "new"} for result in results]
        results += [{**_result(f), "baselineState": "unchanged"} for f in known]
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(rule: RuleHelp) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.why},
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
    }


def _result(finding: Finding) -> dict[str, Any]:
    region = {"startLine": finding.line, "startColumn": finding.column}
    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": artifact_uri(finding.file)},
            "region": region,
        }
    }
    if finding.path:
        location["logicalLocations"] = [{"fullyQualifiedName": finding.path}]
    return {
        "ruleId": finding.rule,
        "level": LEVELS[finding.severity],
        "message": {"text": finding.message},
        "locations": [location],
    }


def artifact_uri(file: str) -> str:
    """A file's name as SARIF has it: relative where it was named so."""
    path = Path(file)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())
