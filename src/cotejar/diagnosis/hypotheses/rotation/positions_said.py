"""What wrong positions have in common, in words."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

STEPS = "the tokens fed one at a time"


def position_words(found: Sequence[int], passes: Sequence[int]) -> str:
    """How tokens, which ought to stand at 0, 1, 2 ... and stand at `found`, are turned.

    Args:
        found: the position of each token.
        passes: tokens fed at once, in turn.

    Returns:
        What is wrong in some passes alone; empty where it is not wrong pass by pass.
    """
    if len(passes) < 2 or sum(passes) != len(found):  # noqa: PLR2004 - one pass
        return ""
    starts = [sum(passes[:i]) for i in range(len(passes) + 1)]
    wrong = [list(found[a:b]) != list(range(a, b)) for a, b in pairwise(starts)]
    steps = _num_steps(passes)
    chunks = range(1, len(passes) - steps)
    if any(wrong[: len(passes) - steps]):
        return _of_passes(found, starts, wrong, chunks)
    first = len(found) - steps
    words = _of_steps(list(found[first:]), first)
    if words:
        return f"{STEPS} are turned {words}"
    began = next(i for i in range(first, len(found)) if found[i] != i)
    words = _of_steps(list(found[began:]), began)
    if len(found) - began > 1 and len(set(found[began:])) == 1 and found[began] == began - 1:
        words = f"as if all at {began - 1}: the counter stops"
    return f"from token {began} on tokens are turned {words}" if words else ""


def _num_steps(passes: Sequence[int]) -> int:
    steps = 0
    while steps < len(passes) - 1 and passes[-1 - steps] == 1:
        steps += 1
    return steps


def _of_passes(
    found: Sequence[int], starts: Sequence[int], wrong: Sequence[bool], chunks: range
) -> str:
    """Passes, not steps alone, that count on from a wrong position."""
    which = [i for i, off in enumerate(wrong) if off]
    whose = _whose(which, starts, chunks)
    for i in which:
        begin, size = found[starts[i]], starts[i + 1] - starts[i]
        if list(found[starts[i] : starts[i + 1]]) != list(range(begin, begin + size)):
            return ""
    begins = [found[starts[i]] for i in which]
    late = {begin - starts[i] for begin, i in zip(begins, which, strict=True)}
    if not whose:
        return ""
    if set(begins) == {0}:
        where = "as if from 0 on: positions begin again"
    elif which[0] and begins == [starts[i - 1] for i in which]:
        where = "as if it began where the one before began"
    elif len(late) == 1:
        where = f"as if {_far(late.pop())}"
    else:
        return ""
    return f"{whose} is turned {where}"


def _whose(which: Sequence[int], starts: Sequence[int], chunks: range) -> str:
    """What these passes are; empty for all, and for others that have no name."""
    passes = len(starts) - 1
    if len(which) == passes:
        return ""
    if list(which) in ([0], [0, *chunks]):
        return "the first pass" if len(which) == 1 and len(chunks) else "the prompt"
    if len(which) == 1:
        return f"the chunk of tokens {starts[which[0]]} to {starts[which[0] + 1] - 1}"
    if list(which) == [*chunks]:
        return "each later chunk of the prompt"
    return "each pass after the first" if list(which) == [*range(1, passes)] else ""


def _far(late: int) -> str:
    far = f"{abs(late)} position{'s' if abs(late) > 1 else ''}"
    return f"{far} {'later' if late > 0 else 'earlier'}"


def _of_steps(found: list[int], first_step: int) -> str:
    """What positions have in common that ought to count on from `first_step`."""
    late = found[0] - first_step
    counted = list(range(found[0], found[0] + len(found)))
    if len(found) > 1 and len(set(found)) == 1:
        why = (
            ": the counter does not move" if found[0] else ": not at all, or without a counter"
        )
        return f"as if all at {found[0]}{why}"
    if found == counted and found[0] == 0:
        return "as if from 0 on: the counter begins again"
    if found == counted:
        return f"as if {_far(late)}"
    if found == [-first_step - i for i in range(len(found))]:
        return "the other way"
    pace = found[1] - found[0]
    if found == [found[0] + pace * i for i in range(len(found))]:
        return f"as if at {found[0]} and {pace} on each time: the counter moves by {pace}"
    return ""
