"""A gate: where it is judged, what passes it, and that a default says where it comes from."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.errors import UsageError
from cotejar.parity import gates as gates_module
from cotejar.parity import group_noise
from cotejar.parity.gates import (
    LOGITS_METRICS,
    METRICS,
    SITE_METRICS,
    Gate,
    Judged,
    default_gates,
)
from cotejar.trace.host import describe_host

if TYPE_CHECKING:
    from cotejar.trace.forward_trace import ForwardTrace

    from .conftest import TraceMaker


def noise_gates(make: TraceMaker, numerics: str) -> tuple[Gate, ...]:
    """Of some numerics against the oracle's."""
    exact, other = (
        replace(make(), engine=replace(make().engine, numerics=n)) for n in ("f64", numerics)
    )
    return default_gates(exact, other)


def gate(metric: str = "rel_l2_max", sites: str = "all", limit: float = 1.0) -> Gate:
    return Gate(metric=metric, sites=sites, limit=limit, origin="the test")


@pytest.mark.parametrize(
    ("sites", "where"),
    [
        ("all", {"embed", "layer.0.k", "layer.1.k", "layer.1.qkv", "layer.1.v", "logits"}),
        ("v", {"layer.1.v"}),
        ("k", {"layer.0.k", "layer.1.k"}),
        ("layer.1.k", {"layer.1.k"}),
        ("logits", {"logits"}),
        ("layer.1", set()),
    ],
)
def test_a_gate_is_judged_where_it_says(sites: str, where: set[str]) -> None:
    every = ["embed", "layer.0.k", "layer.1.k", "layer.1.qkv", "layer.1.v", "logits"]

    assert {name for name in every if gate(sites=sites).applies_to(name)} == where


@pytest.mark.parametrize("metric", LOGITS_METRICS)
def test_measures_of_distributions_are_judged_at_the_logits_alone(metric: str) -> None:
    assert gate(metric).applies_to("logits")
    assert not gate(metric).applies_to("embed")


@pytest.mark.parametrize("metric", METRICS)
def test_only_a_ratio_of_statistics_needs_no_elements(metric: str) -> None:
    assert gate(metric).needs_arrays is (metric != "std_ratio")


@pytest.mark.parametrize("metric", SITE_METRICS)
def test_the_limit_itself_passes_and_the_next_number_does_not(metric: str) -> None:
    limit = 1.5

    assert Judged(gate=gate(metric, limit=limit), value=limit).passed
    assert not Judged(gate=gate(metric, limit=limit), value=math.nextafter(limit, 2)).passed
    assert not Judged(gate=gate(metric, limit=limit), value=math.nan).passed


def test_nan_is_the_worst_of_all() -> None:
    values = [0.5, math.nan, 1e9]

    judged = [Judged(gate=gate(), value=value) for value in values]

    assert math.isnan(max(judged, key=lambda j: j.severity).value)


@pytest.mark.parametrize("order", [1, -1])
def test_what_failed_is_worse_than_what_passed(order: int) -> None:
    """Also where a value over its limit says nothing."""
    passed = Judged(gate=gate(limit=math.inf), value=math.inf)
    failed = Judged(gate=gate(limit=2.0), value=math.nextafter(2, 3))

    assert (passed.passed, failed.passed) == (True, False)
    assert max([passed, failed][::order], key=lambda j: j.badness) is failed


def test_of_what_failed_the_furthest_beyond_is_worst() -> None:
    judged = [Judged(gate=gate(limit=limit), value=4.0) for limit in (2.0, 1.0, 3.0)]

    assert max(judged, key=lambda j: j.badness) is judged[1]


def test_any_difference_is_infinitely_beyond_a_limit_of_0() -> None:
    assert Judged(gate=gate(limit=0.0), value=5e-324).severity == math.inf
    assert Judged(gate=gate(limit=0.0), value=0.0).severity == 0


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        gate("cosine")

    assert str(caught.value) == (
        "error[APR-U001]: there is no metric 'cosine'\n"
        "  where     gate\n"
        "  expected  rel_l2_max, rel_l2_median, max_abs, cosine_distance, nmse, std_ratio, "
        "kl_max, top1_flip_margin, top1_disagreement, top5_disagreement\n"
        "  found     cosine\n"
        "  try       cosine is judged as cosine_distance = 1 - cosine"
    )


