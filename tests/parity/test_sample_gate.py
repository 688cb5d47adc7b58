"""The sample-size gate, by example; `pv prove` says the rest of every input there is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from cotejar.parity import compare as compare_module
from cotejar.parity import preconditions, sample_gate
from cotejar.parity.compare import Plan, compare_traces
from cotejar.parity.sample_gate import judge_samples, samples_agree, std_spread
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.trace.forward_trace import ForwardTrace


def test_the_famous_hunt_is_incomparable() -> None:
    verdict = judge_samples([25_088], [3_584], [1.2216], [0.0670], [2.0])

    assert verdict is Verdict.INCOMPARABLE


def test_the_same_samples_are_judged_by_their_ratio() -> None:
    counts, stds = [3_584, 3_584], [1.0, 1.2154]

    assert judge_samples(counts, counts, stds, [1.0, 1.0], [2.0, 2.0]) is Verdict.PASS
    assert judge_samples(counts, counts, stds, [1.0, 1.0], [2.0, 1.2]) is Verdict.FAIL


def test_counts_alone_can_pass() -> None:
    assert judge_samples([7], [7], [], [], []) is Verdict.PASS


@pytest.mark.parametrize(("n", "m"), [(0, 0), (-1, -1), (1, 2), (2**64, 0)])
def test_samples_that_do_not_agree(n: int, m: int) -> None:
    assert not samples_agree(n, m)


@pytest.mark.parametrize(
    ("a", "b", "spread"),
    [
        (1.0, 4.0, 4.0),
        (4.0, 1.0, 4.0),
        (0.0, -0.0, 1.0),
        (5e-324, 5e-324, 1.0),
        (0.0, 5e-324, math.inf),
        (1.0, math.inf, math.inf),
        (5e-324, 1.7e308, math.inf),
        # One order of these two passes a band of two quotients, [0.8, 1.25]; the other fails.
        (1.1406249999999998, 1.4257812499999998, 1.25),
        (1.4257812499999998, 1.1406249999999998, 1.25),
    ],
)
def test_a_spread_is_larger_over_smaller(a: float, b: float, spread: float) -> None:
    assert std_spread(a, b) == spread


@pytest.mark.parametrize(
    ("a", "b"), [(math.nan, 1.0), (1.0, math.nan), (-1.0, 1.0), (math.inf, math.inf)]
)
def test_a_spread_that_means_nothing_is_nan(a: float, b: float) -> None:
    assert math.isnan(std_spread(a, b))


def test_production_calls_what_is_proved() -> None:
    assert preconditions.samples_agree is sample_gate.samples_agree
    assert compare_module.std_spread is sample_gate.std_spread
    assert compare_module.judge_samples is sample_gate.judge_samples


def test_nothing_passes_without_the_gate(
    make_trace: Callable[..., ForwardTrace], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def refuse(counts: list[int], *others: list[float]) -> Verdict:
        asked.append(len(counts))
        return Verdict.INCOMPARABLE

    monkeypatch.setattr(compare_module, "judge_samples", refuse)
    trace = make_trace()

    assert compare_traces(trace, trace).verdict is Verdict.INCOMPARABLE
    assert asked == [37, 37]  # every site that both have, in two scopes
    waived = Plan(waived=frozenset({"sample-count"}))
    assert compare_traces(trace, trace, waived).verdict is Verdict.PASS
