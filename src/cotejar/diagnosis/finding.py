"""An operation that is wrong on one side, what makes it so, and how that is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Case
from cotejar.diagnosis.search import find_causes
from cotejar.trace.site import parse_site

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cotejar.diagnosis.observed import Observed
    from cotejar.diagnosis.replay import LocalError
    from cotejar.diagnosis.search import Found

_MOST_BYTES, _FEWEST_ROWS = 4 << 20, 8
"""Of the logits that a search looks at, in float64, and of their tokens."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Finding:
    """The first wrong operation of a side."""

    error: LocalError
    case: Case
    found: Found

    @property
    def reason(self) -> str:
        """The cause in words, or that none was found, and what can still be said."""
        found = self.found
        if found.causes:
            return found.causes[0].title
        none = f"none of {found.num_tried} known ways to be wrong explains it"
        return none if found.looks_like is None else f"{none}: {found.looks_like}"

    def is_like(self, other: Finding) -> bool:
        """Is it the same operation, wrong for the same reason?"""
        return self.error.site == other.error.site and self.reason == other.reason


def make_case(error: LocalError, observed: Sequence[Observed]) -> Case:
    """What a search for the cause of an operation's error begins with.

    Logits of a long prompt are larger than the model, and every hypothesis makes an array of
    their size: the search looks at some consecutive tokens, up to the last wrong one.
    """
    side = next(one for one in observed if one.side == error.side)
    operation = side.truth.operations[error.site]
    recorded = side.as_recorded(operation.site)
    inputs = None if recorded is None else side.inputs(operation, recorded)
    if inputs is None or recorded is None:  # they were there when it was replayed
        raise RuntimeError(error.site)
    most = max(_FEWEST_ROWS, _MOST_BYTES // (8 * recorded.shape[1]))
    if operation.site.slot != "logits" or len(recorded) <= most:
        return Case(operation, side, inputs.arrays, np.asarray(recorded, np.float64), error)
    stop = 1 + int(np.flatnonzero(~(error.ratios <= 1))[-1])
    rows = np.arange(max(0, stop - most), stop)
    return Case(
        operation,
        side,
        tuple(array[rows] for array in inputs.arrays),
        recorded[rows].astype(np.float64),
        error.of_rows(rows),
        rows=rows,
    )


def look_into(error: LocalError, observed: Sequence[Observed]) -> Finding:
    """Look for the cause of an operation's error."""
    case = make_case(error, observed)
    return Finding(error=error, case=case, found=find_causes(case))


def summarize(findings: Sequence[Finding]) -> str:
    """One sentence of the wrong sides, the first one's first."""
    first = findings[0]
    if len(findings) > 1 and all(first.is_like(other) for other in findings[1:]):
        who = "both sides are"
        findings = findings[:1]
    else:
        who = f"the {first.error.side} is"
    mark = ": " if first.found.causes else "; "
    said = [f"{who} wrong at {first.error.site}{mark}{first.reason}"]
    said += [
        f"the {other.error.side} is wrong at {other.error.site}"
        f"{': ' if other.found.causes else ', and '}{other.reason}"
        for other in findings[1:]
    ]
    return "; and ".join(said)


def advise(finding: Finding, output: Path | None) -> str:
    """What to do about it."""
    site = parse_site(finding.error.site)
    layer = "" if site.layer is None else f" of layer {site.layer}"
    if finding.found.causes:
        return f"mend {site.slot}{layer} in the {finding.error.side}, then diagnose again"
    if output is not None:
        return f"read {output}/show.py beside the code of {site.slot}{layer}"
    return "write the smallest reproduction with -o FOLDER and read it beside the code"