@pytest.mark.parametrize("limit", [-1e-9, math.nan])
def test_a_limit_that_nothing_meets_is_refused(limit: float) -> None:
    with pytest.raises(UsageError) as caught:
        gate(limit=limit)

    assert str(caught.value) == (
        f"error[APR-U001]: a limit of {limit} can never be met\n"
        "  where     gate on rel_l2_max\n"
        "  expected  a number of at least 0\n"
        f"  found     {limit}\n"
        "  try       0 asks for equality"
    )


def test_the_same_program_on_the_same_machine_must_agree_bit_for_bit(
    make_trace: TraceMaker,
) -> None:
    (only,) = default_gates(make_trace(), make_trace())

    assert (only.metric, only.sites, only.limit) == ("max_abs", "all", 0)


@pytest.mark.parametrize("part", ["processor", "blas", "cores"])
def test_another_processor_or_blas_is_another_machine(
    make_trace: TraceMaker, part: str
) -> None:
    trace = replace(make_trace(), host=describe_host())
    other = replace(trace, host=describe_host() | {part: "another"})

    assert default_gates(trace, other) == default_gates(other, trace)
    assert "max_abs" in {g.metric for g in default_gates(trace, trace)}
    assert "max_abs" not in {g.metric for g in default_gates(trace, other)}


@pytest.mark.parametrize("other", ["numerics", "build", "host"])
def test_another_program_or_machine_may_round_otherwise(
    make_trace: TraceMaker, other: str
) -> None:
    trace = make_trace()
    changed = {
        "numerics": replace(trace, engine=replace(trace.engine, numerics="f64")),
        "build": replace(trace, engine=replace(trace.engine, build="cotejar 0.2.0")),
        "host": replace(trace, host={"machine": "aarch64"}),
    }[other]

    gates = default_gates(trace, changed)

    assert {"layer.0.ffn_up", "logits"} <= {
        site for site in trace.sites if any(g.applies_to(site) for g in gates)
    }
    assert all(gate.limit < math.inf and len(gate.origin) > 20 for gate in gates)


def test_every_site_has_a_default_gate(make_trace: TraceMaker) -> None:
    trace = make_trace()
    exact = replace(trace, engine=replace(trace.engine, numerics="f64"))

    gates = default_gates(exact, trace)

    assert [n for n in trace.sites if not any(g.applies_to(n) for g in gates)] == []


@pytest.mark.parametrize("numerics", ["f32", "q8"])
def test_a_site_is_judged_by_its_worst_and_its_median_token(
    make_trace: TraceMaker, numerics: str
) -> None:
    gates = noise_gates(make_trace, numerics)

    for name in make_trace().sites:
        metrics = {g.metric for g in gates if g.applies_to(name)}
        logits = {"kl_max", "top1_flip_margin"} if name == "logits" else set()
        assert metrics == {"rel_l2_max", "rel_l2_median"} | logits


@pytest.mark.parametrize("numerics", ["f32", "q8"])
def test_the_first_norm_is_judged_by_its_own_noise(
    make_trace: TraceMaker, numerics: str
) -> None:
    """No product comes before it: what is normal elsewhere is a fault here."""
    gates = noise_gates(make_trace, numerics)

    first, second = (
        min(g.limit for g in gates if g.metric == "rel_l2_max" and g.applies_to(name))
        for name in ("layer.0.attn_norm", "layer.1.attn_norm")
    )

    assert 0 < first < second


@pytest.mark.parametrize(
    ("norm", "its_input"), [("attn_post_norm", "attn_out"), ("ffn_post_norm", "ffn_out")]
)
@pytest.mark.parametrize("numerics", ["f32", "q8"])
def test_a_norm_behind_is_judged_as_what_it_norms(
    make_trace: TraceMaker, norm: str, its_input: str, numerics: str
) -> None:
    gates = noise_gates(make_trace, numerics)

    limits = [
        {g.metric: g.limit for g in gates if g.applies_to(f"layer.1.{slot}")}
        for slot in (norm, its_input)
    ]
    assert limits[0] == limits[1]
    assert limits[0].keys() == {"rel_l2_max", "rel_l2_median"}


