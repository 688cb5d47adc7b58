"""For each metric the smallest defect: one element of one token at one site."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotejar.parity.compare import Plan, compare_traces
from cotejar.parity.gates import LOGITS_METRICS, METRICS, SITE_METRICS, Gate
from cotejar.parity.preconditions import CHECKS
from cotejar.trace.forward_trace import ForwardTrace, Scope
from cotejar.trace.stats import ActivationStats
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.parity.compare import Comparison

    from .conftest import TraceMaker

SITES = ("embed", "layer.0.attn_norm", "layer.1.k_rope", "layer.1.output", "logits")
PLACES = [(m, s) for m in SITE_METRICS for s in SITES] + [(m, "logits") for m in LOGITS_METRICS]


def compare(reference: ForwardTrace, candidate: ForwardTrace, *gates: Gate) -> Comparison:
    return compare_traces(reference, candidate, Plan(gates=gates))


def gate(metric: str, limit: float, sites: str = "all") -> Gate:
    return Gate(metric=metric, sites=sites, limit=limit, origin="the test")


def failing(comparison: Comparison) -> list[tuple[str, str]]:
    return [(s.site, s.scope.value) for s in comparison.sites if s.verdict is Verdict.FAIL]


# --- what each metric must be, in sums of Python floats ------------------------------


def squares(values: Sequence[float]) -> float:
    return math.fsum(v * v for v in values)


def expected_value(metric: str, a: np.ndarray, b: np.ndarray) -> float:
    rows = list(zip(a.tolist(), b.tolist(), strict=True))
    errors = [[y - x for x, y in zip(p, q, strict=True)] for p, q in rows]
    sizes = [squares(p) for p, _ in rows]
    ratio = deviation(b.ravel().tolist()) / deviation(a.ravel().tolist())
    rel_l2 = [math.sqrt(squares(e) / s) for e, s in zip(errors, sizes, strict=True)]
    return {
        "rel_l2_max": max(rel_l2),
        "rel_l2_median": statistics.median(rel_l2),
        "max_abs": max(abs(v) for e in errors for v in e),
        "nmse": math.fsum(map(squares, errors)) / math.fsum(sizes),
        "cosine_distance": 1 - min(cosine(p, q) for p, q in rows),
        "std_ratio": max(ratio, 1 / ratio),
        "kl_max": max(divergence(p, q) for p, q in rows),
        "top1_flip_margin": max(lead(p) for p, q in rows if not shared(p, q, 1)),
        "top1_disagreement": 1 - math.fsum(shared(p, q, 1) for p, q in rows) / len(rows),
        "top5_disagreement": 1 - math.fsum(shared(p, q, 5) for p, q in rows) / len(rows),
    }[metric]


def cosine(p: Sequence[float], q: Sequence[float]) -> float:
    dot = math.fsum(x * y for x, y in zip(p, q, strict=True))
    return dot / math.sqrt(squares(p) * squares(q))


def deviation(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(squares([v - mean for v in values]) / (len(values) - 1))


def divergence(p: Sequence[float], q: Sequence[float]) -> float:
    total_p, total_q = (math.fsum(math.exp(v) for v in row) for row in (p, q))
    return math.fsum(
        math.exp(x) / total_p * (x - y - math.log(total_p / total_q))
        for x, y in zip(p, q, strict=True)
    )


def lead(row: Sequence[float]) -> float:
    first, second = sorted(row)[:-3:-1]
    return first - second


def shared(p: Sequence[float], q: Sequence[float], count: int) -> float:
    """The share of the largest of `p` among the largest of `q`; of equals the first."""
    top = [set(sorted(range(len(r)), key=lambda i: (-r[i], i))[:count]) for r in (p, q)]
    return len(top[0] & top[1]) / count


def planted(make: TraceMaker, site: str, *tokens: int) -> tuple[ForwardTrace, np.ndarray]:
    """A trace whose smallest element of a token has become its largest; and the array."""
    array = make.values()[site].copy()
    for token in tokens:
        array[token, array[token].argmin()] = array[token].max() + 1
    return make(make.values() | {site: array}), array


def fewest(metric: str, tokens: tuple[int, int]) -> tuple[int, ...]:
    """How many of three tokens must change for a metric to see it: of a median, two."""
    return tokens if metric == "rel_l2_median" else tokens[1:]


@pytest.mark.parametrize(("metric", "site"), PLACES)
def test_one_element_just_beyond_the_limit_fails_at_its_site_alone(
    make_trace: TraceMaker, metric: str, site: str
) -> None:
    candidate, array = planted(make_trace, site, *fewest(metric, (0, 1)))
    value = expected_value(metric, make_trace.values()[site], array)

    # Rounding moves a metric by some 1e-15 of itself; 1e-9 is far outside of that.
    beyond = compare(make_trace(), candidate, gate(metric, value * (1 - 1e-9)))
    within = compare(make_trace(), candidate, gate(metric, value * (1 + 1e-9)))

    assert failing(beyond) == [(site, "all")]  # token 1 of 3 is not the last
    assert beyond.verdict is Verdict.FAIL
    assert beyond.first_divergence is not None
    assert (beyond.first_divergence.site, beyond.first_divergence.scope) == (site, Scope.ALL)
    assert within.verdict is Verdict.PASS
    assert within.first_divergence is None
    assert not within.bit_identical


@pytest.mark.parametrize(("metric", "site"), [p for p in PLACES if p[0] != "rel_l2_median"])
def test_the_last_token_is_seen_in_both_scopes(
    make_trace: TraceMaker, metric: str, site: str
) -> None:
    candidate, array = planted(make_trace, site, 2)
    reference = make_trace.values()[site]
    value = expected_value(metric, reference, array)
    last = expected_value(metric, reference[-1:], array[-1:])

    comparison = compare(make_trace(), candidate, gate(metric, min(value, last) * (1 - 1e-9)))

    assert failing(comparison) == [(site, "all"), (site, "last")]


@pytest.mark.parametrize("site", SITES)
def test_of_the_last_token_alone_there_is_no_median(make_trace: TraceMaker, site: str) -> None:
    """It would be a worst token by another name, against a limit for a median of many."""
    candidate, _ = planted(make_trace, site, 1, 2)
    median = gate("rel_l2_median", 0.0)

    both = compare(make_trace(), candidate, median)
    last = compare_traces(make_trace(), candidate, Plan(gates=(median,), scopes=(Scope.LAST,)))

    assert failing(both) == [(site, "all")]
    assert {s.scope for s in both.sites if s.judged} == {Scope.ALL}
    assert (last.verdict, last.unjudged_gates) == (Verdict.INCOMPARABLE, (median,))


@pytest.mark.parametrize("metric", METRICS)
def test_a_gate_says_nothing_of_other_sites(make_trace: TraceMaker, metric: str) -> None:
    candidate, _ = planted(make_trace, "layer.1.ffn_up", 1)

    elsewhere = compare(make_trace(), candidate, gate(metric, 1.0, "layer.0.ffn_up"))

    assert elsewhere.verdict is Verdict.PASS
    judged = {s.site for s in elsewhere.sites if s.verdict is not None}
    assert judged == {"logits" if metric in LOGITS_METRICS else "layer.0.ffn_up"}


def test_the_first_divergence_is_the_first_in_forward_order(make_trace: TraceMaker) -> None:
    values = make_trace.values()
    for site in ("logits", "layer.1.attn_norm", "layer.0.output"):
        values[site] = values[site] + 1e-3

    comparison = compare(make_trace(), make_trace(values), gate("max_abs", 1e-6))

    assert comparison.first_divergence is not None
    assert comparison.first_divergence.site == "layer.0.output"


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("sides", ["reference", "candidate", "both"])
def test_nan_never_passes(make_trace: TraceMaker, metric: str, sides: str) -> None:
    bad = make_trace.with_element("logits", 1, 4, math.nan)
    reference = bad if sides in {"reference", "both"} else make_trace()
    candidate = bad if sides in {"candidate", "both"} else make_trace()
    # Of disagreements 1 is all there can be, which would be no limit.
    limit = 0.3 if metric in {"top1_disagreement", "top5_disagreement"} else 1e300
    plan = Plan(gates=(gate(metric, limit, "logits"),), waived=frozenset({"finite"}))

    comparison = compare_traces(reference, candidate, plan)

    assert comparison.verdict is Verdict.FAIL
    assert failing(comparison) == [("logits", "all")]


@pytest.mark.parametrize("site", SITES)
def test_one_flipped_last_bit_is_not_bit_identical(make_trace: TraceMaker, site: str) -> None:
    value = make_trace.values()[site][1, 3]
    candidate = make_trace.with_element(site, 1, 3, math.nextafter(value, math.inf))

    same = compare(make_trace(), make_trace(), gate("max_abs", 0.0))
    other = compare(make_trace(), candidate, gate("rel_l2_max", 1e-12))
    exact = compare(make_trace(), candidate, gate("max_abs", 0.0))

    assert (same.verdict, same.bit_identical) == (Verdict.PASS, True)
    assert (other.verdict, other.bit_identical) == (Verdict.PASS, False)
    assert failing(exact) == [(site, "all")]


def test_statistics_alone_are_never_called_bit_identical(make_trace: TraceMaker) -> None:
    statistics = make_trace(array_slots=frozenset({"embed"}))

    comparison = compare(statistics, statistics, gate("std_ratio", 2.0))

    assert (comparison.verdict, comparison.bit_identical) == (Verdict.PASS, False)


SWIGLU = "layer.0.ffn_swiglu_inner"
STDS = st.floats(min_value=1e-150, max_value=1e150)


def stats_trace(make: TraceMaker, std: float) -> ForwardTrace:
    stats = ActivationStats(
        count=2,
        nan_count=0,
        inf_count=0,
        zero_count=0,
        min=0.0,
        max=0.0,
        mean=0.0,
        sum_squared_deviations=std * std,
    )
    trace = make(array_slots=frozenset(), scopes=(Scope.ALL,))
    record = replace(trace.sites[SWIGLU], stats={Scope.ALL: stats})
    names = ("embed", SWIGLU, "final_norm", "logits")
    sites = {name: trace.sites[name] for name in names} | {SWIGLU: record}
    return replace(trace, sites=sites, config={"num_layers": 1})


def ratio_plan(limit: float) -> Plan:
    return Plan(gates=(gate("std_ratio", limit, SWIGLU),), required_slots=("ffn_swiglu_inner",))


def judged_value(comparison: Comparison) -> float:
    (judged,) = [j for s in comparison.sites for j in s.judged]
    return judged.value


@given(STDS, STDS, st.floats(1, 1e300))
def test_a_ratio_is_judged_the_same_whichever_side_is_the_reference(
    make_trace: TraceMaker, a: float, b: float, limit: float
) -> None:
    sides = stats_trace(make_trace, a), stats_trace(make_trace, b)
    plan = ratio_plan(limit)

    forth, back = compare_traces(*sides, plan), compare_traces(*sides[::-1], plan)

    assert judged_value(forth) == judged_value(back) >= 1
    # Also where the limit is the very value, which one rounding more would miss.
    exactly = ratio_plan(judged_value(forth))
    assert compare_traces(*sides, exactly).verdict is Verdict.PASS
    assert compare_traces(*sides[::-1], exactly).verdict is Verdict.PASS


def test_a_constant_site_has_a_ratio_only_to_another(make_trace: TraceMaker) -> None:
    flat, other = stats_trace(make_trace, 0.0), stats_trace(make_trace, 1.0)
    plan = ratio_plan(1e300)

    assert compare_traces(flat, flat, plan).verdict is Verdict.PASS
    assert compare_traces(flat, other, plan).verdict is Verdict.FAIL
    assert compare_traces(other, flat, plan).verdict is Verdict.FAIL


def test_a_site_that_no_gate_judges_is_shown_and_not_counted(make_trace: TraceMaker) -> None:
    comparison = compare(make_trace(), make_trace(), gate("max_abs", 0.0, "logits"))

    assert len(comparison.sites) == 2 * 37
    assert [s.site for s in comparison.sites if s.verdict is not None] == ["logits"] * 2


@pytest.mark.parametrize("sites", ["layer.7.ffn_up", "ffn_upp"])
def test_a_gate_that_is_judged_nowhere_passes_nothing(
    make_trace: TraceMaker, sites: str
) -> None:
    gates = (gate("max_abs", 0.0), gate("std_ratio", 2.0, sites))

    comparison = compare(make_trace(), make_trace(), *gates)

    assert comparison.unjudged_gates == gates[1:]
    assert comparison.verdict is Verdict.INCOMPARABLE


def test_what_fails_elsewhere_fails_all_the_same(make_trace: TraceMaker) -> None:
    candidate, _ = planted(make_trace, "embed", 0)
    gates = (gate("max_abs", 0.0), gate("std_ratio", 2.0, "layer.7.ffn_up"))

    assert compare(make_trace(), candidate, *gates).verdict is Verdict.FAIL


def test_without_any_gate_there_is_no_verdict(make_trace: TraceMaker) -> None:
    unknown = replace(make_trace(), engine=replace(make_trace().engine, numerics="f16"))

    assert compare_traces(make_trace(), unknown).verdict is Verdict.INCOMPARABLE


def test_the_default_is_no_difference_at_all_for_one_program(make_trace: TraceMaker) -> None:
    value = make_trace.values()["embed"][0, 0]
    candidate = make_trace.with_element("embed", 0, 0, math.nextafter(value, math.inf))

    assert compare_traces(make_trace(), make_trace()).verdict is Verdict.PASS
    assert compare_traces(make_trace(), candidate).verdict is Verdict.FAIL


# --- what is waived is not measured, and so neither passes nor fails -----------------


def test_elements_that_were_not_captured_are_not_called_different(
    make_trace: TraceMaker,
) -> None:
    partly = make_trace(array_slots=frozenset({"embed", "logits"}))
    plan = Plan(gates=(gate("max_abs", 0.0),), waived=frozenset({"arrays"}))

    comparison = compare_traces(make_trace(), partly, plan)

    judged = {s.site for s in comparison.sites if s.verdict is not None}
    assert (comparison.verdict, judged) == (Verdict.PASS, {"embed", "logits"})


def test_nothing_captured_and_all_waived_is_incomparable(make_trace: TraceMaker) -> None:
    statistics = make_trace(array_slots=frozenset())
    plan = Plan(gates=(gate("max_abs", 0.0),), waived=frozenset(CHECKS))

    comparison = compare_traces(statistics, statistics, plan)

    assert comparison.verdict is Verdict.INCOMPARABLE
    assert comparison.unjudged_gates == plan.gates


def test_shapes_that_differ_are_never_stretched_to_fit(make_trace: TraceMaker) -> None:
    """numpy would spread one row over three without a word."""
    values = {name: np.ones_like(array) for name, array in make_trace.values().items()}
    one_row = {name: array[:1] for name, array in values.items()}
    plan = Plan(gates=(gate("max_abs", 0.0),), waived=frozenset(CHECKS))

    comparison = compare_traces(make_trace(values), make_trace(one_row), plan)

    judged = {s.scope for s in comparison.sites if s.verdict is not None}
    assert judged == {Scope.LAST}
    assert all(s.distance is None for s in comparison.sites if s.scope is Scope.ALL)


def test_a_comparison_holds_no_arrays(make_trace: TraceMaker) -> None:
    comparison = compare(make_trace(), make_trace(), gate("max_abs", 0.0))

    assert (comparison.reference.arrays, comparison.candidate.arrays) == ({}, {})


# --- sites of one side alone ----------------------------------------------------------


def fused_trace(make: TraceMaker, *not_observed: str) -> ForwardTrace:
    """Of an engine that does not show layer 0's attn_context."""
    sites = {n: r for n, r in make().sites.items() if n != "layer.0.attn_context"}
    return replace(make(), sites=sites, not_observed=frozenset(not_observed))


