"""The text and the JSON of `apr bisect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cotejar.diagnosis.bisection.search import Outcome
from cotejar.report.tables import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.diagnosis.bisection.run import Bisection


def bisection_lines(found: Bisection) -> Iterator[str]:
    """What was tried, and what is left."""
    yield f"{len(found.differences)} differences in {found.over}, {found.num_run} runs now"
    for count, outcome in found.outcomes.items():
        name = "the good side" if count == 0 else f"up to {found.differences[count - 1]}"
        yield visible(f"  {outcome.value:<10} {name}")
    yield ""
    if found.blocked is not None:
        yield f"INCOMPARABLE  {found.blocked}: there is nothing to search between"
        return
    if len(found.guilty) == 1:
        yield visible(f"first bad: {found.guilty[0]}")
        return
    yield f"INCOMPARABLE  one of {len(found.guilty)}, and none between can be decided:"
    for name in found.guilty:
        yield visible(f"  {name}")


def bisection_json(found: Bisection) -> dict[str, Any]:
    """The same facts."""
    return {
        "verdict": found.verdict.name,
        "over": found.over,
        "differences": list(found.differences),
        "guilty": list(found.guilty),
        "blocked": found.blocked,
        "runs": found.num_run,
        "outcomes": [
            {"state": count, "outcome": outcome.value}
            for count, outcome in found.outcomes.items()
        ],
        "undecided": sum(o is Outcome.UNDECIDED for o in found.outcomes.values()),
    }
