"""The engine is compared with CPython, and a fault in the engine itself shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("bitwuzla")
pytest.importorskip("z3")

from cotejar.contracts.prove.conformance import check_conformance
from cotejar.contracts.prove.execute import Executor
from cotejar.contracts.prove.operations import Operations
from cotejar.contracts.prove.solvers import Bitwuzla
from cotejar.contracts.prove.state import State
from cotejar.contracts.prove.terms import Sort, Terms

if TYPE_CHECKING:
    import ast

    from cotejar.contracts.prove.state import Environment


def test_the_engine_is_python() -> None:
    checked = check_conformance()

    assert checked.difference == ""
    assert checked.num_compared > 14_000


def test_less_or_equal_taken_for_less_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Bitwuzla.__init__

    def wrong(self: Bitwuzla) -> None:
        made(self)
        self.kinds[Sort.FLOAT, "<="] = self.kinds[Sort.FLOAT, "<"]

    monkeypatch.setattr(Bitwuzla, "__init__", wrong)

    difference = check_conformance().difference

    assert difference.startswith("comparisons(0.0, 0.0) is [False, True,")
    assert difference.endswith("by bitwuzla")


def test_every_number_taken_for_finite_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Operations._classify

    def wrong(self: Operations, what: str, a: object) -> object:
        return True if what == "isfinite" else right(self, what, a)

    monkeypatch.setattr(Operations, "_classify", wrong)

    assert check_conformance().difference.startswith("classes(")


def test_a_loop_without_its_last_turn_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Executor._run_for

    def wrong(self: Executor, node: ast.For, env: Environment) -> None:
        evaluate = self.evaluate
        self.evaluate = (
            lambda n, e: (  # type: ignore[method-assign]
                evaluate(n, e)[:-1] if n is node.iter else evaluate(n, e)
            )
        )
        right(self, node, env)
        self.evaluate = evaluate  # type: ignore[method-assign]

    monkeypatch.setattr(Executor, "_run_for", wrong)

    assert check_conformance().difference.startswith("breaks(0.0, 0.0) is [3, 1]")


def test_a_division_that_never_raises_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(State, "fail", lambda *_: None)

    difference = check_conformance().difference

    assert difference.startswith("quotient(0.0, 0.0) is ZeroDivisionError in CPython")


def test_equal_terms_are_one_object_and_zeros_keep_their_sign() -> None:
    terms = Terms()
    x = terms.variable("x", Sort.FLOAT)

    assert terms.less(x, terms.constant(0.0)) is terms.less(x, terms.constant(0.0))
    assert terms.constant(0.0) is not terms.constant(-0.0)
    assert terms.and_(terms.less(x, x), terms.true) is terms.false
    assert terms.equal(x, x) is not terms.true