@pytest.mark.parametrize(
    ("factor", "passes"), [(1.0, True), (1 + 2.0**-24, True), (1 + 2.0**-22, False)]
)
def test_a_scaled_embedding_may_be_rounded_and_no_more(
    make_trace: TraceMaker, factor: float, passes: bool
) -> None:
    """An embedding that nothing multiplies is exact, and any difference fails."""
    trace = make_trace()
    exact = replace(trace, engine=replace(trace.engine, numerics="f64"))

    def verdict(**parts: float) -> list[bool]:
        sides = [replace(t, config={**t.config, **parts}) for t in (exact, trace)]
        gates = [g for g in default_gates(*sides) if g.applies_to("embed")]
        assert gates
        return [Judged(gate=gate, value=factor - 1).passed for gate in gates]

    assert all(verdict(embedding_scale=9.8)) == passes
    assert all(verdict()) == (factor == 1)


def test_a_limit_says_how_it_follows_from_measured_noise(make_trace: TraceMaker) -> None:
    for gate_ in noise_gates(make_trace, "q8"):
        factor = gates_module.FACTORS[gate_.metric]
        noise = gate_.limit / factor
        assert gate_.origin == (
            f"{factor:g} x {noise:.3g}, the noise of q8 measured in "
            "benchmarks/results/gate-noise.md"
        )


def test_other_weights_have_no_default(make_trace: TraceMaker) -> None:
    """Nobody has measured how far two models lie apart, whatever is waived."""
    trace = make_trace()
    for numerics in ("f32", "f64"):
        other = replace(
            trace,
            engine=replace(trace.engine, numerics=numerics),
            model=replace(trace.model, fingerprint="sha256:12ac"),
        )
        assert default_gates(trace, other) == default_gates(other, trace) == ()


def test_coarser_numerics_have_wider_gates(make_trace: TraceMaker) -> None:
    exact, f32, q8 = (
        replace(make_trace(), engine=replace(make_trace().engine, numerics=n))
        for n in ("f64", "f32", "q8")
    )

    fine = {(g.metric, g.sites): g.limit for g in default_gates(exact, f32)}
    coarse = {(g.metric, g.sites): g.limit for g in default_gates(exact, q8)}

    assert fine.keys() == coarse.keys()
    assert all(fine[key] <= coarse[key] for key in fine)
    assert default_gates(q8, exact) == default_gates(exact, q8)


def test_numerics_that_nobody_measured_have_no_default(make_trace: TraceMaker) -> None:
    trace = make_trace()
    unknown = replace(trace, engine=replace(trace.engine, numerics="f16"))

    assert default_gates(trace, unknown) == ()


def test_bf16_is_judged_by_its_own_noise_and_of_our_engine_alone(
    make_trace: TraceMaker,
) -> None:
    """Torch's word is the same, and its arithmetic is another."""
    trace = make_trace()
    theirs = replace(trace, engine=replace(trace.engine, name="transformers", numerics="bf16"))
    limits = {
        numerics: {(g.metric, g.sites): g.limit for g in noise_gates(make_trace, numerics)}
        for numerics in ("f32", "bf16", "q8")
    }

    origins = {g.origin.partition(" measured")[0] for g in noise_gates(make_trace, "bf16")}

    assert {o.rpartition(" of ")[2] for o in origins} == {"bf16"}
    assert limits["bf16"].keys() == limits["f32"].keys()
    assert all(limits["f32"][key] <= limit for key, limit in limits["bf16"].items())
    assert all(limits["bf16"][key] <= limit for key, limit in limits["q8"].items())
    assert default_gates(trace, theirs) == ()


def test_groups_of_64_are_judged_by_their_own_noise_and_of_our_engine_alone(
    make_trace: TraceMaker,
) -> None:
    """What other programs call W8A8 has other groups; and nobody measured it beside a cache."""
    trace = make_trace()
    origins = {g.origin.partition(" measured")[0] for g in noise_gates(make_trace, "w8a8")}

    assert {o.rpartition(" of ")[2] for o in origins} == {"w8a8"}
    assert {(g.metric, g.sites) for g in noise_gates(make_trace, "w8a8")} == {
        (g.metric, g.sites) for g in noise_gates(make_trace, "f32")
    }
    for name, numerics in (("transformers", "w8a8"), ("native", "w8a8-kvf16")):
        other = replace(trace, engine=replace(trace.engine, name=name, numerics=numerics))
        assert default_gates(trace, other) == ()


