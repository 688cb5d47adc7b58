"""Run a harness in CPython, on values that were written down, and make them plainer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.contracts.prove.inputs import (
    DEFAULT_FLOAT,
    DEFAULT_INT,
    DEFAULT_TEXT,
    ConcreteInputs,
    RecordedInputs,
    Rejected,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cotejar.contracts.prove.harness import Body

MAX_SHRINK_RUNS = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What happened when CPython ran a harness."""

    rejected: bool
    """An assumption was false: the run says nothing."""
    failure: Exception | None
    """What escaped; None where the harness returned."""
    covered: frozenset[str]

    @property
    def refutes(self) -> bool:
        """Did the harness say no?"""
        return self.failure is not None

    @property
    def summary(self) -> str:
        """The failure in one line."""
        if self.failure is None:
            return "the harness returned"
        text = " ".join(str(self.failure).split())
        name = type(self.failure).__name__
        return f"{name}: {text}" if text else name


def run_harness(body: Body, inputs: ConcreteInputs) -> Run:
    """Run a harness once."""
    failure: Exception | None = None
    rejected = False
    try:
        body(inputs)
    except Rejected:
        rejected = True
    except Exception as error:  # noqa: BLE001 - whatever escapes is the finding
        failure = error
    return Run(rejected=rejected, failure=failure, covered=frozenset(inputs.covered))


def replay(body: Body, drawn: Mapping[str, object], *, bound: int) -> None:
    """Run a harness on recorded values; what it raises is raised.

    Saved counterexamples call this: such a test fails until the code is right.
    """
    try:
        body(RecordedInputs(bound, drawn))
    except Rejected:
        raise ValueError("the values are outside the claim: an assumption is false") from None


def shrink(body: Body, drawn: Mapping[str, object], bound: int) -> dict[str, object]:
    """Leave out, or make plainer, every value that the failure does not need."""
    best = dict(drawn)
    runs = 0

    def still_fails(candidate: Mapping[str, object]) -> bool:
        nonlocal runs
        runs += 1
        return run_harness(body, RecordedInputs(bound, candidate)).refutes

    # Halves first, so that hundreds of values that do not matter go in few runs.
    size = len(best)
    while size >= 1 and runs < MAX_SHRINK_RUNS:
        names = list(best)
        for start in range(0, len(names), size):
            gone = set(names[start : start + size])
            smaller = {k: v for k, v in best.items() if k not in gone}
            if still_fails(smaller):
                best = smaller
        size //= 2
    for name, value in list(best.items()):
        for plainer in _plainer(value):
            if runs < MAX_SHRINK_RUNS and still_fails({**best, name: plainer}):
                best[name] = plainer
                break
    return best


def _plainer(value: object) -> list[object]:
    """Values to try instead, the plainest first."""
    if isinstance(value, float):
        options: list[object] = [DEFAULT_FLOAT, 0.0, 2.0, 3.0, math.inf, math.nan]
    elif isinstance(value, str):
        options = [DEFAULT_TEXT, "a", value[: len(value) // 2], value[len(value) // 2 :]]
    else:
        options = [DEFAULT_INT, 0, 2, 3, -1]
    shown = repr(value)
    before = [repr(option) for option in options]
    return options[: before.index(shown)] if shown in before else options
