"""CrossHair on leaves: CPython runs the harness on stand-ins for numbers, path by path.

CrossHair (crosshair-tool) asks Z3 at each branch which ways can be taken, and runs the harness
again until every way was. Its integers are unbounded, as Python's are. Its floats are real
numbers on most paths, without rounding, and what it then confirms need not hold in binary64.
So a claim is PROVED only if

-   every path ran to its end, none was given up or ignored;
-   no path made a float, drawn or computed (`n / 2` makes one), whatever CrossHair concludes:
    its own cap on such conclusions does not hold on every path;
-   its integers and truth values were compared with CPython's just before, and, where a text
    was drawn, its texts just after;
-   every cover was reached by CPython on the values found;
-   CPython, on special values, finds no failure.

What fails on a path counts only if it fails in CPython on the values found, as everywhere.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from cotejar.contracts.prove.concrete import find_failure
from cotejar.contracts.prove.crosshair_engine import Engine
from cotejar.contracts.prove.crosshair_grid import compare_numbers, compare_texts
from cotejar.contracts.prove.inputs import ConcreteInputs, Drawn, RecordedInputs, Rejected
from cotejar.contracts.prove.outcome import Outcome, ProofVerdict
from cotejar.contracts.prove.replay import run_harness, shrink
from cotejar.contracts.prove.terms import Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cotejar.contracts.prove.harness import Body

NUM_QUICK_RUNS = 1_000


def prove_by_crosshair(body: Body, bound: int, deadline: float) -> Outcome:
    """Explore every path of a harness; see the module's docstring for what counts.

    Raises:
        MissingExtraError: CrossHair is not installed.
    """
    return _Proof(body, bound, deadline).prove()


class _Proof:
    """One harness at one bound."""

    def __init__(self, body: Body, bound: int, deadline: float) -> None:
        self.body, self.bound = body, bound
        self.engine = Engine(deadline)
        self.inputs = _CrossHairInputs(bound, self.engine)
        self.labels: set[str] = set()
        self.covered: set[str] = set()
        """Reached by CPython on the values of a path."""
        self.num_compared = self.num_false_alarms = 0
        self.failing: Drawn | None = None
        self.not_modelled = ""

    def prove(self) -> Outcome:
        """Decide the claim."""
        different = self._compare(compare_numbers)
        if different:
            return self._outcome(ProofVerdict.UNKNOWN, different)
        confirmed = self.engine.explore(self._run, self._judge)
        if self.failing is not None:
            return self._refuted(self.failing)
        against = self._against(confirmed=confirmed)
        if not against and self.engine.drew_texts:
            against = self._compare(compare_texts)
        if against:
            return self._outcome(ProofVerdict.UNKNOWN, against)
        missed = find_failure(self.body, self.bound, NUM_QUICK_RUNS)
        if missed is not None:
            return self._refuted(missed.drawn)
        return self._outcome(ProofVerdict.PROVED)

    def _compare(self, compare: Callable[[Engine], tuple[int, str]]) -> str:
        """Compare stand-ins with CPython; what differs, or nothing."""
        num_paths = self.engine.num_paths
        num_compared, difference = compare(self.engine)
        self.engine.num_paths = num_paths  # those of the claim are what is reported
        self.num_compared += num_compared
        return f"CrossHair is not Python here: {difference}" if difference else ""

    def _run(self) -> None:
        self.inputs = _CrossHairInputs(self.bound, self.engine)
        self.body(self.inputs)

    def _judge(self, failure: Exception | None) -> bool:
        """Judge a path that has ended; True stops the search."""
        if isinstance(failure, Unsupported):
            self.not_modelled = f"not modelled: {failure}"
            return True
        if isinstance(failure, Rejected):
            return False
        self.labels |= self.inputs.labels
        if failure is None and self.inputs.covered <= self.covered:
            return False
        drawn = self.engine.values_of(self.inputs.drawn)
        run = run_harness(self.body, RecordedInputs(self.bound, drawn))
        if run.refutes:
            self.failing = drawn
            return True
        self.num_false_alarms += failure is not None
        self.covered |= frozenset() if run.rejected else run.covered
        return False

    def _against(self, *, confirmed: bool) -> str:
        """What stands against PROVED; empty where nothing does."""
        if self.not_modelled:
            return self.not_modelled
        if self.num_false_alarms:
            return "CrossHair's counterexample does not fail in CPython"
        if self.engine.made_floats:
            return "a float was drawn or computed, and CrossHair's floats do not round as ours"
        if not confirmed:
            return f"not every path was confirmed; {self.engine.num_paths:,} were run"
        unreached = sorted(self.labels - self.covered)
        if unreached:
            return f"vacuous: never reached: {', '.join(unreached)}"
        return "" if self.labels else "vacuous: it covers nothing"

    def _refuted(self, drawn: Mapping[str, object]) -> Outcome:
        """REFUTED only if CPython agrees, outside the search too."""
        small = shrink(self.body, drawn, self.bound)
        failing = run_harness(self.body, RecordedInputs(self.bound, small))
        if not failing.refutes:
            why = "CrossHair's counterexample does not fail in CPython"
            return self._outcome(ProofVerdict.UNKNOWN, why)
        return self._outcome(ProofVerdict.REFUTED, failing.summary, small)

    def _outcome(
        self, verdict: ProofVerdict, why: str = "", counterexample: Drawn | None = None
    ) -> Outcome:
        return Outcome(
            verdict=verdict,
            why=why,
            counterexample=counterexample,
            solver=f"crosshair {metadata.version('crosshair-tool')}",
            facts={
                "paths": self.engine.num_paths,
                "made_floats": self.engine.made_floats,
                "compared": self.num_compared,
                "covers": sorted(self.covered),
            },
        )


class _CrossHairInputs(ConcreteInputs):
    """Stand-ins for numbers; what a run asks of them forks it."""

    def __init__(self, bound: int, engine: Engine) -> None:
        super().__init__(bound)
        self.engine = engine
        self.labels: set[str] = set()

    def cover(self, label: str, condition: object = True) -> None:  # noqa: FBT002 - as Inputs
        """Note the label, and whether it was reached."""
        self.labels.add(label)
        super().cover(label, condition)

    def _draw_int(self, name: str, low: int | None, high: int | None) -> int:
        del low, high  # the caller leaves out what lies outside
        return self.engine.stand_in(int, name)  # type: ignore[no-any-return]  # CrossHair is untyped

    def _draw_float(self, name: str) -> float:
        self.engine.made_floats = True  # an infinity and a NaN come as themselves
        return self.engine.stand_in(float, name)  # type: ignore[no-any-return]  # CrossHair is untyped

    def _draw_text(self, name: str) -> str:
        self.engine.drew_texts = True
        return self.engine.stand_in(str, name)  # type: ignore[no-any-return]  # CrossHair is untyped

    def _draw_index(self, name: str, count: int) -> int:
        value = self.engine.stand_in(int, name)
        for index in range(count):
            if value == index:
                return index
        raise Rejected
