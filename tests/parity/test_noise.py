"""Gates from a noise profile: of which pair, how wide, and what they see."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cotejar.parity.compare import Plan, compare_traces
from cotejar.parity.gates import FACTORS
from cotejar.parity.metrics import measure_logits
from cotejar.parity.noise import (
    NOISE_METRICS,
    EngineNoise,
    MeasuredPrompt,
    Noise,
    NoiseProfile,
    SiteNoise,
)
from cotejar.parity.report import ParityReport
from cotejar.trace.forward_trace import EngineInfo, ForwardTrace, Scope
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from .conftest import TraceMaker

TOKENS = 50
LOOSE = 1e9
"""A noise that lets everything pass."""


def site_noise(noises: dict[str, float], num_tokens: int = TOKENS) -> SiteNoise:
    metrics = {m: Noise(value=v, num_tokens=num_tokens) for m, v in noises.items()}
    return {Scope.ALL: metrics, Scope.LAST: metrics}


def make_profile(
    trace: ForwardTrace, noises: dict[str, dict[str, float]], num_tokens: int = TOKENS
) -> NoiseProfile:
    """Of each numerics of `native`, the same noise at every site."""
    return NoiseProfile(
        name="tiny.noise.json",
        model=trace.model,
        exact=EngineInfo(name="oracle", build="cotejar 0.1.0", numerics="f64"),
        engines=tuple(
            EngineNoise(
                engine=EngineInfo(name="native", build="cotejar 0.1.0", numerics=numerics),
                sites={name: site_noise(found, num_tokens) for name in trace.sites},
            )
            for numerics, found in noises.items()
        ),
        prompts=(MeasuredPrompt(sha256="0" * 64, num_tokens=TOKENS),),
        host={},
        date="2026-11-26T00:00:00+00:00",
    )


def as_engine(trace: ForwardTrace, name: str, numerics: str) -> ForwardTrace:
    return replace(
        trace, engine=EngineInfo(name=name, build="cotejar 0.1.0", numerics=numerics)
    )


def exact_and_moved(make_trace: TraceMaker) -> tuple[ForwardTrace, ForwardTrace]:
    """The oracle's trace, and one in f32 in which every site is somewhat off."""
    values = make_trace.values()
    rng = np.random.default_rng(5)
    moved = {n: v * (1 + 0.3 * rng.random(v.shape)) for n, v in values.items()}
    moved["logits"] = -values["logits"]  # so that every choice falls the other way
    return as_engine(make_trace(values), "oracle", "f64"), make_trace(moved)


@pytest.mark.parametrize("metric", NOISE_METRICS)
def test_a_fault_beyond_factor_times_noise_fails_and_one_within_passes(
    make_trace: TraceMaker, metric: str
) -> None:
    """At one site, all other noises so large that this gate alone decides."""
    exact, moved = exact_and_moved(make_trace)
    loose = dict.fromkeys(NOISE_METRICS, LOOSE)
    site = "logits" if metric in {"kl_max", "top1_flip_margin"} else "layer.1.ffn_out"
    judged = [
        j
        for s in compare_traces(
            exact, moved, Plan(noise=make_profile(exact, {"f32": loose}))
        ).sites
        for j in s.judged
        if s.site == site and j.gate.metric == metric
    ]
    value = max(j.value for j in judged)
    assert value > 0

    def judge(limit: float) -> ParityReport:
        is_power = metric == "std_ratio"
        noise = limit ** (1 / FACTORS[metric]) if is_power else limit / FACTORS[metric]
        profile = make_profile(exact, {"f32": loose})
        sites = dict(profile.engines[0].sites) | {site: site_noise(loose | {metric: noise})}
        profile = replace(profile, engines=(replace(profile.engines[0], sites=sites),))
        return ParityReport(comparisons=(compare_traces(exact, moved, Plan(noise=profile)),))

    beyond, within = judge(value * (1 - 1e-9)), judge(value * (1 + 1e-9))
    assert (beyond.verdict, within.verdict) == (Verdict.FAIL, Verdict.PASS)
    assert beyond.first_divergence is not None
    assert beyond.first_divergence.site == site
    assert [j.gate.metric for j in beyond.first_divergence.judged if not j.passed] == [metric]


