"""The strategies in which CPython runs the harness."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import pytest

from cotejar.contracts.prove.concrete import prove_by_enumeration, sample
from cotejar.contracts.prove.inputs import RecordedInputs
from cotejar.contracts.prove.outcome import ProofVerdict
from cotejar.contracts.prove.replay import replay, run_harness, shrink

if TYPE_CHECKING:
    from cotejar.contracts.prove.inputs import Inputs


def later() -> float:
    return time.monotonic() + 30


def bytes_add_up(inputs: Inputs) -> None:
    a, b = inputs.integer("a", 0, 255), inputs.integer("b", 0, 255)
    inputs.cover("a carry", a + b > 255)
    assert (a + b) & 255 == (a + b) % 256


def test_a_small_domain_is_proved_by_running_all_of_it() -> None:
    outcome = prove_by_enumeration(bytes_add_up, 1, later())

    assert outcome.is_proved
    assert outcome.facts == {"runs": 65_536, "covers": ["a carry"]}


def test_one_failing_value_is_found() -> None:
    def claim(inputs: Inputs) -> None:
        n = inputs.integer("n", 0, 10_000)
        inputs.cover("any")
        assert n != 9_999

    outcome = prove_by_enumeration(claim, 1, later())

    assert outcome.verdict is ProofVerdict.REFUTED
    assert outcome.counterexample == {"n": 9_999}


def test_a_domain_without_end_is_unknown() -> None:
    def claim(inputs: Inputs) -> None:
        inputs.double("x")

    outcome = prove_by_enumeration(claim, 1, later())

    assert (outcome.verdict, outcome.why) == (
        ProofVerdict.UNKNOWN,
        "not modelled: 'x' is any float, too many to enumerate",
    )


def test_a_domain_that_no_value_satisfies_is_unknown() -> None:
    def claim(inputs: Inputs) -> None:
        inputs.assume(inputs.integer("n", 0, 3) > 3)
        inputs.cover("any")

    outcome = prove_by_enumeration(claim, 1, later())

    assert (outcome.verdict, outcome.facts["runs"]) == (ProofVerdict.UNKNOWN, 4)


def test_samples_never_prove() -> None:
    def claim(inputs: Inputs) -> None:
        inputs.cover("any")
        assert inputs.double("x") is not None

    outcome = sample(claim, 1, later())

    assert outcome.verdict is ProofVerdict.UNKNOWN
    assert outcome.why.startswith("no counterexample in ")
    assert outcome.why.endswith(" samples, which proves nothing")


def test_samples_refute() -> None:
    def claim(inputs: Inputs) -> None:
        x = inputs.double("x")
        assert not math.isnan(x), "a NaN"

    outcome = sample(claim, 1, later())

    assert outcome.verdict is ProofVerdict.REFUTED
    assert outcome.why.startswith("AssertionError: a NaN")
    assert math.isnan(outcome.counterexample["x"])


def test_shrinking_leaves_what_the_failure_needs() -> None:
    def claim(inputs: Inputs) -> None:
        xs = inputs.doubles("xs", 100)
        assert not (xs[7] > 4 and xs[70] != xs[70])

    drawn = {f"xs[{i}]": 5.5 for i in range(100)} | {"xs[70]": math.nan}

    small = shrink(claim, drawn, 100)

    assert list(small) == ["xs[7]", "xs[70]"]
    assert run_harness(claim, RecordedInputs(100, small)).refutes


def test_a_replay_outside_the_assumptions_is_no_failure_of_the_code() -> None:
    def claim(inputs: Inputs) -> None:
        inputs.assume(inputs.integer("n") == 0)

    with pytest.raises(ValueError, match="an assumption is false"):
        replay(claim, {"n": 3}, bound=1)
