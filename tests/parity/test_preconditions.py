"""For each precondition the smallest defect, and what is said of it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.parity.compare import Plan, compare_traces
from cotejar.parity.gates import Gate
from cotejar.parity.preconditions import CHECKS, Question, find_naive_ratio
from cotejar.trace.forward_trace import (
    BOTH_SCOPES,
    EngineInfo,
    ForwardTrace,
    ModelInfo,
    Scope,
    SiteRecord,
)
from cotejar.trace.site import CAPTURE_POINTS, CONTRACT_SLOTS, Site, parse_site
from cotejar.trace.stats import DDOF, ActivationStats
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.parity.compare import Comparison
    from cotejar.parity.preconditions import Precondition

    from .conftest import TraceMaker

    Change = Callable[[TraceMaker, ForwardTrace], ForwardTrace]

SITE = "layer.1.ffn_up"
EXACT = Gate(metric="max_abs", sites="all", limit=0.0, origin="the test")


def compare(
    reference: ForwardTrace, candidate: ForwardTrace, *waived: str, **plan: object
) -> Comparison:
    settings = {"gates": (EXACT,), "waived": frozenset(waived)} | plan
    return compare_traces(reference, candidate, Plan(**settings))


def found(comparison: Comparison, name: str) -> Precondition:
    (precondition,) = [p for p in comparison.preconditions if p.id == name]
    return precondition


def without(trace: ForwardTrace, *names: str) -> ForwardTrace:
    return replace(trace, sites={n: r for n, r in trace.sites.items() if n not in names})


def uncaptured(trace: ForwardTrace, *names: str) -> ForwardTrace:
    return replace(trace, arrays={n: a for n, a in trace.arrays.items() if n not in names})


def with_stats(trace: ForwardTrace, site: str, scope: Scope, **changes: int) -> ForwardTrace:
    record = trace.sites[site]
    stats = dict(record.stats) | {scope: replace(record.stats[scope], **changes)}
    return replace(trace, sites=dict(trace.sites) | {site: replace(record, stats=stats)})


def change_site(trace: ForwardTrace, site: str, **changes: object) -> ForwardTrace:
    record = replace(trace.sites[site], **changes)
    return replace(trace, sites=dict(trace.sites) | {site: record})


def narrower(make: TraceMaker, _: ForwardTrace) -> ForwardTrace:
    values = make.values()
    return make(values | {SITE: values[SITE][:, :-1]})


DEFECTS: dict[str, tuple[Change, int, int, str]] = {
    "token-ids": (
        lambda _, t: replace(t, token_ids=(10, 11, 13)),
        3,
        1,
        "1 of 3 token ids differ, the first at index 2: [12] against [13]",
    ),
    "positions": (
        lambda _, t: replace(t, positions=(0, 1, 3)),
        3,
        1,
        "1 of 3 positions differ, the first at index 2: [2] against [3]",
    ),
    "config": (
        lambda _, t: replace(t, config=dict(t.config) | {"rms_eps": 2.0**-10 * (1 + 2**-22)}),
        3,
        1,
        "1 of 3 keys differ: rms_eps; rms_eps is 0.0009765625 against 0.0009765627328306437",
    ),
    "weights-fingerprint": (
        lambda _, t: replace(t, model=replace(t.model, fingerprint="sha256:12ac")),
        1,
        1,
        "other weights: sha256:12ab against sha256:12ac; `apr diff` names the tensors",
    ),
    "sites": (
        lambda _, t: without(t, SITE),
        23,
        1,
        "of 23 sites the candidate lacks 1, first layer.1.ffn_up",
    ),
    "capture-points": (
        lambda _, t: change_site(t, SITE, capture_point="up projection, before bias"),
        37,
        1,
        "1 of 37 sites are read at different points; layer.1.ffn_up: "
        "'up projection, after bias' against 'up projection, before bias'",
    ),
    "shapes": (
        narrower,
        37,
        1,
        "1 of 37 sites differ in width; layer.1.ffn_up: 6 against 5",
    ),
    "sample-count": (
        lambda _, t: with_stats(t, SITE, Scope.LAST, count=7),
        37,
        1,
        "the samples differ at 1 of 37 sites; layer.1.ffn_up: 6 values against 7 (last)",
    ),
    "ddof": (lambda _, t: replace(t, ddof=0), 1, 1, "ddof 1 against 0"),
    "finite": (
        lambda _, t: with_stats(t, "logits", Scope.ALL, nan_count=1),
        74,
        1,
        "1 of 74 sites do not; the first is candidate logits: 1 values are NaN or infinite",
    ),
    "arrays": (
        lambda _, t: uncaptured(t, "embed"),
        74,
        1,
        "1 of 74 arrays that gates judge were not captured, the first is candidate embed; "
        "statistics alone cannot show a fault (record with --capture all)",
    ),
}

HOLDING = {
    "token-ids": (3, "the same 3 token ids"),
    "positions": (3, "the same 3 positions"),
    "config": (3, "3 keys agree"),
    "weights-fingerprint": (1, "the same weights, sha256:12ab"),
    "sites": (23, "all 23 required sites on both sides, and no other on one alone"),
    "capture-points": (37, "37 sites are read at the same point"),
    "shapes": (37, "37 sites have the same width"),
    "sample-count": (37, "equal sample counts at 37 sites"),
    "ddof": (1, "both divide by n - 1"),
    "finite": (74, "74 sites hold finite numbers only"),
    "arrays": (74, "both sides hold the elements of the 37 sites that gates judge"),
}


def test_every_precondition_has_a_defect_here() -> None:
    assert list(DEFECTS) == list(HOLDING) == list(CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_a_fair_pair_holds(make_trace: TraceMaker, name: str) -> None:
    comparison = compare(make_trace(), make_trace())

    precondition = found(comparison, name)
    num_checked, message = HOLDING[name]
    assert comparison.verdict is Verdict.PASS
    assert precondition.holds
    assert (precondition.num_checked, precondition.num_broken) == (num_checked, 0)
    assert precondition.message == message


@pytest.mark.parametrize("name", CHECKS)
def test_the_smallest_defect_makes_a_pair_incomparable(
    make_trace: TraceMaker, name: str
) -> None:
    change, num_checked, num_broken, message = DEFECTS[name]

    comparison = compare(make_trace(), change(make_trace, make_trace()))

    precondition = found(comparison, name)
    assert comparison.verdict is Verdict.INCOMPARABLE
    assert name in [p.id for p in comparison.broken]
    assert (precondition.num_checked, precondition.num_broken) == (num_checked, num_broken)
    assert precondition.message == message
    assert comparison.sites == ()  # nothing was judged


@pytest.mark.parametrize("name", CHECKS)
def test_the_defect_is_as_broken_in_the_reference(make_trace: TraceMaker, name: str) -> None:
    comparison = compare(DEFECTS[name][0](make_trace, make_trace()), make_trace())

    assert comparison.verdict is Verdict.INCOMPARABLE
    assert name in [p.id for p in comparison.broken]


@pytest.mark.parametrize("name", CHECKS)
def test_a_waived_precondition_is_reported_and_does_not_decide(
    make_trace: TraceMaker, name: str
) -> None:
    candidate = DEFECTS[name][0](make_trace, make_trace())
    broken = [p.id for p in compare(make_trace(), candidate).broken]

    comparison = compare(make_trace(), candidate, *broken)

    assert comparison.verdict is Verdict.PASS
    assert (comparison.broken, found(comparison, name).holds) == ([], False)


@pytest.mark.parametrize("name", CHECKS)
def test_waiving_another_precondition_does_not_help(make_trace: TraceMaker, name: str) -> None:
    candidate = DEFECTS[name][0](make_trace, make_trace())
    others = [other for other in CHECKS if other != name]

    comparison = compare(make_trace(), candidate, *others)

    assert comparison.verdict is Verdict.INCOMPARABLE
    assert comparison.sites == ()


@pytest.mark.parametrize("name", sorted({*CHECKS} - {"shapes", "sample-count", "arrays"}))
def test_a_contract_may_leave_a_precondition_out(make_trace: TraceMaker, name: str) -> None:
    candidate = DEFECTS[name][0](make_trace, make_trace())
    others = tuple(other for other in CHECKS if other != name)

    comparison = compare(make_trace(), candidate, preconditions=others)

    assert name not in [p.id for p in comparison.preconditions]
    assert comparison.verdict is Verdict.PASS


@pytest.mark.parametrize("name", ["shapes", "sample-count", "arrays"])
def test_what_nothing_can_be_measured_without_is_always_judged(
    make_trace: TraceMaker, name: str
) -> None:
    candidate = DEFECTS[name][0](make_trace, make_trace())

    comparison = compare(make_trace(), candidate, preconditions=("token-ids",))

    assert name in [p.id for p in comparison.broken]


@pytest.mark.parametrize("kind", ["nan_count", "inf_count"])
@pytest.mark.parametrize("scope", BOTH_SCOPES)
def test_nan_and_infinity_break_a_precondition_in_any_scope(
    make_trace: TraceMaker, scope: Scope, kind: str
) -> None:
    candidate = with_stats(make_trace(), "layer.0.k", scope, **{kind: 2})

    assert found(compare(make_trace(), candidate), "finite").message == (
        "1 of 74 sites do not; the first is candidate layer.0.k: 2 values are NaN or infinite"
    )


@pytest.mark.parametrize("name", CHECKS)
def test_two_empty_traces_are_incomparable(make_trace: TraceMaker, name: str) -> None:
    """Whatever is waived: of nothing there is no verdict."""
    empty = replace(make_trace(), token_ids=(), positions=(), config={}, sites={}, arrays={})

    assert compare(empty, empty).verdict is Verdict.INCOMPARABLE
    assert compare(empty, empty, *CHECKS).verdict is Verdict.INCOMPARABLE
    holds = name in {"weights-fingerprint", "ddof"}
    assert found(compare(empty, empty), name).holds is holds


def test_no_fingerprint_is_no_equal_fingerprint(make_trace: TraceMaker) -> None:
    trace = make_trace()
    unknown = replace(trace, model=replace(trace.model, fingerprint=""))

    precondition = found(compare(unknown, unknown), "weights-fingerprint")

    assert precondition.is_undecided
    assert precondition.message == "neither side says which weights it ran"


def test_one_float32_rounding_of_a_setting_is_the_same_setting(make_trace: TraceMaker) -> None:
    trace = make_trace()
    rounded = dict(trace.config) | {"rms_eps": 2.0**-10 * (1 + 2.0**-24)}

    assert compare(trace, replace(trace, config=rounded)).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ((1.0, 2.0), [1.0, 2.0], True),
        ((1.0, 2.0), (1.0, 2.0, 3.0), False),
        ((1.0, 2.0), (1.0, 2.1), False),
        (10000, 10000.0, True),
        (True, 1.0, True),
        ("1.0", 1.0, False),
        (None, 4096, False),
        (math.nan, math.nan, False),
    ],
)
def test_settings_are_compared_by_value(
    make_trace: TraceMaker, a: object, b: object, *, same: bool
) -> None:
    sides = [replace(make_trace(), config={"num_layers": 2, "key": value}) for value in (a, b)]

    assert found(compare(sides[0], sides[1]), "config").holds is same


def test_a_key_of_one_side_alone_is_undecided(make_trace: TraceMaker) -> None:
    trace = make_trace()
    more = replace(trace, config=dict(trace.config) | {"sliding_window": 4})

    precondition = found(compare(trace, more), "config")

    assert precondition.is_undecided
    assert precondition.message == (
        "1 of 4 keys are on one side alone; the reference does not say sliding_window"
    )


def test_a_longer_prompt_is_measured_to_its_end(make_trace: TraceMaker) -> None:
    comparison = compare(make_trace(), make_trace(make_trace.values(tokens=5)))

    assert found(comparison, "token-ids").message == (
        "2 of 5 token ids differ, the first at index 3: [] against [13]"
    )
    assert found(comparison, "sample-count").message == (
        "the samples differ at 37 of 37 sites; embed: 18 values against 30 (all)"
    )


def test_sites_may_be_missing_on_both_sides(make_trace: TraceMaker) -> None:
    comparison = compare(
        without(make_trace(), "layer.0.qkv", SITE), without(make_trace(), SITE)
    )

    precondition = found(comparison, "sites")
    assert precondition.num_broken == 2
    assert precondition.message == (
        "of 23 sites the reference lacks 2, first layer.0.qkv; the "
        "candidate lacks 1, first layer.1.ffn_up"
    )


def test_only_the_slots_asked_for_are_required(make_trace: TraceMaker) -> None:
    both = without(make_trace(), SITE)

    comparison = compare(both, both, required_slots=("ffn_out",))

    assert comparison.verdict is Verdict.PASS
    assert found(comparison, "sites").num_checked == 2 + 3  # layers; before and after them


@pytest.mark.parametrize("site", ["embed", "final_norm", "logits"])
def test_what_comes_before_and_after_the_layers_is_required(
    make_trace: TraceMaker, site: str
) -> None:
    """A wrong LM head shows in the logits alone."""
    both = without(make_trace(), site)

    precondition = found(compare(both, both), "sites")

    assert (precondition.num_checked, precondition.num_broken) == (23, 1)
    assert precondition.message == (
        f"of 23 sites the reference lacks 1, first {site}; the candidate lacks 1, first {site}"
    )


FINE = "layer.1.attn_context"


@pytest.mark.parametrize("declared", [(), ("attn_residual",)])
def test_a_site_of_one_side_alone_is_missed(
    make_trace: TraceMaker, declared: tuple[str, ...]
) -> None:
    """It ought to be there, though no contract requires it."""
    other = replace(without(make_trace(), FINE), not_observed=frozenset(declared))

    forth, back = compare(make_trace(), other), compare(other, make_trace())

    for side, comparison in (("candidate", forth), ("reference", back)):
        precondition = found(comparison, "sites")
        assert (precondition.num_checked, precondition.num_broken) == (24, 1)
        assert precondition.message == f"of 24 sites the {side} lacks 1, first {FINE}"
        assert comparison.verdict is Verdict.INCOMPARABLE


def test_what_the_other_side_cannot_observe_is_not_missed(make_trace: TraceMaker) -> None:
    fused = replace(without(make_trace(), FINE), not_observed=frozenset({"attn_context"}))

    assert found(compare(make_trace(), fused), "sites").holds
    assert found(compare(fused, make_trace()), "sites").holds


def test_it_is_the_side_that_lacks_a_site_that_must_say_so(make_trace: TraceMaker) -> None:
    declares = replace(make_trace(), not_observed=frozenset({"attn_context"}))
    lacks = without(make_trace(), FINE)

    assert not found(compare(declares, lacks), "sites").holds
    assert not found(compare(lacks, declares), "sites").holds


def test_what_is_required_must_be_observed(make_trace: TraceMaker) -> None:
    """No engine talks itself out of a contract."""
    fused = replace(without(make_trace(), SITE), not_observed=frozenset({"ffn_up"}))

    for sides in ((make_trace(), fused), (fused, fused)):
        assert not found(compare(*sides, required_slots=("ffn_up",)), "sites").holds


def test_without_a_contract_what_cannot_be_observed_is_not_required(
    make_trace: TraceMaker,
) -> None:
    sites = [f"layer.{layer}.ffn_up" for layer in range(2)]
    fused = replace(without(make_trace(), *sites), not_observed=frozenset({"ffn_up"}))

    for sides in ((make_trace(), fused), (fused, make_trace()), (fused, fused)):
        precondition = found(compare(*sides), "sites")
        assert (precondition.num_checked, precondition.holds) == (21, True)
        silent = (replace(side, not_observed=frozenset()) for side in sides)
        assert not found(compare(*silent), "sites").holds


def test_an_engine_that_observes_nothing_meets_nothing(make_trace: TraceMaker) -> None:
    blind = replace(make_trace(), not_observed=frozenset(CONTRACT_SLOTS))

    assert not found(compare(blind, blind), "sites").holds


def test_a_layer_that_is_declared_and_not_recorded_is_missed(make_trace: TraceMaker) -> None:
    deeper = replace(make_trace(), config=dict(make_trace().config) | {"num_layers": 3})

    for sides in ((deeper, deeper), (deeper, make_trace()), (make_trace(), deeper)):
        assert found(compare(*sides), "sites").num_broken == 10


def test_a_trace_can_declare_no_endless_number_of_layers(make_trace: TraceMaker) -> None:
    deep = replace(make_trace(), config={"num_layers": 10**15})

    assert found(compare(deep, deep), "sites").num_checked == 4096 * 10 + 3


def test_statistics_alone_are_enough_for_a_ratio(make_trace: TraceMaker) -> None:
    ratio = Gate(metric="std_ratio", sites="all", limit=2.0, origin="the test")
    statistics = make_trace(array_slots=frozenset())

    comparison = compare(statistics, statistics, gates=(ratio,))

    assert comparison.verdict is Verdict.PASS
    assert found(comparison, "arrays").message == "no gate needs elements"


def test_no_scope_in_common_is_unequal_samples(make_trace: TraceMaker) -> None:
    every, last = make_trace(scopes=(Scope.ALL,)), make_trace(scopes=(Scope.LAST,))

    comparison = compare(every, last)

    assert [p.id for p in comparison.broken] == ["sample-count"]
    assert found(comparison, "sample-count").message == (
        "the samples differ at 37 of 37 sites; embed: 18 values (all) against 6 (last), "
        "and no scope in common"
    )


@pytest.mark.parametrize("site", ["embed", "layer.0.q", "layer.1.attn_residual", "logits"])
def test_samples_are_counted_at_every_site(make_trace: TraceMaker, site: str) -> None:
    """Not at the required slots alone."""
    count = make_trace().sites[site].stats[Scope.ALL].count
    candidate = with_stats(make_trace(), site, Scope.ALL, count=count - 1)

    assert found(compare(make_trace(), candidate), "sample-count").message == (
        f"the samples differ at 1 of 37 sites; {site}: {count} values against {count - 1} (all)"
    )


@pytest.mark.parametrize("scope", BOTH_SCOPES)
@pytest.mark.parametrize("site", ["layer.0.k_rope", "logits"])
def test_a_site_covers_the_scopes_that_the_others_do(
    make_trace: TraceMaker, site: str, scope: Scope
) -> None:
    """Logits of the last token alone would hide those of all the others."""
    stats = make_trace().sites[site].stats
    other = {s: v for s, v in stats.items() if s is not scope}
    partly = change_site(make_trace(), site, stats=other)

    for sides in ((make_trace(), partly), (partly, make_trace()), (partly, partly)):
        comparison = compare(*sides)
        assert comparison.verdict is Verdict.INCOMPARABLE
        assert found(comparison, "sample-count").message == (
            f"the samples differ at 1 of 37 sites; {site}: no scope {scope.value} on both "
            "sides, as elsewhere"
        )


def test_no_values_on_both_sides_are_no_equal_samples(make_trace: TraceMaker) -> None:
    nothing = with_stats(make_trace(), SITE, Scope.ALL, count=0)

    precondition = found(compare(nothing, nothing), "sample-count")

    assert (precondition.holds, precondition.num_broken) == (False, 1)


def test_a_scope_that_one_side_lacks_is_left_out(make_trace: TraceMaker) -> None:
    comparison = compare(make_trace(), make_trace(scopes=(Scope.LAST,)))

    assert comparison.verdict is Verdict.PASS
    assert {site.scope for site in comparison.sites} == {Scope.LAST}
    assert comparison.bit_identical


# --- the famous one: layer 3, 7 x 3584 values against 1 x 3584 -----------------------


def statistics(count: int, std: float) -> ActivationStats:
    return ActivationStats(
        count=count,
        nan_count=0,
        inf_count=0,
        zero_count=0,
        min=-1.0,
        max=1.0,
        mean=0.0,
        sum_squared_deviations=std * std * (count - DDOF),
    )


def famous_trace(scope: Scope, tokens: int, std: float, **others: float) -> ForwardTrace:
    """28 layers x 10 slots of statistics alone, as the two engines of that hunt had them.

    And what comes before and after the layers, in a vocabulary of 3584 too.
    """
    inside = [Site(slot, layer) for layer in range(28) for slot in CONTRACT_SLOTS]
    sites = {}
    for site in (Site("embed"), *inside, Site("final_norm"), Site("logits")):
        here = std if str(site) == "layer.3.ffn_swiglu_inner" else 1.0
        sites[str(site)] = SiteRecord(
            site=site,
            capture_point=CAPTURE_POINTS[site.slot],
            dtype="float32",
            shape=(tokens, 3584),
            stats={scope: statistics(tokens * 3584, here)},
        )
    return ForwardTrace(
        engine=EngineInfo(name="recorded", build="upstream", numerics="q8"),
        model=ModelInfo(
            name="qwen.gguf", format="gguf", architecture="qwen2", fingerprint="sha256:7b"
        ),
        config={"num_layers": 28},
        token_ids=(3838, 374, 220, 17, 10, 17, 30),
        positions=tuple(range(7)),
        prompt="What is 2+2?",
        sites=sites,
    )


RATIO = Gate(metric="std_ratio", sites="ffn_swiglu_inner", limit=2.0, origin="the contract")


def test_the_famous_ratio_is_reported_and_not_believed() -> None:
    gguf, apr = famous_trace(Scope.LAST, 1, 0.0670), famous_trace(Scope.ALL, 7, 1.2216)

    comparison = compare(gguf, apr, gates=(RATIO,))

    assert comparison.verdict is Verdict.INCOMPARABLE
    precondition = found(comparison, "sample-count")
    assert (precondition.num_checked, precondition.num_broken) == (283, 283)
    assert precondition.message == (
        "the samples differ at 283 of 283 sites; embed: 3,584 values (last) against 25,088 "
        "(all), and no scope in common"
    )
    assert comparison.broken == [precondition]
    naive = comparison.naive_ratio
    assert naive is not None
    assert (naive.site, naive.reference_count, naive.candidate_count) == (
        "layer.3.ffn_swiglu_inner",
        3584,
        25088,
    )
    assert naive.std_ratio == pytest.approx(18.23, abs=0.005)
    assert naive.sentence == (
        "at layer.3.ffn_swiglu_inner the standard deviations of 3,584 values (last) and "
        "25,088 (all) would have given a ratio of 18.23, a factor of 18.23, and it would "
        "mean nothing"
    )


def test_on_the_same_sample_the_famous_layer_passes() -> None:
    gguf, apr = famous_trace(Scope.LAST, 1, 1.0), famous_trace(Scope.LAST, 1, 1.2154)

    comparison = compare(gguf, apr, gates=(RATIO,))

    assert comparison.verdict is Verdict.PASS
    assert comparison.naive_ratio is None


def test_the_other_way_round_the_ratio_is_the_inverse() -> None:
    gguf, apr = famous_trace(Scope.LAST, 1, 0.0670), famous_trace(Scope.ALL, 7, 1.2216)

    naive = compare(apr, gguf, gates=(RATIO,)).naive_ratio

    assert naive is not None
    assert naive.std_ratio == pytest.approx(1 / 18.233, rel=1e-4)


@pytest.mark.parametrize(
    ("a", "b"),
    [(1e150, 1e-160), (1e150, 1e-200), (math.nan, 1.0), (math.inf, 1.0), (math.inf, math.inf)],
)
def test_no_ratio_is_too_odd_to_report(a: float, b: float) -> None:
    comparison = compare(
        famous_trace(Scope.ALL, 7, a), famous_trace(Scope.LAST, 1, b), gates=(RATIO,)
    )

    assert comparison.verdict is Verdict.INCOMPARABLE
    assert comparison.naive_ratio is not None
    assert "and it would mean nothing" in comparison.naive_ratio.sentence


def test_equal_samples_have_no_naive_ratio(make_trace: TraceMaker) -> None:
    question = Question(
        reference=make_trace(), candidate=make_trace(), scopes=(Scope.ALL,), gates=(EXACT,)
    )

    assert find_naive_ratio(question) is None


def test_without_the_famous_slot_another_one_speaks(make_trace: TraceMaker) -> None:
    values = {n: a for n, a in make_trace.values().items() if not n.endswith("swiglu_inner")}
    values["layer.1.k"] = values["layer.1.k"] * np.array([[100], [1], [0]])

    comparison = compare(make_trace(values), make_trace(values, scopes=(Scope.LAST,)))

    # The last row of k is all zeros, a ratio by which would be no ratio.
    assert comparison.naive_ratio is not None
    assert parse_site(comparison.naive_ratio.site).slot != "k"