def test_the_larger_noise_of_the_scopes_counts(make_trace: TraceMaker) -> None:
    """A text that repeats one token has that token's error, whatever others average to."""
    trace = make_trace()
    exact = as_engine(trace, "oracle", "f64")
    profile = make_profile(trace, {"f32": dict.fromkeys(NOISE_METRICS, 1.0)})
    wider = site_noise({"std_ratio": 1.25})[Scope.LAST]
    for scopes in ((Scope.ALL, Scope.LAST), (Scope.LAST, Scope.ALL)):
        noises = {scopes[0]: wider, scopes[1]: site_noise({"std_ratio": 1.125})[Scope.ALL]}
        profile = replace(
            profile, engines=(replace(profile.engines[0], sites={"layer.0.q": noises}),)
        )
        assert [g.limit for g in profile.gates(exact, trace)] == [1.25**3]


@pytest.mark.parametrize(("tokens", "judged"), [(1, False), (2, False), (3, True)])
def test_of_one_or_two_tokens_no_median_is_judged(
    make_trace: TraceMaker, tokens: int, *, judged: bool
) -> None:
    trace = make_trace(make_trace.values(tokens=tokens))
    profile = make_profile(trace, {"f32": dict.fromkeys(NOISE_METRICS, 1.0)})

    gates = profile.gates(as_engine(trace, "oracle", "f64"), trace)

    assert ("rel_l2_median" in {gate.metric for gate in gates}) is judged
    assert "rel_l2_max" in {gate.metric for gate in gates}


def test_an_origin_names_profile_engine_factor_and_tokens(make_trace: TraceMaker) -> None:
    trace = make_trace()
    noises = dict.fromkeys(NOISE_METRICS, 0.01) | {"std_ratio": 1.5}
    gates = make_profile(trace, {"f32": noises}).gates(as_engine(trace, "oracle", "f64"), trace)

    origins = {g.metric: (g.limit, g.origin) for g in gates if g.sites == "logits"}

    where = "the noise of native+f32 over 50 tokens in tiny.noise.json"
    assert origins == {
        "rel_l2_max": (3 * 0.01, f"3 x 0.01, {where}"),
        "rel_l2_median": (1.5 * 0.01, f"1.5 x 0.01, {where}"),
        "std_ratio": (1.5**3, f"1.5 to the power of 3, {where}"),
        "kl_max": (2 * 0.01, f"2 x 0.01, {where}"),
        "top1_flip_margin": (2 * 0.01, f"2 x 0.01, {where}"),
    }


def test_of_two_noisy_sides_the_noises_add(make_trace: TraceMaker) -> None:
    """Spreads multiply; of KL, half a squared norm, the square roots add."""
    trace = make_trace()
    profile = make_profile(
        trace,
        {
            "f32": dict.fromkeys(NOISE_METRICS, 0.01) | {"std_ratio": 1.5},
            "q8": dict.fromkeys(NOISE_METRICS, 0.04) | {"std_ratio": 2.0},
        },
    )
    sides = as_engine(trace, "native", "q8"), as_engine(trace, "native", "f32")

    gates = {g.metric: g for g in profile.gates(*sides) if g.sites == "logits"}

    assert gates["rel_l2_max"].limit == pytest.approx(3 * 0.05, rel=1e-15)
    assert gates["rel_l2_max"].origin == (
        "3 x 0.05, the noises 0.04 of native+q8 and 0.01 of native+f32, added "
        "over 50 tokens in tiny.noise.json"
    )
    assert gates["kl_max"].limit == pytest.approx(2 * (0.1 + 0.2) ** 2, rel=1e-15)
    assert gates["std_ratio"].limit == pytest.approx((1.5 * 2.0) ** 3, rel=1e-15)
    assert gates["kl_max"].limit == profile.gates(*sides[::-1])[-2].limit


@given(hnp.arrays(np.float64, (3, 5), elements=st.floats(-3, 3)), st.floats(0, 0.03))
def test_square_roots_of_small_kl_obey_the_triangle(rows: np.ndarray, size: float) -> None:
    """What the rule for two noisy sides rests on, at logits that differ by up to 0.09.

    KL = |d|^2 / 2 in Fisher's metric to the third order in d; that metric changes by a
    factor of at most exp(2 |d|) along the way, and 1e-15 is the rounding of a KL near 0.
    """
    exact, reference, candidate = (
        rows[:1],
        rows[:1] + size * rows[1:2],
        rows[:1] - size * rows[2:],
    )

    kl = [
        float(measure_logits(a, b).kl[0])
        for a, b in ((reference, candidate), (exact, reference), (exact, candidate))
    ]

    bound = (math.sqrt(kl[1]) + math.sqrt(kl[2])) ** 2
    assert kl[0] <= bound * math.exp(2 * 0.18) + 1e-15


def test_the_oracle_has_no_noise_and_against_itself_no_gate(make_trace: TraceMaker) -> None:
    trace = as_engine(make_trace(), "oracle", "f64")
    profile = make_profile(trace, {"f32": dict.fromkeys(NOISE_METRICS, 0.01)})

    assert profile.refusal(trace, trace) == (
        "both sides are the oracle, from which every noise is measured"
    )
    assert profile.gates(trace, trace) == ()


