"""A parity report for people: the verdict and its reasons, whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from click import unstyle

from cotejar.parity.compare import Comparison, Plan, compare_traces
from cotejar.parity.gates import Gate
from cotejar.parity.report import ParityReport
from cotejar.report.parity import Detail, parity_lines
from cotejar.trace.forward_trace import (
    BOTH_SCOPES,
    EVERY_ARRAY,
    Capture,
    EngineInfo,
    ForwardTrace,
    ModelInfo,
    Scope,
    TraceRecorder,
)
from cotejar.trace.site import parse_site

PLAN = Plan(
    gates=(Gate(metric="rel_l2_max", sites="all", limit=0.01, origin="the test"),),
    required_slots=("ffn_out",),
)
VALUES = {
    "embed": np.array([[1.0, 0.0], [0.0, 1.0]]),
    "layer.0.ffn_out": np.array([[3.0, 4.0], [6.0, 8.0]]),
    "layer.1.ffn_out": np.array([[5.0, 12.0], [0.0, 10.0]]),
    "final_norm": np.array([[1.0, 1.0], [2.0, 2.0]]),
    "logits": np.array([[0.0, 1.0, 2.0], [3.0, 0.0, 1.0]]),
}


def make_trace(
    values: dict[str, np.ndarray] = VALUES, *, scopes: tuple[Scope, ...] = BOTH_SCOPES
) -> ForwardTrace:
    recorder = TraceRecorder(Capture(scopes=scopes, array_slots=EVERY_ARRAY))
    for name, array in values.items():
        site = parse_site(name)
        recorder.record(site.slot, array, site.layer)
    return ForwardTrace(
        engine=EngineInfo(name="oracle", build="cotejar 0.1.0", numerics="f64"),
        model=ModelInfo(
            name="m.gguf",
            format="gguf",
            architecture="llama",
            fingerprint="sha256:0123456789abcdef",
        ),
        config={"num_layers": 2},
        token_ids=(7, 8),
        positions=(0, 1),
        prompt=None,
        sites=recorder.sites,
        arrays=recorder.arrays,
    )


def changed(site: str, token: int, column: int, value: float) -> ForwardTrace:
    array = VALUES[site].copy()
    array[token, column] = value
    return make_trace(VALUES | {site: array})


def compare(candidate: ForwardTrace, plan: Plan = PLAN) -> Comparison:
    return compare_traces(make_trace(), candidate, plan)


def text(*comparisons: Comparison, detail: Detail = "none", fault: str | None = None) -> str:
    return "\n".join(
        parity_lines(ParityReport(comparisons=comparisons, fault=fault), detail=detail)
    )


HEAD = """\
reference  oracle+f64@cpu  m.gguf  sha256:0123456789ab  (cotejar 0.1.0)
candidate  oracle+f64@cpu  m.gguf  sha256:0123456789ab  (cotejar 0.1.0)
"""


def test_a_pass_says_how_much_was_compared() -> None:
    assert text(compare(make_trace())) == (
        HEAD + "prompts    1, 2 tokens\n"
        "\n"
        "preconditions  11 of 11 hold\n"
        "\n"
        "logits     KL max 0.00e+00 nats, top-1 equal 100.0%, top-5 overlap 100.0%, "
        "smallest margin 1.000\n"
        "PASS  10 of 10 cells (site x scope) within their gates, 22 numbers compared, "
        "bit-identical"
    )


def test_a_pass_that_is_not_bit_identical_says_what_came_nearest_to_a_limit() -> None:
    shown = text(compare(changed("layer.1.ffn_out", 0, 0, 5.013)))

    assert shown.splitlines()[-2:] == [
        "PASS  10 of 10 cells (site x scope) within their gates, 22 numbers compared",
        "  nearest to its limit: layer.1.ffn_out, rel_l2_max 1.00e-03 of 1.0e-02 (the test)",
    ]


def test_a_fail_names_the_first_site_the_worst_token_and_the_origin() -> None:
    """An error of 0.1 against a norm of 5."""
    worse = changed("layer.0.ffn_out", 0, 0, 3.1)

    assert text(compare(worse), fault="block-shift") == (
        HEAD + "fault      block-shift was injected into the candidate\n"
        "prompts    1, 2 tokens\n"
        "\n"
        "preconditions  11 of 11 hold\n"
        "\n"
        "logits     KL max 0.00e+00 nats, top-1 equal 100.0%, top-5 overlap 100.0%, "
        "smallest margin 1.000\n"
        "FAIL  1 of 10 cells (site x scope) are beyond their gates\n"
        "  first at layer.0.ffn_out (all tokens, worst is token 0): rel_l2_max 2.000e-02, "
        "limit 1.0e-02\n"
        "  origin of the limit: the test"
    )


def test_in_the_last_tokens_scope_there_is_no_other_token() -> None:
    last = replace(PLAN, scopes=(Scope.LAST,))

    shown = text(compare(changed("layer.0.ffn_out", 1, 0, 6.2), last))

    assert "  first at layer.0.ffn_out (last token): rel_l2_max 2.000e-02, limit" in shown


def test_an_unfair_pair_says_what_is_broken_and_what_would_have_been_believed() -> None:
    every, last = (
        make_trace(
            {n.replace("ffn_out", "ffn_swiglu_inner"): a for n, a in VALUES.items()},
            scopes=(scope,),
        )
        for scope in (Scope.ALL, Scope.LAST)
    )
    plan = replace(PLAN, required_slots=("ffn_swiglu_inner",))

    # Of [3 4 6 8] the standard deviation is sqrt(59/12), of [6 8] sqrt(2); of
    # [5 12 0 10] and [0 10] it is sqrt(347/12) and sqrt(50): 0.64 lies further from 1.
    assert text(compare_traces(every, last, plan)) == (
        HEAD + "prompts    1, 2 tokens\n"
        "\n"
        "preconditions  10 of 11 hold\n"
        "  BROKEN  sample-count: the samples differ at 5 of 5 sites; "
        "embed: 4 values (all) against 2 (last), and no scope in common\n"
        "\n"
        "INCOMPARABLE  broken: sample-count; nothing was measured\n"
        "  at layer.0.ffn_swiglu_inner the standard deviations of 4 values (all) and 2 (last) "
        "would have given a ratio of 0.6378, a factor of 1.568, and it would mean nothing"
    )


def test_what_is_waived_is_marked() -> None:
    other = replace(make_trace(), token_ids=(7, 9))
    waived = replace(PLAN, waived=frozenset({"token-ids"}))

    lines = text(compare(other, waived)).splitlines()

    assert lines[4:6] == [
        "preconditions  10 of 11 hold",
        "  waived  token-ids: 1 of 2 token ids differ, the first at index 1: [8] against [9]",
    ]
    assert lines[-1].startswith("PASS")


def test_a_gate_that_was_judged_nowhere_is_named() -> None:
    lost = Gate(metric="nmse", sites="layer.5.q", limit=1, origin="the test")

    shown = text(compare(make_trace(), replace(PLAN, gates=(*PLAN.gates, lost))))

    assert shown.splitlines()[-1] == (
        "INCOMPARABLE  1 gate was judged nowhere: nmse at layer.5.q"
    )


def test_numerics_without_a_known_gate_need_a_contract() -> None:
    strange = replace(make_trace(), engine=replace(make_trace().engine, numerics="f16"))

    shown = text(compare(strange, replace(PLAN, gates=())))

    assert shown.splitlines()[-1] == (
        "INCOMPARABLE  no gate is known for f64 against f16 "
        "(give one with --contract, or measure: apr noise)"
    )


def test_two_models_need_a_contract() -> None:
    """Of other weights nobody knows how far they may lie apart."""
    other = replace(make_trace(), model=replace(make_trace().model, fingerprint="sha256:99"))
    plan = Plan(required_slots=("ffn_out",), waived=frozenset({"weights-fingerprint"}))

    shown = text(compare(other, plan))

    assert shown.splitlines()[-1] == (
        "INCOMPARABLE  no gate is known for two models of other weights "
        "(give one with --contract)"
    )


def test_sites_of_one_side_alone_are_listed_and_not_counted() -> None:
    more = make_trace(VALUES | {"layer.0.q": np.ones((2, 2)), "layer.1.q": np.ones((2, 2))})

    blind = replace(make_trace(), not_observed=frozenset({"q"}))

    shown = text(compare_traces(blind, more, PLAN))

    assert "not compared: 2 sites of the candidate alone (layer.0.q, layer.1.q)\n" in shown
    assert shown.splitlines()[-2] == (
        "PASS  10 of 10 cells (site x scope) within their gates, 22 numbers compared"
    )  # and never bit-identical


def test_a_site_that_one_side_lacks_without_a_word_is_named() -> None:
    more = make_trace(VALUES | {"layer.0.q": np.ones((2, 2))})

    lines = text(compare(more)).splitlines()

    assert ("  BROKEN  sites: of 6 sites the reference lacks 1, first layer.0.q") in lines
    assert lines[-1] == "INCOMPARABLE  broken: sites; nothing was measured"


def test_logits_that_were_not_captured_are_missed() -> None:
    trace = make_trace()
    arrays = {name: array for name, array in trace.arrays.items() if name != "logits"}
    waived = replace(PLAN, waived=frozenset({"arrays"}))

    shown = text(compare(replace(trace, arrays=arrays), waived))

    assert "logits     not captured on both sides\n" in shown


def test_the_table_has_each_slots_worst_site_or_all_of_them() -> None:
    comparison = compare(changed("layer.1.ffn_out", 0, 0, 6.3))

    slots = text(comparison, detail="slots").splitlines()
    sites = text(comparison, detail="sites").splitlines()

    assert [line.split()[:2] for line in slots[7:11]] == [
        ["embed", "all"],
        ["layer.1.ffn_out", "all"],
        ["final_norm", "all"],
        ["logits", "all"],
    ]
    titles = "site scope rel L2 max median max abs cosine min NMSE std ratio gate verdict"
    assert " ".join(unstyle(slots[6]).split()) == titles
    # An error of 1.3 beside a norm of 13, in one of two tokens; squares of 269 in all.
    row = "1.00e-01 5.00e-02 1.30e+00 0.996073 6.28e-03 0.9809 rel_l2_max <= 1.0e-02 FAIL"
    assert " ".join(slots[8].split()[2:]) == row
    assert slots[11] == "  (each slot's worst layer and scope; --all-sites shows every site)"
    assert [line.split()[:2] for line in sites[7:17]] == [
        [name, scope] for name in VALUES for scope in ("all", "last")
    ]


def test_a_site_that_no_gate_judges_is_not_judged() -> None:
    one = replace(PLAN, gates=(replace(PLAN.gates[0], sites="layer.0.ffn_out"),))

    rows = text(compare(make_trace(), one), detail="sites").splitlines()[7:17]

    assert [row.endswith("PASS") for row in rows] == [False] * 2 + [True] * 2 + [False] * 6
    assert all(row.endswith("not judged") for row in [*rows[:2], *rows[4:]])


def test_several_prompts_are_one_report() -> None:
    shown = text(compare(make_trace()), compare(changed("logits", 0, 0, 9.0)))

    assert "prompts    2, 4 tokens\n" in shown
    assert "top-1 equal 75.0%" in shown
    assert "FAIL  1 of 10 cells (site x scope) are beyond their gates\n" in shown


def test_of_several_prompts_the_first_that_is_unfair_is_quoted() -> None:
    first, second = (replace(make_trace(), token_ids=ids) for ids in ((7, 9), (6, 8)))

    shown = text(compare(make_trace()), compare(first), compare(second))

    assert "  BROKEN  token-ids: 1 of 2 token ids differ, the first at index 1: " in shown
    assert "the first at index 0" not in shown


@pytest.mark.parametrize("part", ["name", "build", "numerics", "device"])
@pytest.mark.parametrize("value", [1.001, 2])
def test_a_strangers_names_send_nothing_to_the_terminal(part: str, value: float) -> None:
    trace = make_trace()
    engine = replace(trace.engine, **{part: "\x1b[2J\n"})
    gate = replace(PLAN.gates[0], origin="\x1b[31m")

    array = VALUES["layer.0.ffn_out"] * value
    candidate = replace(make_trace(VALUES | {"layer.0.ffn_out": array}), engine=engine)
    shown = text(compare(candidate, replace(PLAN, gates=(gate,))))

    assert "\x1b" not in shown
    assert "\\x1b[2J\\n" in shown
    assert "\\x1b[31m" in shown