@pytest.mark.parametrize(
    ("types", "name", "measured"),
    [
        (("F16", "F32"), "w8a8 over floats", "float-noise.md"),
        (("Q4_0", "F32"), "w8a8", "gate-noise.md"),
        ((), "w8a8", "gate-noise.md"),
    ],
)
def test_groups_over_floats_alone_take_the_larger_of_two_noises(
    make_trace: TraceMaker, types: tuple[str, ...], name: str, measured: str
) -> None:
    exact, ours = (
        replace(
            make_trace(numerics=numerics),
            model=replace(make_trace().model, product_types=types),
        )
        for numerics in ("f64", "w8a8")
    )
    gates = {(g.metric, g.sites): g for g in default_gates(exact, ours)}

    assert gates["kl_max", "logits"].origin.endswith(
        f"the noise of {name} measured in benchmarks/results/{measured}"
    )
    assert "the noise of w8a8 measured" in gates["rel_l2_max", "q"].origin


def test_the_noise_of_groups_is_that_of_the_benchmarks() -> None:
    """The second column is the larger of the two that its section has."""
    results = Path(__file__).parents[2] / "benchmarks/results"
    blocks = (results / "gate-noise.md").read_text().partition("\n## w8a8\n")[2]
    blocks = blocks.partition("\n## ")[0]
    floats = (results / "float-noise.md").read_text().partition("\n## native+w8a8\n")[2]
    cells = {
        where: {
            line.split(" | ")[0].strip("| "): re.findall(r"\d\.\d\de[+-]\d\d", line)
            for line in text.splitlines()
        }
        for where, text in (("blocks", blocks), ("floats", floats))
    }

    for slot, noise in group_noise.GROUP_NOISE.items():
        first = [float(cell) for cell in cells["blocks"][slot][:2]]
        f16, bf16 = np.array(cells["floats"][slot], float).reshape(2, 2)
        assert [*first, *np.maximum(f16, bf16)] == pytest.approx(list(noise), rel=5e-3)
    assert f"layer.0.attn_norm {group_noise.GROUP_FIRST_NORM[0]:.2e}" in blocks
    kl, lead = (group_noise.GROUP_LOGITS[metric] for metric in ("kl_max", "top1_flip_margin"))
    assert f"largest KL {kl[0]:.3g} nats" in blocks
    assert f"largest change of a lead {lead[0]:.3g}" in blocks
    assert f"KL at most {kl[1]:.3g} nats; a lead changes by at most {lead[1]:.3g}." in floats


@pytest.mark.parametrize(
    ("types", "name"),
    [(("BF16", "F32"), "q8 over BF16"), (("Q4_0", "F32"), "bf16"), ((), "bf16")],
)
def test_bf16_over_floats_alone_takes_the_larger_of_two_noises(
    make_trace: TraceMaker, types: tuple[str, ...], name: str
) -> None:
    exact, ours = (
        replace(
            make_trace(numerics=numerics),
            model=replace(make_trace().model, product_types=types),
        )
        for numerics in ("f64", "bf16")
    )
    gates = {(g.metric, g.sites): g for g in default_gates(exact, ours)}

    assert f"the noise of {name} measured" in gates["rel_l2_max", "logits"].origin
    assert "the noise of bf16 measured" in gates["rel_l2_median", "logits"].origin


def test_llamacpp_is_judged_by_its_own_noise(make_trace: TraceMaker) -> None:
    """Whatever its numerics; beside q8 by the larger of the two, slot by slot."""
    trace = make_trace()
    theirs = replace(trace, engine=replace(trace.engine, name="llamacpp", numerics="q8-kvf16"))
    ours = replace(trace, engine=replace(trace.engine, numerics="q8"))

    limits = {
        name: {(g.metric, g.sites): g.limit for g in default_gates(trace_, theirs)}
        for name, trace_ in (("exact", replace(ours, engine=trace.engine)), ("q8", ours))
    }
    of_q8 = {(g.metric, g.sites): g.limit for g in noise_gates(make_trace, "q8")}

    assert limits["exact"]["rel_l2_max", "ffn_out"] > of_q8["rel_l2_max", "ffn_out"]
    assert limits["exact"]["rel_l2_max", "q"] < of_q8["rel_l2_max", "q"]
    for key, limit in limits["q8"].items():
        assert limit == max(of_q8[key], limits["exact"].get(key, 0))
    # What it cannot observe has no noise of its own: the other side's is taken.
    assert limits["q8"]["rel_l2_max", "ffn_silu_gate"] == of_q8["rel_l2_max", "ffn_silu_gate"]
    origins = {g.origin.partition(" measured")[0] for g in default_gates(ours, theirs)}
    assert {o.rpartition(" of ")[2] for o in origins} == {"q8", "llama.cpp"}


