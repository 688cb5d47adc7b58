"""Binary search with three outcomes.

A space has n differences in an order. State k has the first k of the bad side and the rest of
the good side: state 0 is good, state n is bad. The search finds a k that is good while k + 1 is
bad: difference k + 1 makes it bad, given those before it. A state that cannot be decided is
passed over; where nothing between two neighbours can be decided, the answer is a range.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Outcome(enum.Enum):
    """Of one state."""

    GOOD = "good"
    BAD = "bad"
    UNDECIDED = "undecided"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Where good ends."""

    last_good: int
    first_bad: int
    """More than one beyond `last_good` only where all between are undecided."""
    outcomes: dict[int, Outcome]
    """Of every state that was tried."""


def search(num_differences: int, try_state: Callable[[int], Outcome]) -> Found | Outcome:
    """Find where good turns bad.

    Args:
        num_differences: n, at least 1.
        try_state: the outcome of state k, 0..n; asked once each.

    Returns:
        What was found; or, where state 0 is not good or state n is not bad, the outcome that
        was in the way: nothing can be searched then.
    """
    outcomes: dict[int, Outcome] = {}

    def outcome(state: int) -> Outcome:
        if state not in outcomes:
            outcomes[state] = try_state(state)
        return outcomes[state]

    for end, needed in ((0, Outcome.GOOD), (num_differences, Outcome.BAD)):
        if outcome(end) is not needed:
            return outcome(end)
    good, bad = 0, num_differences
    while True:
        state = _next_state(good, bad, outcomes)
        if state is None:
            return Found(last_good=good, first_bad=bad, outcomes=outcomes)
        match outcome(state):
            case Outcome.GOOD:
                good = state
            case Outcome.BAD:
                bad = state


def _next_state(good: int, bad: int, outcomes: dict[int, Outcome]) -> int | None:
    """The state nearest to the middle that is not known to be undecidable."""
    middle = (good + bad) // 2
    open_states = [k for k in range(good + 1, bad) if outcomes.get(k) is not Outcome.UNDECIDED]
    return min(open_states, key=lambda k: (abs(k - middle), k), default=None)
