"""What a recorded trace does not say leaves a precondition undecided, and never passes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cotejar.parity.compare import Comparison, Plan, compare_traces
from cotejar.parity.gates import default_gates
from cotejar.parity.report import ParityReport
from cotejar.report.parity import parity_lines
from cotejar.trace.forward_trace import UNKNOWN, Scope
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.trace.forward_trace import ForwardTrace


def of_every_site(trace: ForwardTrace, **changes: Any) -> ForwardTrace:
    return replace(
        trace, sites={name: replace(r, **changes) for name, r in trace.sites.items()}
    )


def without_scope(trace: ForwardTrace) -> ForwardTrace:
    return replace(
        trace,
        sites={
            name: replace(r, stats={Scope.UNKNOWN: r.stats[Scope.ALL]})
            for name, r in trace.sites.items()
        },
    )


SILENT: dict[str, tuple[Callable[[ForwardTrace], ForwardTrace], str]] = {
    "token-ids": (
        lambda t: replace(t, token_ids=()),
        "the candidate does not say its token ids",
    ),
    "positions": (
        lambda t: replace(t, positions=()),
        "the candidate does not say its positions",
    ),
    "config": (
        lambda t: replace(t, config={}),
        "3 of 3 keys are on one side alone; the candidate does not say num_layers",
    ),
    "weights-fingerprint": (
        lambda t: replace(t, model=replace(t.model, fingerprint="")),
        "the candidate does not say which weights it ran",
    ),
    "capture-points": (
        lambda t: of_every_site(t, capture_point=UNKNOWN),
        "the candidate does not say where it reads embed, one of {n} such sites of {n}",
    ),
    "shapes": (
        lambda t: of_every_site(t, shape=(0, 0)),
        "the candidate does not say the shape of embed, one of {n} such sites of {n}",
    ),
    "sample-count": (
        without_scope,
        "the candidate does not say which tokens it measured at embed, one of {n} such sites "
        "of {n}; 18 values (all) against 18 (unknown)",
    ),
    "ddof": (
        lambda t: replace(t, ddof=None),
        "the candidate does not say the ddof of its standard deviations",
    ),
}


def found(comparison: Comparison, name: str) -> Any:
    return next(p for p in comparison.preconditions if p.id == name)


@pytest.mark.parametrize("name", SILENT)
def test_what_one_side_does_not_say_is_undecided(make_trace: TraceMaker, name: str) -> None:
    silence, message = SILENT[name]
    trace = make_trace()

    comparison = compare_traces(trace, silence(trace))

    precondition = found(comparison, name)
    assert precondition.is_undecided
    assert not precondition.holds
    assert precondition.message == message.format(n=len(trace.sites))
    assert comparison.verdict is Verdict.INCOMPARABLE
    assert [p.id for p in comparison.broken] == [name]


@pytest.mark.parametrize("name", SILENT)
def test_two_that_do_not_say_are_not_the_same(make_trace: TraceMaker, name: str) -> None:
    silent = SILENT[name][0](make_trace())

    comparison = compare_traces(silent, silent)

    assert comparison.verdict is Verdict.INCOMPARABLE
    assert not found(comparison, name).holds


@pytest.mark.parametrize("name", ["config", "capture-points", "ddof"])
def test_what_can_be_waived_is_waived_by_name(make_trace: TraceMaker, name: str) -> None:
    trace = make_trace()
    silent = SILENT[name][0](trace)

    comparison = compare_traces(trace, silent, Plan(waived=frozenset({name})))

    assert comparison.verdict is Verdict.PASS
    assert found(comparison, name).is_undecided


def test_a_difference_that_is_known_is_broken_and_not_undecided(make_trace: TraceMaker) -> None:
    trace = make_trace()
    silent = of_every_site(trace, capture_point=UNKNOWN)
    other = make_trace.with_site(silent, "embed", capture_point="elsewhere")

    precondition = found(compare_traces(trace, other), "capture-points")

    assert not precondition.is_undecided
    assert precondition.num_broken == 1


def test_unknown_arithmetic_is_not_the_same_arithmetic(make_trace: TraceMaker) -> None:
    trace = make_trace()
    assert [g.metric for g in default_gates(trace, trace)] == ["max_abs"]

    for silent in (
        replace(trace, host={}),
        replace(trace, engine=replace(trace.engine, build=UNKNOWN)),
        replace(trace, engine=replace(trace.engine, device=UNKNOWN)),
    ):
        assert "max_abs" not in {g.metric for g in default_gates(silent, silent)}
    nobody = replace(trace, engine=replace(trace.engine, numerics=UNKNOWN))
    assert default_gates(nobody, nobody) == ()


def test_unknown_weights_have_no_gates(make_trace: TraceMaker) -> None:
    silent = SILENT["weights-fingerprint"][0](make_trace())

    assert default_gates(silent, silent) == ()


def test_the_report_says_undecided(make_trace: TraceMaker) -> None:
    trace = make_trace()
    comparison = compare_traces(trace, replace(trace, positions=(), ddof=None))

    lines = list(parity_lines(ParityReport(comparisons=(comparison,)), detail="none"))

    assert "  UNDECIDED  positions: the candidate does not say its positions" in lines
    assert lines[-1] == "INCOMPARABLE  undecided: positions, ddof; nothing was measured"


def test_the_report_tells_broken_from_undecided(make_trace: TraceMaker) -> None:
    trace = make_trace()
    comparison = compare_traces(trace, replace(trace, positions=(0, 1, 3), ddof=None))

    lines = list(parity_lines(ParityReport(comparisons=(comparison,)), detail="none"))

    assert lines[-1] == (
        "INCOMPARABLE  broken: positions; undecided: ddof; nothing was measured"
    )
