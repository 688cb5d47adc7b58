"""Noise as `apr noise` measures it: against the oracle, the largest over prompts and tokens."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.engines import plugins
from cotejar.engines.native.engine import NativeEngine
from cotejar.engines.oracle import OracleEngine
from cotejar.engines.plugins import Plugin
from cotejar.engines.spec import ENGINES, EngineSpec
from cotejar.errors import (
    EmptyPromptError,
    MissingExtraError,
    NothingMeasuredError,
    NoTokenizerError,
    UnknownEngineError,
    UsageError,
)
from cotejar.model.language_model import open_language_model
from cotejar.parity import noise_measure
from cotejar.parity.noise_measure import CAPTURE, NoiseRequest, every_engine, measure_noise
from cotejar.parity.noise_tally import NoiseTally, change_of_lead
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf
from cotejar.trace.forward_trace import Scope

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cotejar.trace.forward_trace import ForwardTrace

    from .conftest import TraceMaker

ABSENT = EngineSpec(
    name="absent",
    target="nowhere:Engine",
    numerics=("f8",),
    extra="absent",
    packages=("no_such_package",),
)


@pytest.fixture
def our_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours, and one that is not installed: other people's take seconds to load."""
    kept = {name: ENGINES[name] for name in ("native", "oracle")}
    for name in list(ENGINES):
        monkeypatch.delitem(ENGINES, name)
    for name, spec in (kept | {"absent": ABSENT}).items():
        monkeypatch.setitem(ENGINES, name, spec)
    monkeypatch.setattr(noise_measure, "find_plugins", lambda: ())