def test_a_site_without_noise_is_not_judged_and_listed(make_trace: TraceMaker) -> None:
    exact, moved = exact_and_moved(make_trace)
    profile = make_profile(exact, {"f32": dict.fromkeys(NOISE_METRICS, LOOSE)})
    sites = {n: s for n, s in profile.engines[0].sites.items() if not n.endswith("silu_gate")}
    profile = replace(profile, engines=(replace(profile.engines[0], sites=sites),))

    report = ParityReport(
        comparisons=(compare_traces(exact, moved, Plan(noise=profile)),), noise=profile
    )

    missing = ["layer.0.ffn_silu_gate", "layer.1.ffn_silu_gate"]
    assert report.verdict is Verdict.PASS
    assert report.not_judged == report.as_json()["not_judged"] == missing


def test_noise_that_is_the_measures_own_rounding_is_no_limit(make_trace: TraceMaker) -> None:
    """Two sums of the same numbers may round apart; the elements are judged exactly."""
    trace = make_trace()
    noises = dict.fromkeys(NOISE_METRICS, 0.0) | {"std_ratio": 1 + 2**-52}
    gates = make_profile(trace, {"f32": noises}).gates(as_engine(trace, "oracle", "f64"), trace)

    assert {g.metric: g.limit for g in gates if g.sites == "logits"} == {
        "rel_l2_max": 0,
        "rel_l2_median": 0,
        "top1_flip_margin": 0,
    }


def test_a_profile_of_nothing_passes_nothing(make_trace: TraceMaker) -> None:
    trace = make_trace()
    loose = dict.fromkeys(NOISE_METRICS, LOOSE)
    exact = as_engine(trace, "oracle", "f64")

    for profile in (
        make_profile(trace, {"f32": loose}, num_tokens=0),
        make_profile(trace, {"f32": {}}),
        make_profile(trace, {"q8": loose}),
        make_profile(trace, {}),
    ):
        assert profile.gates(exact, trace) == ()
        comparison = compare_traces(exact, trace, Plan(noise=profile))
        assert comparison.verdict is Verdict.INCOMPARABLE


@pytest.mark.parametrize(
    ("name", "numerics", "fingerprint", "message"),
    [
        (
            "native",
            "q8",
            "sha256:12ab",
            "the noise profile tiny.noise.json holds native+f32, not native+q8",
        ),
        (
            "llamacpp",
            "f32",
            "sha256:12ab",
            "the noise profile tiny.noise.json holds native+f32, not llamacpp+f32",
        ),
        (
            "oracle",
            "f32",
            "sha256:12ab",
            "the noise profile tiny.noise.json holds native+f32, not oracle+f32",
        ),
        (
            "native",
            "f32",
            "sha256:77ff",
            "the noise profile tiny.noise.json is of tiny.gguf (sha256:12ab), "
            "not of tiny.gguf (sha256:77ff)",
        ),
        (
            "native",
            "f32",
            "",
            "the noise profile tiny.noise.json is of tiny.gguf (sha256:12ab), "
            "not of tiny.gguf (unknown weights)",
        ),
    ],
)
def test_another_model_or_engine_has_no_gate_and_says_why(
    make_trace: TraceMaker, name: str, numerics: str, fingerprint: str, message: str
) -> None:
    trace = make_trace()
    profile = make_profile(trace, {"f32": dict.fromkeys(NOISE_METRICS, LOOSE)})
    other = as_engine(trace, name, numerics)
    other = replace(other, model=replace(trace.model, fingerprint=fingerprint))
    exact = as_engine(trace, "oracle", "f64")

    for pair in ((exact, other), (other, trace)):
        assert profile.refusal(*pair) == message
        assert profile.gates(*pair) == ()
        plan = Plan(noise=profile, waived=frozenset({"weights-fingerprint"}))
        report = ParityReport(comparisons=(compare_traces(*pair, plan),), noise=profile)
        assert (report.verdict, report.no_gates) == (Verdict.INCOMPARABLE, message)


def test_another_build_of_an_engine_is_named(make_trace: TraceMaker) -> None:
    trace = make_trace()
    profile = make_profile(trace, {"f32": dict.fromkeys(NOISE_METRICS, LOOSE)})
    newer = replace(trace, engine=replace(trace.engine, build="cotejar 0.2.0"))

    assert profile.other_builds([trace]) == []
    assert profile.other_builds([newer]) == [("native+f32", "cotejar 0.1.0", "cotejar 0.2.0")]
