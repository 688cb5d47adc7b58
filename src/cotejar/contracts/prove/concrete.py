"""The strategies in which CPython runs the harness: all of a small domain, or samples."""

from __future__ import annotations

import math
import random
import sys
import time
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from cotejar.contracts.prove.inputs import ConcreteInputs, EnumeratedInputs, next_path
from cotejar.contracts.prove.outcome import Outcome, ProofVerdict
from cotejar.contracts.prove.replay import run_harness, shrink
from cotejar.contracts.prove.terms import Unsupported
from cotejar.errors import MissingExtraError

if TYPE_CHECKING:
    from cotejar.contracts.prove.harness import Body
    from cotejar.contracts.prove.replay import Run

MAX_ENUMERATED = 2_000_000
NUM_SAMPLES = 1_000
CLOCK_EVERY = 256


def prove_by_enumeration(body: Body, bound: int, deadline: float) -> Outcome:
    """Run the harness on every value of its domain: `choose` and ranges of integers."""
    path: list[int] | None = []
    runs = accepted = 0
    covered: set[str] = set()
    while path is not None:
        if runs >= MAX_ENUMERATED or (runs % CLOCK_EVERY == 0 and time.monotonic() > deadline):
            return _unknown(f"stopped after {runs:,} runs of more", runs, covered)
        inputs = EnumeratedInputs(bound, path)
        run = run_harness(body, inputs)
        runs += 1
        accepted += not run.rejected
        covered |= run.covered
        if isinstance(run.failure, Unsupported):
            return _unknown(f"not modelled: {run.failure}", runs, covered)
        if run.refutes:
            return _refuted(body, bound, inputs, run, runs)
        path = next_path(inputs.path, inputs.widths)
    if accepted == 0 or not covered:
        return _unknown("vacuous: no run satisfies the assumptions and covers", runs, covered)
    facts = {"runs": runs, "covers": sorted(covered)}
    return Outcome(verdict=ProofVerdict.PROVED, facts=facts)


def sample(body: Body, bound: int, deadline: float) -> Outcome:
    """Run the harness on values that Hypothesis makes up: it refutes and never proves.

    Raises:
        MissingExtraError: Hypothesis is not installed.
    """
    hypothesis = _load_hypothesis()
    last: list[tuple[ConcreteInputs, Run]] = []
    runs = 0
    covered: set[str] = set()

    def every(data: Any) -> None:
        nonlocal runs
        if time.monotonic() > deadline:
            return
        inputs = _HypothesisInputs(bound, data, hypothesis.strategies)
        run = run_harness(body, inputs)
        runs += 1
        covered.update(run.covered)
        if run.rejected:
            hypothesis.reject()
        if run.failure is not None:
            last[:] = [(inputs, run)]
            raise run.failure

    settings = hypothesis.settings(
        max_examples=NUM_SAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )
    run_all = settings(hypothesis.given(hypothesis.strategies.data())(every))
    try:
        run_all()
    except Exception:
        if not last:
            raise
        return _refuted(body, bound, last[0][0], last[0][1], runs)
    version = f"hypothesis {metadata.version('hypothesis')}"
    why = f"no counterexample in {runs:,} samples, which proves nothing"
    facts = {"runs": runs, "covers": sorted(covered)}
    return Outcome(verdict=ProofVerdict.UNKNOWN, why=why, solver=version, facts=facts)


def find_failure(body: Body, bound: int, num_runs: int, seed: int = 0) -> ConcreteInputs | None:
    """A quick search for inputs on which a run fails: special values that often repeat."""
    generator = random.Random(seed)  # noqa: S311 - no secret
    for _ in range(num_runs):
        inputs = _SpecialInputs(bound, generator)
        if run_harness(body, inputs).refutes:
            return inputs
    return None


def _unknown(why: str, runs: int, covered: set[str]) -> Outcome:
    facts = {"runs": runs, "covers": sorted(covered)}
    return Outcome(verdict=ProofVerdict.UNKNOWN, why=why, facts=facts)


def _refuted(body: Body, bound: int, inputs: ConcreteInputs, run: Run, runs: int) -> Outcome:
    return Outcome(
        verdict=ProofVerdict.REFUTED,
        why=run.summary,
        counterexample=shrink(body, inputs.drawn, bound),
        facts={"runs": runs, "covers": sorted(run.covered)},
    )


def _load_hypothesis() -> Any:
    try:
        return import_module("hypothesis")
    except ImportError:
        raise MissingExtraError(
            "Hypothesis is not installed",
            where="pv prove",
            expected="the package hypothesis",
            found="no such package in this Python",
            hint="pip install 'cotejar[prove]'",
        ) from None


class _HypothesisInputs(ConcreteInputs):
    """Values that Hypothesis draws."""

    def __init__(self, bound: int, data: Any, strategies: Any) -> None:
        super().__init__(bound)
        self.data, self.strategies = data, strategies

    def _draw_int(self, name: str, low: int | None, high: int | None) -> int:
        return int(self.data.draw(self.strategies.integers(low, high), label=name))

    def _draw_float(self, name: str) -> float:
        return float(self.data.draw(self.strategies.floats(), label=name))

    def _draw_text(self, name: str) -> str:
        any_character = self.strategies.characters(exclude_categories=())
        return str(self.data.draw(self.strategies.text(any_character), label=name))

    def _draw_index(self, name: str, count: int) -> int:
        return int(self.data.draw(self.strategies.integers(0, count - 1), label=name))


_INTS = (1, 1, 1, 2, 0, -1, 7, 2**32 + 1, 2**62)
_FLOATS = (
    *(1.0, 1.0, 2.0, 2.0, 0.5, 0.0, -0.0, -1.0, 3.0, math.inf, -math.inf, math.nan),
    *(5e-324, sys.float_info.min, sys.float_info.max, 1.0 + 2.0**-52),
)
_CHARACTERS = "aaabB01:,.-_/ \t\n\0\u00b2\u0130\u00df\u2028\ud800\U0001f600"


class _SpecialInputs(ConcreteInputs):
    """Few values that meet often, and one that now and then does not."""

    def __init__(self, bound: int, generator: random.Random) -> None:
        super().__init__(bound)
        self.random = generator
        self.plain = generator.random()
        """How often this run takes the plain value: near 1 most samples pass."""
        self.floats_now = generator.choices(_FLOATS, k=3)
        """Few, so that two are often the same."""

    def _draw_int(self, name: str, low: int | None, high: int | None) -> int:
        del name
        value = 1 if self.random.random() < self.plain else self.random.choice(_INTS)
        value = value if low is None else max(low, value)
        return value if high is None else min(high, value)

    def _draw_float(self, name: str) -> float:
        del name
        if self.random.random() < self.plain:
            return 1.0
        return self.random.choice(self.floats_now)

    def _draw_text(self, name: str) -> str:
        del name
        length = self.random.randrange(self.bound + 1)
        return "".join(self.random.choices(_CHARACTERS, k=length))

    def _draw_index(self, name: str, count: int) -> int:
        del name
        return self.random.randrange(count)