def rel_l2(exact: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.linalg.norm(other - exact, axis=1) / np.linalg.norm(exact, axis=1)


def test_noise_is_the_largest_distance_from_the_oracle_over_the_prompts(
    tiny_gguf: Path,
) -> None:
    prompts = ("hello", "the end of it")

    profile = measure_noise(
        NoiseRequest(model=str(tiny_gguf), engines=("native+f32",), prompts=prompts)
    )

    model = open_language_model(tiny_gguf)
    lists = [model.tokenizer.encode(prompt) for prompt in prompts]
    pairs = [
        (
            OracleEngine(model).trace(ids, capture=CAPTURE),
            NativeEngine(model, numerics="f32").trace(ids, capture=CAPTURE),
        )
        for ids in lists
    ]
    (side,) = profile.engines
    for site in ("layer.1.ffn_out", "logits"):
        found = [rel_l2(a.arrays[site], b.arrays[site].astype(float)) for a, b in pairs]
        noise = side.sites[site][Scope.ALL]
        assert noise["rel_l2_max"].value == pytest.approx(max(map(np.max, found)), rel=1e-9)
        assert noise["rel_l2_median"].value == pytest.approx(
            max(map(np.median, found)), rel=1e-9
        )
        assert noise["rel_l2_max"].num_tokens == sum(map(len, lists))
    assert list(side.sites) == list(pairs[0][0].sites)
    assert profile.model.fingerprint == model.fingerprint
    assert [p.num_tokens for p in profile.prompts] == [len(ids) for ids in lists]
    assert (
        profile.prompts[0].sha256
        == hashlib.sha256(",".join(map(str, lists[0])).encode()).hexdigest()
    )


def test_what_is_built_in_fits_any_model(tmp_path: Path) -> None:
    """A context of 64 tokens, a vocabulary of 320; without a tokenizer the ids alone."""
    small = write_tiny_gguf(tmp_path / "ids.gguf", TinyDecoder(tokenizer=False))

    profile = measure_noise(NoiseRequest(model=str(small), engines=("native",)))

    assert [p.num_tokens for p in profile.prompts] == [3, 1, 24]
    with pytest.raises(NoTokenizerError):
        measure_noise(NoiseRequest(model=str(small), prompts=("hello",)))


def test_of_all_engines_those_that_cannot_run_are_listed(
    tiny_gguf: Path, our_engines: None
) -> None:
    profile = measure_noise(
        NoiseRequest(model=str(tiny_gguf), engines=("all",), prompts=("hello",))
    )

    numerics = [f"native+{numerics}" for numerics in ENGINES["native"].numerics]
    assert [side.name for side in profile.engines] == numerics
    assert every_engine() == ((*numerics, "absent+f8"), {})
    assert profile.left_out == (
        ("absent+f8", "the engine absent is not installed: no such package in this Python"),
    )


def test_a_plugin_that_is_broken_is_left_out(
    our_engines: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = Plugin(name="bad", target="nowhere:SPEC", distribution="bad 1.0")
    for module in (noise_measure, plugins):
        monkeypatch.setattr(module, "find_plugins", lambda: (plugin,))

    names, broken = every_engine()

    assert "bad" not in {name.partition("+")[0] for name in names}
    assert broken == {
        "bad": "the plugin 'bad' of bad 1.0 cannot be used: ModuleNotFoundError: No module "
        "named 'nowhere'"
    }


def test_an_engine_that_is_named_twice_is_measured_once(tiny_gguf: Path) -> None:
    profile = measure_noise(
        NoiseRequest(
            model=str(tiny_gguf), engines=("native", "native+q8", "native"), prompts=("x",)
        )
    )

    assert [side.name for side in profile.engines] == ["native+q8"]


def test_where_no_engine_runs_nothing_is_measured(
    tiny_gguf: Path, our_engines: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(ENGINES, "native")

    with pytest.raises(NothingMeasuredError) as caught:
        measure_noise(NoiseRequest(model=str(tiny_gguf), engines=("all",), prompts=("hello",)))

    assert str(caught.value) == (
        "error[APR-U009]: no engine could be measured\n"
        "  where     tiny.gguf\n"
        "  expected  at least one engine that runs the model\n"
        "  found     absent+f8: the engine absent is not installed: no such package in this "
        "Python\n"
        "  try       `apr doctor` shows which engines are installed"
    )


def test_an_engine_that_was_named_must_run(tiny_gguf: Path, our_engines: None) -> None:
    with pytest.raises(MissingExtraError):
        measure_noise(NoiseRequest(model=str(tiny_gguf), engines=("absent",)))
    with pytest.raises(UnknownEngineError):
        measure_noise(NoiseRequest(model=str(tiny_gguf), engines=("native+q9",)))
    with pytest.raises(EmptyPromptError):
        measure_noise(NoiseRequest(model=str(tiny_gguf), prompts=("",)))


@pytest.mark.parametrize("engine", ["oracle", "recorded", "demo", "oracle+f64"])
def test_what_is_no_engine_beside_the_oracle_has_no_noise(tiny_gguf: Path, engine: str) -> None:
    with pytest.raises(UsageError) as caught:
        measure_noise(NoiseRequest(model=str(tiny_gguf), engines=(engine,)))

    assert str(caught.value) == (
        f"error[APR-U001]: '{engine}' has no noise to measure\n"
        f"  where     --engines {engine}\n"
        "  expected  ENGINE[+numerics], for example native+q8 or llamacpp\n"
        f"  found     {engine}\n"
        "  try       every noise is a distance from the oracle; `apr doctor` lists the engines"
    )


def test_all_engines_stand_alone(tiny_gguf: Path) -> None:
    with pytest.raises(UsageError) as caught:
        measure_noise(NoiseRequest(model=str(tiny_gguf), engines=("native", "all")))

    assert str(caught.value) == (
        "error[APR-U001]: all engines are named, and others beside them\n"
        "  where     --engines\n"
        "  expected  all alone, or names\n"
        "  found     all and others\n"
        "  try       every numerics of every engine that is installed is in it"
    )


# --- one pair of traces after another ------------------------------------------------------


def tally(*pairs: Sequence[ForwardTrace]) -> NoiseTally:
    found = NoiseTally()
    for reference, candidate in pairs:
        found.add(reference, candidate)
    return found


def test_the_larger_of_two_prompts_counts(make_trace: TraceMaker) -> None:
    values = make_trace.values()
    near = make_trace({n: v * (1 + 1e-3) for n, v in values.items()})
    far = make_trace({n: v * (1 + 5e-3) for n, v in values.items()})
    exact = make_trace(values)

    for pairs in (((exact, near), (exact, far)), ((exact, far), (exact, near))):
        found = tally(*pairs)
        noise = found.sites["layer.0.q"][Scope.ALL]
        assert noise["rel_l2_max"].value == pytest.approx(5e-3, rel=1e-9)
        assert noise["std_ratio"].value == pytest.approx(1 + 5e-3, rel=1e-9)
        assert noise["rel_l2_max"].num_tokens == found.num_tokens == 6


def test_any_token_may_be_the_last(make_trace: TraceMaker) -> None:
    """Its own ratio and its own distance count in scope `last`, wherever it stands."""
    values = make_trace.values()
    moved = {n: v.copy() for n, v in values.items()}
    moved["layer.0.q"][1] *= 1.25

    noise = tally((make_trace(values), make_trace(moved))).sites["layer.0.q"]

    assert noise[Scope.LAST]["std_ratio"].value == pytest.approx(1.25, rel=1e-12)
    assert noise[Scope.LAST]["rel_l2_max"].value == pytest.approx(0.25, rel=1e-12)
    assert 1 < noise[Scope.ALL]["std_ratio"].value < 1.25
    assert "rel_l2_median" not in noise[Scope.LAST]


def test_a_lead_changes_without_a_choice_that_falls_the_other_way() -> None:
    exact = np.array([[1.0, 5.0, 3.0], [7.0, 0.0, 6.5]])
    other = np.array([[1.5, 5.0, 3.25], [7.0, 0.0, 6.25]])

    assert change_of_lead(exact, other) == 0.25
    assert change_of_lead(exact[:, :1], other[:, :1]) == 0


def test_a_lead_over_a_third_token_that_is_lost_counts_too(make_trace: TraceMaker) -> None:
    """The first two keep their distance; a third overtakes both."""
    values = make_trace.values(tokens=1) | {"logits": np.array([[5.0, 4.5, 1.0] + [0.0] * 6])}
    moved = values | {"logits": np.array([[5.0, 4.5, 9.0] + [0.0] * 6])}

    noise = tally((make_trace(values), make_trace(moved))).sites["logits"][Scope.ALL]

    assert noise["top1_flip_margin"].value == 0.5


def test_against_a_token_of_zeros_there_is_no_noise_to_judge_by(make_trace: TraceMaker) -> None:
    values = make_trace.values() | {"layer.0.q": np.zeros((3, 6))}
    moved = values | {"layer.0.q": np.arange(18.0).reshape(3, 6)}

    noise = tally((make_trace(values), make_trace(moved))).sites["layer.0.q"]

    assert noise == {Scope.ALL: {}, Scope.LAST: {}}


def test_distances_that_overflow_are_no_noise_to_judge_by(make_trace: TraceMaker) -> None:
    """1e200 is finite and its square is not: the distance is NaN, and must not count as 0."""
    values = make_trace.values() | {"layer.0.q": np.full((3, 6), 1e200)}
    moved = values | {"layer.0.q": np.full((3, 6), -1e200)}

    noise = tally((make_trace(values), make_trace(moved))).sites["layer.0.q"]

    assert not noise[Scope.ALL].keys() & {"rel_l2_max", "rel_l2_median"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_is_no_noise(
    make_trace: TraceMaker, value: float, side: int
) -> None:
    pair = [make_trace(), make_trace()]
    pair[side] = make_trace.with_element("layer.1.k", 2, 3, value)

    with pytest.raises(NothingMeasuredError) as caught:
        tally(pair)

    assert str(caught.value) == (
        "error[APR-U009]: the noise of an engine cannot be measured\n"
        "  where     native+f32\n"
        "  expected  finite values\n"
        "  found     NaN or infinity at layer.1.k\n"
        "  try       look at a trace of it: apr trace native+f32:MODEL --payload"
    )


def test_no_elements_and_other_shapes_are_no_noise(make_trace: TraceMaker) -> None:
    trace = make_trace()
    shorter = make_trace(make_trace.values(tokens=2))

    for other in (replace(trace, arrays={}), shorter):
        with pytest.raises(NothingMeasuredError):
            tally((trace, other))
