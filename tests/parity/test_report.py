"""Several prompts as one report: the worst of each, and the JSON that others rely on."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.parity.compare import Plan, compare_traces
from cotejar.parity.gates import Gate
from cotejar.parity.report import ParityReport
from cotejar.report.json_output import encode_json
from cotejar.trace.forward_trace import ForwardTrace, Scope
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from cotejar.parity.compare import Comparison

    from .conftest import TraceMaker

LIMIT = 0.1
PLAN = Plan(gates=(Gate(metric="max_abs", sites="all", limit=LIMIT, origin="the test"),))


def compare(reference: ForwardTrace, candidate: ForwardTrace, plan: Plan = PLAN) -> Comparison:
    return compare_traces(reference, candidate, plan)


def good(make: TraceMaker) -> Comparison:
    return compare(make(), make())


def bad(make: TraceMaker, site: str = "layer.1.ffn_up", value: float = 9.0) -> Comparison:
    return compare(make(), make.with_element(site, 1, 2, value))


def unfair(make: TraceMaker) -> Comparison:
    return compare(make(), replace(make(), token_ids=(10, 11, 99)))


def report(*comparisons: Comparison, **settings: str) -> ParityReport:
    return ParityReport(comparisons=comparisons, **settings)


def parse(made: ParityReport) -> dict[str, object]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(encode_json(made.as_json()), parse_constant=refuse)


@pytest.mark.parametrize("order", [1, -1])
def test_fail_outranks_incomparable_outranks_pass(make_trace: TraceMaker, order: int) -> None:
    passes, fails, cannot = good(make_trace), bad(make_trace), unfair(make_trace)

    assert report(*[passes, cannot, fails][::order]).verdict is Verdict.FAIL
    assert report(*[passes, cannot][::order]).verdict is Verdict.INCOMPARABLE
    assert report(passes, passes).verdict is Verdict.PASS
    assert report().verdict is Verdict.INCOMPARABLE


def test_each_measure_is_the_worst_of_all_prompts(make_trace: TraceMaker) -> None:
    values = make_trace.values()
    one, other = (
        compare(make_trace(), make_trace(values | {"layer.1.ffn_up": array}))
        for array in (
            values["layer.1.ffn_up"] * 9,
            values["layer.1.ffn_up"] * [[1], [-20], [2]],
        )
    )

    for made in (report(one, other), report(other, one)):
        (site,) = [s for s in made.sites if (s.site, s.scope) == ("layer.1.ffn_up", Scope.ALL)]
        distances = [
            next(s.distance for s in c.sites if (s.site, s.scope) == (site.site, Scope.ALL))
            for c in (one, other)
        ]
        assert site.rel_l2_max == max(d.rel_l2_max for d in distances if d)
        assert site.rel_l2_median == max(d.rel_l2_median for d in distances if d) > 0
        assert site.max_abs == max(d.max_abs for d in distances if d)
        assert site.cosine_min == min(d.cosine_min for d in distances if d)
        assert site.nmse == max(d.nmse for d in distances if d)
        assert site.num_compared == 36
        assert site.gate is not None
        assert site.gate.value == site.max_abs
        assert site.verdict is Verdict.FAIL


def test_the_worst_ratio_is_the_one_furthest_from_1(make_trace: TraceMaker) -> None:
    site = "layer.0.ffn_gate"
    ratios = [
        compare(make_trace(), make_trace(make_trace.values() | {site: values}))
        for values in (make_trace.values()[site] * 3, make_trace.values()[site] / 4)
    ]

    found = {s.site: s.std_ratio for s in report(*ratios).sites if s.scope is Scope.ALL}

    assert found[site] == pytest.approx(1 / 4)
    assert found["layer.0.ffn_up"] == 1


def test_a_nan_stays_the_worst(make_trace: TraceMaker) -> None:
    waived = replace(PLAN, waived=frozenset({"finite"}))
    broken = compare(
        make_trace(), make_trace.with_element("logits", 1, 2, math.nan), plan=waived
    )

    for made in (report(broken, good(make_trace)), report(good(make_trace), broken)):
        assert made.logits is not None
        assert math.isnan(made.logits.kl_max)
        (site,) = [s for s in made.sites if (s.site, s.scope) == ("logits", Scope.ALL)]
        assert site.max_abs is not None
        assert math.isnan(site.max_abs)
        facts = parse(made)
        assert facts["logits"]["kl_max"] is None
        assert facts["logits"]["kl_max_nonfinite"] == "NaN"
        assert math.isnan(made.as_json()["logits"]["kl_max"])


def test_the_first_divergence_is_of_the_first_prompt_that_fails(make_trace: TraceMaker) -> None:
    made = report(
        good(make_trace), bad(make_trace, "layer.1.output"), bad(make_trace, "layer.0.q")
    )

    assert made.first_divergence is not None
    assert made.first_divergence.site == "layer.1.output"


def test_a_precondition_that_one_prompt_breaks_is_broken(make_trace: TraceMaker) -> None:
    for made in (
        report(good(make_trace), unfair(make_trace)),
        report(unfair(make_trace), good(make_trace)),
    ):
        (found,) = [p for p in parse(made)["preconditions"] if not p["holds"]]
        assert found["id"] == "token-ids"
        assert [p.id for p in made.broken] == ["token-ids"]
        assert found == {
            "id": "token-ids",
            "holds": False,
            "is_undecided": False,
            "num_checked": 6,
            "num_broken": 1,
            "message": "1 of 3 token ids differ, the first at index 2: [12] against [99]",
        }


def test_a_precondition_says_what_the_first_prompt_broke(make_trace: TraceMaker) -> None:
    trace = make_trace()
    later = compare(trace, replace(trace, token_ids=(99, 98, 12)))

    made = report(good(make_trace), unfair(make_trace), later, good(make_trace))

    facts = parse(made)["preconditions"][0]
    assert (facts["num_checked"], facts["num_broken"]) == (12, 3)
    assert facts["message"].endswith("at index 2: [12] against [99]")
    assert made.broken[0].message == facts["message"]


def test_preconditions_that_hold_are_counted_over_all_prompts(make_trace: TraceMaker) -> None:
    facts = parse(report(good(make_trace), good(make_trace)))["preconditions"]

    assert [(p["id"], p["num_checked"]) for p in facts if p["holds"]] == [
        *(("token-ids", 6), ("positions", 6), ("config", 6), ("weights-fingerprint", 2)),
        *(("sites", 46), ("capture-points", 74), ("shapes", 74), ("sample-count", 74)),
        *(("ddof", 2), ("finite", 148), ("arrays", 148)),
    ]


def test_bit_identical_is_so_at_every_prompt_or_not_at_all(make_trace: TraceMaker) -> None:
    assert report(good(make_trace), good(make_trace)).bit_identical
    assert not report(good(make_trace), bad(make_trace)).bit_identical
    assert not report(unfair(make_trace)).bit_identical


def test_logits_are_counted_over_all_positions(make_trace: TraceMaker) -> None:
    values = make_trace.values()["logits"]
    runner_up = int(np.argsort(values[1])[-2])
    one_of_three = compare(make_trace(), make_trace.with_element("logits", 1, runner_up, 99.0))
    longer = make_trace(make_trace.values(tokens=5))

    made = report(one_of_three, compare(longer, longer))

    assert made.logits is not None
    assert made.logits.top1_agreement == 7 / 8
    margins = [float(np.diff(np.sort(row)[-2:])[0]) for row in values]
    assert made.logits.min_margin == pytest.approx(
        min(*margins, *(float(np.diff(np.sort(r)[-2:])[0]) for r in longer.arrays["logits"]))
    )


def test_nothing_compared_is_counted_as_nothing(make_trace: TraceMaker) -> None:
    made = report(unfair(make_trace))

    assert (made.num_compared, made.sites, made.logits) == (0, [], None)
    assert report(good(make_trace)).num_compared == 3 * (36 * 6 + 9)


# --- what other tools read ------------------------------------------------------------

SIDE = {
    "engine": "native",
    "build": "cotejar 0.1.0",
    "numerics": "f32",
    "products": "f32",
    "device": "cpu",
    "model": "tiny.gguf",
    "format": "gguf",
    "fingerprint": "sha256:12ab",
}


def test_the_json_of_a_pass(make_trace: TraceMaker) -> None:
    facts = parse(report(good(make_trace)))

    assert (facts["verdict"], facts["exit_code"]) == ("PASS", 0)
    assert facts["reference"] == facts["candidate"] == SIDE
    assert facts["tokens"] == [10, 11, 12]
    assert facts["prompts"] == [
        {
            "prompt": None,
            "token_ids": [10, 11, 12],
            "verdict": "PASS",
            "first_divergence": None,
            "num_steps": 0,
        }
    ]
    assert facts["preconditions"][0] == {
        "id": "token-ids",
        "holds": True,
        "is_undecided": False,
        "num_checked": 3,
        "num_broken": 0,
        "message": "the same 3 token ids",
    }
    assert len(facts["preconditions"]) == 11
    assert facts["bit_identical"] is True
    assert facts["first_divergence"] is None
    assert facts["num_compared"] == 675
    assert facts["logits"] == {
        "kl_max": 0.0,
        "top1_agreement": 1.0,
        "top5_overlap": 1.0,
        "min_margin": pytest.approx(facts["logits"]["min_margin"]),
    }
    assert (facts["fault"], facts["waived"], facts["naive_ratio"]) == (None, [], None)
    assert facts["only_in_reference"] == facts["only_in_candidate"] == []
    assert facts["unjudged_gates"] == []


def test_the_json_of_a_site(make_trace: TraceMaker) -> None:
    facts = parse(report(good(make_trace)))

    assert len(facts["sites"]) == 74
    assert facts["sites"][0] == {
        "site": "embed",
        "scope": "all",
        "num_compared": 18,
        "rel_l2_max": 0.0,
        "rel_l2_median": 0.0,
        "max_abs": 0.0,
        "cosine_min": pytest.approx(1.0),
        "nmse": 0.0,
        "std_ratio": 1.0,
        "bit_identical": True,
        "gate": {"metric": "max_abs", "limit": LIMIT, "value": 0.0, "origin": "the test"},
        "verdict": "PASS",
    }


def test_the_json_of_a_fail(make_trace: TraceMaker) -> None:
    facts = parse(report(bad(make_trace), fault="norm-eps"))

    assert (facts["verdict"], facts["exit_code"]) == ("FAIL", 1)
    assert facts["first_divergence"] == "layer.1.ffn_up"
    assert (facts["bit_identical"], facts["fault"]) == (False, "norm-eps")
    assert facts["prompts"][0]["first_divergence"] == "layer.1.ffn_up"
    assert [s["site"] for s in facts["sites"] if s["verdict"] == "FAIL"] == ["layer.1.ffn_up"]


def test_the_json_of_an_unfair_pair(make_trace: TraceMaker) -> None:
    every, last = make_trace(scopes=(Scope.ALL,)), make_trace(scopes=(Scope.LAST,))

    facts = parse(report(compare(every, last)))

    assert (facts["verdict"], facts["exit_code"]) == ("INCOMPARABLE", 3)
    assert (facts["sites"], facts["logits"], facts["num_compared"]) == ([], None, 0)
    naive = facts["naive_ratio"]
    assert naive["site"].endswith("ffn_swiglu_inner")
    assert {key: naive[key] for key in naive if key not in {"site", "std_ratio"}} == {
        "reference_scope": "all",
        "candidate_scope": "last",
        "reference_count": 18,
        "candidate_count": 6,
    }
    a, b = every.sites[naive["site"]].stats, last.sites[naive["site"]].stats
    assert naive["std_ratio"] == pytest.approx(b[Scope.LAST].std / a[Scope.ALL].std)


def test_the_json_of_a_site_that_has_statistics_alone(make_trace: TraceMaker) -> None:
    ratio = Gate(metric="std_ratio", sites="ffn_up", limit=2.0, origin="the test")
    statistics = make_trace(array_slots=frozenset())

    facts = parse(report(compare(statistics, statistics, Plan(gates=(ratio,)))))

    site = facts["sites"][0]
    measures = ("rel_l2_max", "rel_l2_median", "max_abs", "cosine_min", "nmse")
    assert [site[k] for k in measures] == [None] * 5
    assert (site["gate"], site["verdict"], site["bit_identical"]) == (None, None, False)
    assert facts["logits"] is None


def test_the_json_of_an_infinite_error_has_no_infinity(make_trace: TraceMaker) -> None:
    zeros = make_trace.values() | {"embed": np.zeros((3, 6))}
    ones = make_trace.values() | {"embed": np.ones((3, 6))}

    facts = parse(report(compare(make_trace(zeros), make_trace(ones))))

    assert facts["verdict"] == "FAIL"
    assert (facts["sites"][0]["rel_l2_max"], facts["sites"][0]["max_abs"]) == (None, 1.0)
    assert facts["sites"][0]["rel_l2_max_nonfinite"] == "Infinity"
    assert facts["sites"][0]["rel_l2_median_nonfinite"] == "Infinity"
    assert "max_abs_nonfinite" not in facts["sites"][0]


def test_the_json_names_a_gate_that_was_judged_nowhere(make_trace: TraceMaker) -> None:
    lost = Gate(metric="std_ratio", sites="layer.9.ffn_up", limit=2.0, origin="the test")

    comparison = compare(make_trace(), make_trace(), Plan(gates=(*PLAN.gates, lost)))

    facts = parse(report(comparison, comparison))
    assert facts["unjudged_gates"] == [{"metric": "std_ratio", "sites": "layer.9.ffn_up"}]
    assert facts["verdict"] == "INCOMPARABLE"
