"""The symbolic strategy: every path of a harness at once, decided by solvers."""

from __future__ import annotations

import ast
import time
from typing import TYPE_CHECKING, TypeVar

from cotejar.contracts.prove.decide import Decider
from cotejar.contracts.prove.execute import Executor
from cotejar.contracts.prove.inputs import RecordedInputs, Rejected, next_path
from cotejar.contracts.prove.outcome import Outcome, ProofVerdict
from cotejar.contracts.prove.replay import run_harness, shrink
from cotejar.contracts.prove.solvers import Satisfied, Undecided, solver_version
from cotejar.contracts.prove.source import SourceReader
from cotejar.contracts.prove.state import State
from cotejar.contracts.prove.terms import Sort, Term, Terms, Unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FunctionType

    from cotejar.contracts.prove.harness import Body
    from cotejar.contracts.prove.values import Value

T = TypeVar("T")


class SymbolicInputs:
    """Draws symbols; lengths and other structure are enumerated, by `path`."""

    def __init__(self, bound: int, path: Sequence[int]) -> None:
        self.bound = bound
        self.path = list(path)
        self.widths: list[int] = []
        self.chosen: dict[str, object] = {}
        self.covers: dict[str, Term] = {}
        self.executor: Executor | None = None
        self._names: set[str] = set()

    def integer(self, name: str, low: int | None = None, high: int | None = None) -> Term:
        """A symbolic integer, of any size."""
        executor = self._here()
        symbol = self._symbol(name, Sort.INT)
        for op, limit in ((ast.GtE(), low), (ast.LtE(), high)):
            if limit is not None:
                self.assume(executor.operations.compare(op, symbol, limit))
        return symbol

    def double(self, name: str) -> Term:
        """A symbolic binary64."""
        return self._symbol(name, Sort.FLOAT)

    def integers(self, name: str, count: int) -> list[Term]:
        """`count` symbolic integers."""
        return [self.integer(f"{name}[{i}]") for i in range(count)]

    def text(self, name: str, max_length: int) -> Term:
        """Not modelled."""
        del max_length
        raise Unsupported(f"{name!r} is a text; the strategy crosshair draws texts")

    def doubles(self, name: str, count: int) -> list[Term]:
        """`count` symbolic floats."""
        return [self.double(f"{name}[{i}]") for i in range(count)]

    def choose(self, name: str, options: Sequence[T]) -> T:
        """The option that the path names."""
        self._take(name)
        executor = self._here()
        if executor.state.here(executor.terms.true) is not executor.terms.true:
            raise Unsupported(f"{name!r} is chosen after something symbolic was decided")
        at = len(self.widths)
        self.widths.append(len(options))
        if at == len(self.path):
            self.path.append(0)
        if not options:
            raise Rejected
        self.chosen[name] = self.path[at]
        return options[self.path[at]]

    def assume(self, condition: Value) -> None:
        """Go on only where this holds."""
        executor = self._here()
        holds = executor.operations.truth(condition)
        executor.state.end(executor.terms.not_(holds))

    def cover(self, label: str, condition: Value = True) -> None:  # noqa: FBT002 - as Inputs
        """Note when the label is reached."""
        executor = self._here()
        reached = executor.state.here(executor.operations.truth(condition))
        before = self.covers.get(label, executor.terms.false)
        self.covers[label] = executor.terms.or_(before, reached)

    def _symbol(self, name: str, sort: Sort) -> Term:
        self._take(name)
        return self._here().terms.variable(name, sort)

    def _take(self, name: str) -> None:
        if name in self._names:
            raise Unsupported(f"{name!r} is drawn twice")
        self._names.add(name)

    def _here(self) -> Executor:
        if self.executor is None:
            raise Unsupported("the inputs belong to no run")
        return self.executor


