"""A healthy operation has no local error; the smallest wrong one has, and it alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotejar.diagnosis import replay
from cotejar.diagnosis.arithmetic import F32, Q8
from cotejar.diagnosis.limits import product_limit
from cotejar.diagnosis.replay import Replayed, replay_sides
from cotejar.engines.native.forward import Pass

from .conftest import DECODERS, observe, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float32

    from cotejar.diagnosis.replay import LocalError

    from .conftest import Models

CACHES = [
    ("llama", "q8-kvf16"),
    ("mistral", "f32-kvf16"),
    ("qwen2", "q8-kvq8"),
    ("llama", "f32-kvq8"),
]


def errors_of(models: Models, name: str, numerics: str, **settings: object) -> list[LocalError]:
    model = models(name)
    trace = run(model, numerics, **settings)  # type: ignore[arg-type]
    return replay_sides([observe(trace, model)])


@pytest.mark.parametrize("numerics", ["f64", "f32", "q8"])
@pytest.mark.parametrize("name", DECODERS)
def test_a_healthy_run_has_no_local_error(models: Models, name: str, numerics: str) -> None:
    errors = errors_of(models, name, numerics)

    # qkv is q, k and v again, which have operations of their own.
    recorded = {site for site in run(models(name), numerics).sites if "qkv" not in site}
    assert {error.site for error in errors} == recorded
    assert [error.site for error in errors if not error.explained] == []


@pytest.mark.parametrize(("name", "numerics"), CACHES)
def test_a_declared_rounding_of_the_cache_is_explained(
    models: Models, name: str, numerics: str
) -> None:
    errors = errors_of(models, name, numerics)

    assert [error.site for error in errors if not error.explained] == []
    attention = [error for error in errors if error.site.endswith("attn_context")]
    # It is the rounding that explains it: without, float16 keys are 2**-11 off.
    assert min(float(e.exact.max()) for e in attention) > 100 * max(e.rel_l2 for e in attention)


def shifted(values: np.ndarray, by: float) -> np.ndarray:
    """One token off by `by` of its own size, in a direction of its own."""
    changed = values.copy()
    row = changed[-1].reshape(-1)
    row[::2] += np.float32(by * np.sqrt(2) * np.linalg.norm(row) / np.sqrt(row.size))
    return changed


def off_by(slot: str, by: float) -> type[Pass]:
    """A pass whose operation at `slot` of layer 1 (or of none) is off at the last token."""

    class Off(Pass):
        def embed(self, token_ids: list[int]) -> np.ndarray:
            values = super().embed(token_ids)
            return shifted(values, by) if slot == "embed" else values

        def norm(self, layer: int | None, part: str, values: np.ndarray) -> np.ndarray:
            normed = super().norm(layer, part, values)
            return shifted(normed, by) if (layer, part) in {(1, slot), (None, slot)} else normed

        def linear(self, layer: int, part: str, inputs_TC: np.ndarray) -> np.ndarray:
            values = super().linear(layer, part, inputs_TC)
            return shifted(values, by) if (layer, part) == (1, slot) else values

        def rotate(self, layer: int, values_THE: np.ndarray, *, which: str) -> np.ndarray:
            values = super().rotate(layer, values_THE, which=which)  # type: ignore[arg-type]
            return shifted(values, by) if (layer, f"{which}_rope") == (1, slot) else values

        def attend(self, layer: int, *arrays: np.ndarray) -> np.ndarray:
            values = super().attend(layer, *arrays)
            return shifted(values, by) if (layer, slot) == (1, "attn_context") else values

        def activate(self, layer: int, gate_TF: np.ndarray) -> np.ndarray:
            values = super().activate(layer, gate_TF)
            return shifted(values, by) if (layer, slot) == (1, "ffn_silu_gate") else values

        def gate_product(self, layer: int, *arrays: np.ndarray) -> np.ndarray:
            values = super().gate_product(layer, *arrays)
            return shifted(values, by) if (layer, slot) == (1, "ffn_swiglu_inner") else values

        def add_residual(self, layer: int, which: str, *arrays: np.ndarray) -> np.ndarray:
            values = super().add_residual(layer, which, *arrays)  # type: ignore[arg-type]
            site = {"attn": "attn_residual", "ffn": "output"}[which]
            return shifted(values, by) if (layer, slot) == (1, site) else values

        def head(self, hidden_TD: np.ndarray) -> np.ndarray:
            values = super().head(hidden_TD)
            return shifted(values, by) if slot == "logits" else values

    return Off


SMALLEST = {
    "embed": 1e-6,
    "attn_norm": 5e-6,
    "q": 3e-5,
    "k": 3e-5,
    "v": 3e-5,
    "q_rope": 1e-5,
    "k_rope": 1e-5,
    "attn_context": 3e-5,
    "attn_out": 3e-5,
    "attn_residual": 1e-6,
    "ffn_norm": 5e-6,
    "ffn_gate": 3e-5,
    "ffn_up": 3e-5,
    "ffn_silu_gate": 2e-6,
    "ffn_swiglu_inner": 1e-6,
    "ffn_out": 3e-5,
    "output": 1e-6,
    "final_norm": 5e-6,
    "logits": 3e-5,
}
"""Relative size of a defect of one token that every kind of operation promises to show: some
4 of its limits, which are a few roundings of float32, or sqrt(n) of them for a sum."""


@pytest.mark.parametrize("numerics", ["f32", "q8"])
@pytest.mark.parametrize("slot", SMALLEST)
def test_the_smallest_defect_is_seen_where_it_is_and_nowhere_else(
    models: Models, slot: str, numerics: str
) -> None:
    forward = off_by(slot, SMALLEST[slot])

    errors = errors_of(models, "llama", numerics, forward=forward)

    outside = slot in {"embed", "final_norm", "logits"}
    site = slot if outside else f"layer.1.{slot}"
    wrong = [(error.site, error.worst_token) for error in errors if not error.explained]
    assert wrong == [(site, 11)]


def test_an_input_that_was_not_recorded_is_derived(models: Models) -> None:
    model = models("llama")
    trace = run(model, "f32")
    arrays = {n: a for n, a in trace.arrays.items() if not n.endswith("ffn_silu_gate")}

    errors = replay_sides([observe(replace(trace, arrays=arrays), model)])

    derived = {error.site: error.derived for error in errors if error.derived}
    assert derived == {
        f"layer.{n}.ffn_swiglu_inner": (f"layer.{n}.ffn_silu_gate",) for n in range(2)
    }
    assert all(error.explained for error in errors)


def test_no_input_is_derived_from_another_layer(models: Models) -> None:
    model = models("llama")
    trace = run(model, "f32")
    arrays = {n: a for n, a in trace.arrays.items() if n != "layer.0.output"}

    errors = replay_sides([observe(replace(trace, arrays=arrays), model)])

    sites = {error.site for error in errors}
    assert {"layer.1.attn_norm", "layer.1.attn_residual"} & sites == set()
    assert {"layer.1.q", "layer.1.output"} <= sites


def test_q_k_and_v_come_out_of_qkv(models: Models) -> None:
    model = models("llama")
    trace = run(model, "q8")
    apart = {f"layer.{n}.{slot}" for n in range(2) for slot in "qkv"}
    arrays = {n: a for n, a in trace.arrays.items() if n not in apart}

    errors = replay_sides([observe(replace(trace, arrays=arrays), model)])

    assert apart <= {error.site for error in errors}
    assert all(error.explained and not error.derived for error in errors)


def test_layers_can_be_chosen(models: Models) -> None:
    model = models("llama")

    errors = replay_sides([observe(run(model, "f32"), model)], layers=frozenset({1}))

    layers = {error.site.split(".")[1] for error in errors if "." in error.site}
    assert layers == {"1"}


@pytest.mark.parametrize("jobs", [1, 4])
def test_threads_change_no_figure(models: Models, jobs: int) -> None:
    model = models("qwen2")
    side = observe(run(model, "q8"), model)

    alone, together = replay_sides([side]), replay_sides([side], jobs=jobs)

    assert [e.site for e in alone] == [e.site for e in together]
    assert all(np.array_equal(a.left, b.left) for a, b in zip(alone, together, strict=True))


@given(st.integers(0, 2**32 - 1), st.sampled_from([32, 300, 2000]))
@settings(max_examples=30, deadline=None)
def test_a_float32_sum_stays_within_its_limit(seed: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((40, columns)).astype(np.float32)
    x = (rng.standard_normal((3, columns)) * rng.exponential(3, columns)).astype(np.float32)
    right = x.astype(np.float64) @ weight.T.astype(np.float64)
    summed = np.zeros((3, 40), np.float32)
    for column in range(columns):  # one after another: the order that errs most
        summed += x[:, column, None] * weight[:, column]

    spread = np.sqrt((x.astype(np.float64) ** 2) @ (weight.astype(np.float64) ** 2).sum(axis=0))
    limit = product_limit(
        F32, columns=columns, output_T=np.linalg.norm(right, axis=1), spread_T=spread
    )

    off = np.linalg.norm(summed - right, axis=1) / np.linalg.norm(right, axis=1)
    assert (off <= limit).all()


def counting_products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sides each product is replayed for."""
    sides: list[int] = []
    real = replay._measure_products

    def counting(jobs: Sequence[object]) -> list[LocalError]:
        sides.append(len(jobs))
        return real(jobs)  # type: ignore[arg-type]  # handed on

    monkeypatch.setattr(replay, "_measure_products", counting)
    return sides


