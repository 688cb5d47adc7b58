"""Findings of an earlier `pv lint`: what a baseline knows does not fail a gate.

A baseline is what `pv lint -f sarif` or `pv lint --json` wrote. A finding is the same where
rule, file and message are: lines move. Two alike need two in the baseline.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from cotejar.contracts.read import read_text
from cotejar.contracts.render.sarif import artifact_uri
from cotejar.errors import UsageError

if TYPE_CHECKING:
    from cotejar.contracts.findings import Finding


class Baseline:
    """The findings of an earlier run; each is taken once."""

    def __init__(self, findings: Counter[tuple[str, str, str]]) -> None:
        """Start with all of them, keyed by rule, file and message."""
        self._left = findings

    def take(self, finding: Finding) -> bool:
        """Is it known? If so, one of its like is used up."""
        key = (finding.rule, artifact_uri(finding.file), finding.message)
        known = self._left[key] > 0
        if known:
            self._left[key] -= 1
        return known

    @property
    def num_left(self) -> int:
        """Findings that nothing has used up."""
        return self._left.total()


def read_baseline(path: str) -> Baseline:
    """Read a SARIF log, or the JSON of `pv lint`.

    Raises:
        FileError: it cannot be read, or is too large.
        UsageError: it is neither.
    """
    try:
        document = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise _no_baseline(path, f"no JSON: {error}") from None
    try:
        keys = _sarif_keys(document) if "runs" in document else _json_keys(document)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise _no_baseline(path, f"JSON without {error}") from None
    if not all(isinstance(part, str) for key in keys for part in key):
        raise _no_baseline(path, "a rule, file or message that is no text")
    return Baseline(Counter(keys))


def _sarif_keys(document: Any) -> list[tuple[str, str, str]]:
    return [
        (
            result["ruleId"],
            result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"],
            result["message"]["text"],
        )
        for run in document["runs"]
        for result in run["results"]
    ]


def _json_keys(document: Any) -> list[tuple[str, str, str]]:
    findings = [
        finding for gate in document["gates"] for finding in (*gate["findings"], *gate["known"])
    ]
    findings += document["stale_suppressions"]
    return [(f["rule"], artifact_uri(f["file"]), f["message"]) for f in findings]


def _no_baseline(path: str, found: str) -> UsageError:
    return UsageError(
        "this is no baseline",
        where=f"--baseline {path}",
        expected="what `pv lint -f sarif` or `pv lint --json` wrote",
        found=found,
        hint="`pv lint -f sarif > baseline.sarif` writes one",
    )