def test_what_one_side_cannot_observe_is_listed(make_trace: TraceMaker) -> None:
    fused = fused_trace(make_trace, "attn_context")

    forth = compare(fused, make_trace(), gate("max_abs", 0.0))
    back = compare(make_trace(), fused, gate("max_abs", 0.0))

    assert (forth.verdict, back.verdict) == (Verdict.PASS, Verdict.PASS)
    assert (forth.only_in_reference, forth.only_in_candidate) == ((), ("layer.0.attn_context",))
    assert (back.only_in_reference, back.only_in_candidate) == (("layer.0.attn_context",), ())
    assert {s.site for s in forth.sites} == set(fused.sites)


def test_a_site_without_a_partner_withholds_bit_identical(make_trace: TraceMaker) -> None:
    """Nobody has seen whether it has the same bits."""
    fused = fused_trace(make_trace, "attn_context")

    assert not compare(fused, make_trace(), gate("max_abs", 0.0)).bit_identical
    assert not compare(make_trace(), fused, gate("max_abs", 0.0)).bit_identical
    assert compare(fused, fused, gate("max_abs", 0.0)).bit_identical


# --- what is counted ------------------------------------------------------------------


def test_a_number_counts_once_and_only_where_a_gate_judges_it(make_trace: TraceMaker) -> None:
    """Three tokens of 9 logits, the last of them in both scopes; two gates."""
    gates = gate("max_abs", 0.0, "logits"), gate("kl_max", 0.0)
    plan = Plan(gates=gates, scopes=(Scope.LAST,))

    assert compare(make_trace(), make_trace(), *gates).num_compared == 27
    assert compare_traces(make_trace(), make_trace(), plan).num_compared == 9


# --- metrics of choice ----------------------------------------------------------------


def test_a_logit_that_is_no_number_is_no_flip_at_a_tie(make_trace: TraceMaker) -> None:
    """With all logits equal the reference leads by 0, which would pass a limit of 0."""
    tie = make_trace.values() | {"logits": np.zeros((3, 9))}
    bad = {name: array.copy() for name, array in tie.items()}
    bad["logits"][1, 4] = math.nan
    plan = Plan(gates=(gate("top1_flip_margin", 0.0),), waived=frozenset({"finite"}))

    for sides in ((tie, bad), (bad, tie), (bad, bad)):
        comparison = compare_traces(*map(make_trace, sides), plan)
        assert failing(comparison) == [("logits", "all")]
    assert compare_traces(make_trace(tie), make_trace(tie), plan).verdict is Verdict.PASS