def same_figures(a: LocalError, b: LocalError) -> bool:
    """But for float64's order of sums, which depends on how many tokens are multiplied at once.

    What float32 leaves is 2**-24 of the output or more, and those roundings 2**-53 of it each.
    """
    pairs = ((a.exact, b.exact), (a.left, b.left), (a.limits, b.limits))
    close = all(np.allclose(*pair, rtol=2.0**-20, atol=0) for pair in pairs)
    return (a.site, a.side) == (b.site, b.side) and close


class WrongUp(Pass):
    """In layer 1, one value of one token is off by one bit of float32."""

    def linear(
        self, layer: int, part: str, inputs_TC: Float32[np.ndarray, "T C"]
    ) -> Float32[np.ndarray, "T R"]:
        outputs_TR = super().linear(layer, part, inputs_TC)
        if (layer, part) == (1, "ffn_up"):
            outputs_TR[5, 3] = np.nextafter(outputs_TR[5, 3], np.float32(np.inf))
        return outputs_TR


def test_what_both_recorded_to_the_bit_is_replayed_once(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models("llama")
    truth = observe(run(model, "f32"), model).truth
    sides = [
        replace(observe(run(model, "f32", forward), model, side), truth=truth)
        for side, forward in (("reference", Pass), ("candidate", WrongUp))
    ]
    alone = [e for side in sides for e in replay_sides([side])]
    replayed = counting_products(monkeypatch)

    together = replay_sides(sides)

    # Seven products a layer: those before ffn_up of layer 1 once; it, what follows and the
    # head for each.
    assert replayed == [1] * 7 + [1] * 5 + [2] * 3
    by_place = {(e.site, e.side): e for e in alone}
    assert len(by_place) == len(together)
    assert all(same_figures(e, by_place[e.site, e.side]) for e in together)


def test_sides_that_compute_in_another_way_are_each_replayed(models: Models) -> None:
    model = models("llama")
    trace = run(model, "f32")
    side = observe(trace, model, "reference")
    other = replace(side, side="candidate", arithmetic=Q8)

    errors = replay_sides([side, other])

    left = {(e.site, e.side): e.explained for e in errors}
    assert left["layer.0.q", "reference"]
    assert not left["layer.0.q", "candidate"]


def test_what_was_replayed_before_is_not_replayed_again(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models("llama")
    sound, wrong = (observe(run(model, "f32", f), model) for f in (Pass, WrongUp))
    wrong = replace(wrong, truth=sound.truth)
    known = Replayed(observed=sound, errors={e.site: e for e in replay_sides([sound])})
    right = replay_sides([wrong])
    replayed = counting_products(monkeypatch)

    found = replay_sides([wrong], known=[known])

    assert replayed == [1] * 3
    assert all(same_figures(a, b) for a, b in zip(right, found, strict=True))


@pytest.mark.parametrize("change", ["arithmetic", "tokens", "weights"])
def test_what_was_replayed_of_another_run_is_not_taken(
    models: Models, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models("llama")
    side = observe(run(model, "f32"), model)
    other = side
    if change == "arithmetic":
        other = replace(side, arithmetic=Q8)
    elif change == "tokens":
        trace = replace(side.trace, token_ids=side.trace.token_ids[::-1])
        other = replace(side, trace=trace)
    else:
        weights = side.truth.weights.replaced({})
        other = replace(side, truth=replace(side.truth, weights=weights))
    known = Replayed(observed=side, errors={e.site: e for e in replay_sides([side])})
    replayed = counting_products(monkeypatch)

    replay_sides([other], known=[known])

    assert len(replayed) == 15
