"""What the engine proves, refutes, and says it does not know."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("bitwuzla")
pytest.importorskip("z3")

from cotejar.contracts.prove.outcome import ProofVerdict
from cotejar.contracts.prove.solvers import Satisfied
from cotejar.contracts.prove.symbolic import SymbolicProof

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.contracts.prove.outcome import Outcome


def prove(load: Callable, body: str, bound: int = 3, seconds: float = 30) -> Outcome:
    module = load("import math\n\n\n" + body)
    return SymbolicProof(module.claim, bound, time.monotonic() + seconds).prove()


def test_a_true_claim_is_proved(load: Callable) -> None:
    outcome = prove(
        load,
        "def claim(inputs):\n"
        "    x = inputs.double('x')\n"
        "    inputs.cover('a number', x == x)\n"
        "    assert abs(x) >= 0 or math.isnan(x)\n",
    )

    assert outcome.is_proved
    assert outcome.solver.startswith("bitwuzla ")
    assert outcome.facts["covers"] == ["a number"]


def test_a_false_claim_is_refuted_with_the_plainest_values(load: Callable) -> None:
    outcome = prove(
        load,
        "def claim(inputs):\n"
        "    counts = inputs.integers('counts', inputs.bound)\n"
        "    inputs.cover('any')\n"
        "    assert counts[2] < 1_000_000, 'too many'\n",
    )

    assert outcome.verdict is ProofVerdict.REFUTED
    assert list(outcome.counterexample) == ["counts[2]"]
    assert outcome.counterexample["counts[2]"] >= 1_000_000
    assert outcome.why == "AssertionError: too many"


def test_addition_of_floats_is_not_associative(load: Callable) -> None:
    outcome = prove(
        load,
        "def claim(inputs):\n"
        "    a, b, c = inputs.doubles('x', 3)\n"
        "    inputs.assume(0 < a < 8 and 0 < b < 8 and 0 < c < 8)\n"
        "    inputs.cover('any')\n"
        "    assert (a + b) + c == a + (b + c)\n",
    )

    assert outcome.verdict is ProofVerdict.REFUTED


def test_unbounded_integers_need_the_second_solver(load: Callable) -> None:
    outcome = prove(
        load,
        "def claim(inputs):\n"
        "    n = inputs.integer('n')\n"
        "    inputs.cover('a number beyond 64 bits', n > 2**70)\n"
        "    assert (2 * n) % 2 == 0\n",
    )

    assert outcome.is_proved
    assert "z3 " in outcome.solver


def test_a_claim_that_assumes_the_impossible_proves_nothing(load: Callable) -> None:
    outcome = prove(
        load,
        "def claim(inputs):\n"
        "    x = inputs.double('x')\n"
        "    inputs.assume(x < 0 and x > 1)\n"
        "    inputs.cover('any')\n"
        "    assert x == 7\n",
    )

    assert outcome.verdict is ProofVerdict.UNKNOWN
    assert outcome.why == "vacuous: never reached: any"


def test_a_claim_without_a_cover_proves_nothing(load: Callable) -> None:
    outcome = prove(load, "def claim(inputs):\n    assert inputs.double('x') is not None\n")

    assert (outcome.verdict, outcome.why) == (
        ProofVerdict.UNKNOWN,
        "vacuous: it covers nothing",
    )


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("while x > 0:\n        x = x - 1", "not modelled: line 7: While"),
        (
            "try:\n        x = 1 / x\n    except ZeroDivisionError:\n        x = 0.0",
            "not modelled: line 7: Try",
        ),
        ("math.log(x)", "not modelled: line 7: a call of <built-in function log>"),
        ("[1, 2][n]", "not modelled: a symbolic value was used as a plain Python one"),
        ("x ** 2", "not modelled: Pow on these operands"),
        ("x in [0.0]", "not modelled: == or `in` on lists that hold floats"),
        ("n < 0.5", "not modelled: a symbolic int mixed with a float"),
    ],
)
def test_what_is_not_modelled_is_unknown(load: Callable, statement: str, why: str) -> None:
    outcome = prove(
        load,
        f"def claim(inputs):\n    x, n = inputs.double('x'), inputs.integer('n')\n"
        f"    inputs.cover('any')\n    {statement}\n",
    )

    assert (outcome.verdict, outcome.why) == (ProofVerdict.UNKNOWN, why)


def test_a_local_name_is_never_looked_up_outside(load: Callable) -> None:
    """CPython raises UnboundLocalError, although the module has a `limit` too."""
    outcome = prove(
        load,
        "limit = 3\n\n\n"
        "def claim(inputs):\n"
        "    if inputs.integer('n') > 0:\n"
        "        limit = 4\n"
        "    inputs.cover('any')\n"
        "    assert limit > 0\n",
    )

    assert (outcome.verdict, outcome.why) == (
        ProofVerdict.UNKNOWN,
        "not modelled: line 11: limit has no value on every path",
    )


def test_the_hash_covers_constants_outside_the_functions(load: Callable) -> None:
    text = "LIMIT = {}\n\n\ndef claim(inputs):\n    inputs.cover('any', LIMIT > 0)\n"
    hashes = set()
    for limit in (3, 4):
        module = load(text.format(limit))
        module.claim.__qualname__ = module.claim.__module__ = "claim"
        proof = SymbolicProof(module.claim, 1, time.monotonic() + 30)
        assert proof.prove().is_proved
        hashes.add(proof.reader.closure_hash())

    assert len(hashes) == 2


def test_no_time_is_unknown(load: Callable) -> None:
    outcome = prove(load, "def claim(inputs):\n    inputs.cover('any')\n", seconds=-1)

    assert (outcome.verdict, outcome.why) == (ProofVerdict.UNKNOWN, "the time is up")


def test_a_counterexample_that_cpython_does_not_confirm_is_unknown(
    load: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "cotejar.contracts.prove.decide.Decider.decide", lambda *_: Satisfied({"x": 1.0})
    )

    outcome = prove(
        load,
        "def claim(inputs):\n"
        "    x = inputs.double('x')\n"
        "    inputs.cover('any')\n"
        "    assert x == 1 or math.isnan(x)\n",
    )

    assert (outcome.verdict, outcome.why) == (
        ProofVerdict.UNKNOWN,
        "the engine's counterexample does not fail in CPython, so the engine is wrong",
    )


def test_every_choice_is_tried(load: Callable) -> None:
    outcome = prove(
        load,
        "def claim(inputs):\n"
        "    n = inputs.choose('n', [1, 2, 3])\n"
        "    m = inputs.choose('m', [1, 2])\n"
        "    inputs.cover('any')\n"
        "    assert (n, m) != (3, 2)\n",
    )

    assert outcome.verdict is ProofVerdict.REFUTED
    assert outcome.counterexample == {"n": 2, "m": 1}  # indices of the options