class SymbolicProof:
    """One harness at one bound."""

    def __init__(self, body: FunctionType | Body, bound: int, deadline: float) -> None:
        self.body = body
        self.bound = bound
        self.deadline = deadline
        self.reader = SourceReader()
        self.decider = Decider(deadline)
        self.num_runs = 0
        self.labels: set[str] = set()
        self.covered: set[str] = set()

    def prove(self) -> Outcome:
        """Decide the claim."""
        try:
            return self._over_every_path()
        except Unsupported as error:
            return self._outcome(ProofVerdict.UNKNOWN, f"not modelled: {error}")
        except RecursionError:
            return self._outcome(ProofVerdict.UNKNOWN, "the code is nested too deep")

    def _over_every_path(self) -> Outcome:
        path: list[int] | None = []
        while path is not None:
            if time.monotonic() > self.deadline:
                return self._outcome(ProofVerdict.UNKNOWN, "the time is up")
            inputs = SymbolicInputs(self.bound, path)
            found = self._one_path(inputs)
            if found is not None:
                return found
            path = next_path(inputs.path, inputs.widths)
        unreached = sorted(self.labels - self.covered)
        if unreached or not self.labels:
            what = (
                f"never reached: {', '.join(unreached)}" if unreached else "it covers nothing"
            )
            return self._outcome(ProofVerdict.UNKNOWN, f"vacuous: {what}")
        return self._outcome(ProofVerdict.PROVED)

    def _one_path(self, inputs: SymbolicInputs) -> Outcome | None:
        """Run one structure; None where nothing speaks against the claim."""
        terms = Terms()
        state = State(terms)
        executor = Executor(state, self.reader, inputs)
        inputs.executor = executor
        self.num_runs += 1
        try:
            executor.call(self.body, [inputs], {})
        except Rejected:
            return None
        violated = terms.any_of(violation.guard for violation in state.violations)
        answer = self.decider.decide(violated)
        if isinstance(answer, Undecided):
            return self._outcome(ProofVerdict.UNKNOWN, answer.why)
        if answer is not None:
            return self._refute({**inputs.chosen, **answer.values})
        self.labels |= set(inputs.covers)
        return self._reach_covers(inputs)

    def _reach_covers(self, inputs: SymbolicInputs) -> Outcome | None:
        """Find values for labels that no run has reached yet, and see CPython reach them."""
        for label, reached in inputs.covers.items():
            if label in self.covered:
                continue
            answer = self.decider.decide(reached)
            if isinstance(answer, Undecided):
                return self._outcome(ProofVerdict.UNKNOWN, f"cover {label!r}: {answer.why}")
            if isinstance(answer, Satisfied):
                drawn = {**inputs.chosen, **answer.values}
                run = run_harness(self.body, RecordedInputs(self.bound, drawn))
                if label not in run.covered:
                    why = f"CPython does not reach {label!r} where the engine says it does"
                    return self._outcome(ProofVerdict.UNKNOWN, why)
                self.covered |= run.covered
        return None

    def _refute(self, drawn: dict[str, object]) -> Outcome:
        """REFUTED only if CPython agrees."""
        run = run_harness(self.body, RecordedInputs(self.bound, drawn))
        if not run.refutes:
            return self._outcome(
                ProofVerdict.UNKNOWN,
                "the engine's counterexample does not fail in CPython, so the engine is wrong",
            )
        small = shrink(self.body, drawn, self.bound)
        failing = run_harness(self.body, RecordedInputs(self.bound, small))
        return self._outcome(ProofVerdict.REFUTED, failing.summary, small)

    def _outcome(
        self,
        verdict: ProofVerdict,
        why: str = "",
        counterexample: dict[str, object] | None = None,
    ) -> Outcome:
        effort = self.decider.effort
        return Outcome(
            verdict=verdict,
            why=why,
            counterexample=counterexample,
            solver=", ".join(solver_version(name) for name in sorted(effort.solvers)),
            facts={
                "structures": self.num_runs,
                **effort.as_json(),
                "covers": sorted(self.covered),
                "functions": sorted(self.reader.reached),
                "code_hash": self.reader.closure_hash(),
            },
        )