def test_llamacpp_against_itself_judges_what_it_observes(make_trace: TraceMaker) -> None:
    trace = make_trace()
    sides = (
        replace(trace, engine=replace(trace.engine, name="llamacpp", numerics=numerics))
        for numerics in ("q8", "q8-kvf16")
    )

    gates = default_gates(*sides)

    silent = {n for n in trace.sites if not any(g.applies_to(n) for g in gates)}
    assert silent == {"layer.0.ffn_silu_gate", "layer.1.ffn_silu_gate"}


def test_a_cache_in_float16_has_a_noise_of_its_own(make_trace: TraceMaker) -> None:
    """Against llama.cpp, which stores keys and values so as well, the larger of the two."""
    gates = {(g.metric, g.sites): g for g in noise_gates(make_trace, "q8-kvf16")}
    trace = make_trace()
    ours, theirs = (
        replace(trace, engine=replace(trace.engine, name=name, numerics="q8-kvf16"))
        for name in ("native", "llamacpp")
    )
    exact = replace(trace, engine=replace(trace.engine, name="oracle", numerics="f64"))
    of_llamacpp = {(g.metric, g.sites): g.limit for g in default_gates(exact, theirs)}

    both = {(g.metric, g.sites): g for g in default_gates(theirs, ours)}

    assert {
        g.origin.partition(" measured")[0].rpartition(" of ")[2] for g in gates.values()
    } == {"q8-kvf16"}
    assert both.keys() == gates.keys()
    for key, gate in both.items():
        assert gate.limit == max(gates[key].limit, of_llamacpp.get(key, 0))
    assert [n for n in trace.sites if not any(g.applies_to(n) for g in both.values())] == []


def test_its_noise_over_floats_nobody_measured(make_trace: TraceMaker) -> None:
    trace = over(make_trace, ("F16",))
    exact = replace(trace, engine=replace(trace.engine, name="oracle", numerics="f64"))
    ours = replace(trace, engine=replace(trace.engine, numerics="q8-kvf16"))

    assert default_gates(exact, ours) == ()


# --- q8 over weights in floats ---------------------------------------------------------


def over(make: TraceMaker, labels: tuple[str, ...], engine: str = "native") -> ForwardTrace:
    """A trace in `q8` of a model whose products have weights in these types."""
    trace = make()
    numerics = {"native": "q8", "llamacpp": "q8-kvf16"}[engine]
    return replace(
        trace,
        engine=replace(trace.engine, name=engine, numerics=numerics),
        model=replace(trace.model, product_types=labels),
    )


@pytest.mark.parametrize(
    ("labels", "engine", "noise", "origin"),
    [
        (("F32",), "native", "f32", "gate-noise.md"),
        (("F16", "F32"), "native", "q8 over F16", "float-noise.md"),
        (("BF16", "F16"), "native", "q8 over BF16", "float-noise.md"),
        (("F16", "Q8_0"), "native", "q8", "gate-noise.md"),
        ((), "native", "q8", "gate-noise.md"),
        (("F32",), "llamacpp", "llama.cpp over F16", "float-noise.md"),
        (("F16",), "llamacpp", "llama.cpp over F16", "float-noise.md"),
        (("BF16",), "llamacpp", "llama.cpp over BF16", "float-noise.md"),
        (("Q4_K",), "llamacpp", "llama.cpp", "gate-noise.md"),
    ],
)
def test_the_noise_is_that_of_what_the_products_round_to(
    make_trace: TraceMaker, labels: tuple[str, ...], engine: str, noise: str, origin: str
) -> None:
    trace = over(make_trace, labels, engine)
    exact = replace(trace, engine=replace(trace.engine, name="oracle", numerics="f64"))

    gates = {(g.metric, g.sites): g for g in default_gates(exact, trace)}

    assert gates["rel_l2_median", "ffn_out"].origin.endswith(
        f", the noise of {noise} measured in benchmarks/results/{origin}"
    )
    assert [n for n in trace.sites if not any(g.applies_to(n) for g in gates.values())] == []


def test_another_numerics_has_no_use_for_the_types_of_the_weights(
    make_trace: TraceMaker,
) -> None:
    trace = over(make_trace, ("F16",))
    f32 = replace(trace, engine=replace(trace.engine, numerics="f32"))
    kept = replace(trace, engine=replace(trace.engine, numerics="q8-kvq8"))

    assert f32.products == "f32"
    assert default_gates(replace(f32, host={"machine": "a"}), f32) == noise_gates(
        make_trace, "f32"
    )
    assert default_gates(f32, kept) == ()
