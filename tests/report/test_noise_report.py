"""A noise profile and the arbiter's ruling for people, whole."""

from __future__ import annotations

from click import unstyle

from cotejar.parity.arbiter import Arbitration, Exactness, SiteArbitration
from cotejar.parity.noise import EngineNoise, MeasuredPrompt, Noise, NoiseProfile
from cotejar.report.arbiter import arbiter_lines
from cotejar.report.noise import noise_lines
from cotejar.trace.forward_trace import EngineInfo, ModelInfo, Scope
from cotejar.verdict import Verdict

ORACLE = EngineInfo(name="oracle", build="cotejar 0.1.0", numerics="f64")


def noises(**values: float) -> dict[Scope, dict[str, Noise]]:
    return {Scope.ALL: {m: Noise(value=v, num_tokens=9) for m, v in values.items()}}


def engine(name: str, **sites: dict[Scope, dict[str, Noise]]) -> EngineNoise:
    info = EngineInfo(name=name, build="1", numerics="q8")
    return EngineNoise(engine=info, sites={k.replace("__", "."): v for k, v in sites.items()})


def test_each_slots_worst_layer_is_shown_beside_what_is_left_out() -> None:
    profile = NoiseProfile(
        name="",
        model=ModelInfo(
            name="m\x1b.gguf", format="gguf", architecture="llama", fingerprint="sha256:12ab"
        ),
        exact=ORACLE,
        engines=(
            engine(
                "native",
                layer__0__q=noises(rel_l2_max=0.25, rel_l2_median=0.125),
                layer__1__q=noises(rel_l2_max=0.5, rel_l2_median=0.0625),
                layer__1__ffn_silu_gate=noises(rel_l2_max=0.5),
                logits=noises(rel_l2_max=1, rel_l2_median=1, kl_max=0.5, top1_flip_margin=2),
            ),
            engine("llamacpp", layer__0__q=noises(rel_l2_max=1.0, rel_l2_median=0.0)),
        ),
        prompts=(MeasuredPrompt(sha256="0" * 64, num_tokens=9),),
        left_out=(("transformers+f32", "it is not installed: no\x1b such package"),),
        host={},
        date="2026-11-26",
    )

    assert [unstyle(line) for line in noise_lines(profile)] == [
        "m\\x1b.gguf  sha256:12ab  1 prompt, 9 tokens",
        "",
        "relative L2 to the float64 oracle: worst token, median token; worst layer",
        "  slot                    native+q8         llamacpp+q8",
        "  q              5.00e-01, 1.25e-01  1.00e+00, 0.00e+00",
        "  ffn_silu_gate         5.00e-01, -                -, -",
        "  logits         1.00e+00, 1.00e+00                -, -",
        "",
        "native+q8  KL 5.00e-01 nats, a lead changes by 2.00e+00 logits, at most",
        "  left out: transformers+f32: it is not installed: no\\x1b such package",
    ]


def side(verdict: Verdict | None, severity: float, rel_l2: float | None = 0.5) -> Exactness:
    limit = None if verdict is None else 0.25
    return Exactness(rel_l2=rel_l2, limit=limit, severity=severity, verdict=verdict)


def ruling(
    reference: Exactness, candidate: Exactness, pair: Verdict | None = Verdict.FAIL
) -> str:
    site = SiteArbitration(
        site="layer.1.q", scope=Scope.ALL, pair=pair, reference=reference, candidate=candidate
    )
    found = Arbitration(engine=ORACLE, model="m\x1b.gguf", sites=(site,))
    lines = list(arbiter_lines(found, None, every_site=False))
    assert lines[0] == "arbiter    oracle+f64 on the weights of m\\x1b.gguf"
    return lines[1].partition(";")[0]


def test_a_ruling_says_why_it_is_one_or_none() -> None:
    within, beyond = side(Verdict.PASS, 0.5), side(Verdict.FAIL, 2.0)

    assert ruling(beyond, within) == "  overall: the reference, up to 2 x its limit"
    assert ruling(within, side(Verdict.FAIL, 3.0)) == (
        "  overall: the candidate, up to 3 x its limit"
    )
    assert ruling(beyond, within, Verdict.PASS) == (
        "  overall: undecided, the two are within noise of each other"
    )
    assert ruling(within, within) == (
        "  overall: undecided, both sides are as near to exact as their arithmetic explains"
    )
    assert ruling(beyond, beyond) == (
        "  overall: undecided, both sides are beyond what their arithmetic explains"
    )
    assert ruling(beyond, side(None, 0.0)) == (
        "  overall: undecided, nobody has measured the noise of the candidate "
        "(`apr noise` does)"
    )
