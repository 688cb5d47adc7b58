"""Ways to be wrong, put in here by hand, are named; what is none of them is not.

The wrong passes are written for these tests alone and share no code with the search.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis.search import Found, find_causes
from cotejar.engines.native.forward import Pass
from cotejar.model.language_model import open_language_model
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf
from cotejar.trace.site import CONTRACT_SLOTS, parse_site

from .conftest import first_wrong_case, observe, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Models

F = np.float32


def wrong(**methods: Callable[..., np.ndarray]) -> type[Pass]:
    """A pass with other methods; each is given the right method first."""

    def made(name: str, method: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        right = getattr(Pass, name)

        def call(self: Pass, *arguments: object, **named: object) -> np.ndarray:
            def plain(*args: object, **kwargs: object) -> np.ndarray:
                result: np.ndarray = right(self, *args, **kwargs)
                return result

            return method(self, plain, *arguments, **named)

        return call

    return type("Wrong", (Pass,), {name: made(name, m) for name, m in methods.items()})


def find(
    models: Models, name: str, forward: Callable[..., Pass], numerics: str
) -> tuple[str, Found]:
    model = models(name)
    side = observe(run(model, numerics, forward), model)
    case = first_wrong_case(side)
    return case.error.site, find_causes(case)


def turned(by: Callable[[np.ndarray], np.ndarray]) -> Callable[..., object]:
    """Other angles than the right ones: `by` gives them from (cos, sin)'s angles."""

    def angles(self: Pass, plain: Callable[..., object], layer: int) -> object:
        rope = self.model.config.rope_of(layer)
        frequencies = rope.theta ** (-np.arange(0, rope.dim, 2) / rope.dim)
        positions = np.arange(self.cache.num_tokens, self.cache.num_tokens + 12)
        angle = (
            by(np.outer(positions, frequencies))
            if layer == 1
            else np.outer(positions, frequencies)
        )
        return np.cos(angle).astype(F), np.sin(angle).astype(F)

    return angles


def other_theta(theta: float, dim: int = 16) -> Callable[[np.ndarray], np.ndarray]:
    return lambda angle: np.outer(np.arange(len(angle)), theta ** (-np.arange(0, dim, 2) / dim))


CASES: dict[str, tuple[str, type[Pass], str, str]] = {
    "eps": ("llama", wrong(norm=lambda s, plain, layer, part, x: (
        x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + F(0.003))
        * s.model.weights.vector("model.layers.1.input_layernorm.weight")
        if (layer, part) == (1, "attn_norm") else plain(layer, part, x))),
        "layer.1.attn_norm", "norm-eps"),
    "no norm": ("qwen2", wrong(norm=lambda s, plain, layer, part, x: (
        x.copy() if (layer, part) == (1, "ffn_norm") else plain(layer, part, x))),
        "layer.1.ffn_norm", "norm-missing"),
    "theta": ("llama", wrong(angles=turned(other_theta(123456.0))),
              "layer.1.q_rope", "rope-theta"),
    "linear scaling": ("llama", wrong(angles=turned(lambda a: a / 3)),
                       "layer.1.q_rope", "rope-scaling"),
    "positions from 2": ("llama", wrong(angles=turned(
        lambda a: a + 2 * (a[1] - a[0]))), "layer.1.q_rope", "rope-position-offset"),
    "scale": ("qwen2", wrong(attend=lambda s, plain, layer, q, k, v: plain(
        layer, q * F(1.37) if layer == 1 else q, k, v)),
        "layer.1.attn_context", "attention-scale"),
    "values late": ("llama", wrong(attend=lambda s, plain, layer, q, k, v: plain(
        layer, q, k, np.concatenate([v[:1], v[:-1]]) if layer == 1 else v)),
        "layer.1.attn_context", "cache-shifted"),
    "heads in turn": ("llama", wrong(attend=lambda s, plain, layer, q, k, v: (
        plain(layer, q.reshape(len(q), 3, 2, -1).swapaxes(1, 2).reshape(q.shape), k, v)
        .reshape(len(q), 2, 3, -1).swapaxes(1, 2).reshape(q.shape)
        if layer == 1 else plain(layer, q, k, v))),
        "layer.1.attn_context", "head-order"),
    "keys in float16": ("llama", wrong(attend=lambda s, plain, layer, q, k, v: plain(
        layer, q, k.astype(np.float16).astype(F), v)),
        "layer.0.attn_context", "cache-rounded"),
    "bias left out": ("qwen2", wrong(linear=lambda s, plain, layer, part, x: (
        plain(layer, part, x) - s.model.weights.vector("model.layers.1.self_attn.k_proj.bias")
        if (layer, part) == (1, "k") else plain(layer, part, x))),
        "layer.1.k", "bias-missing"),
    "rows shifted": ("llama", wrong(linear=lambda s, plain, layer, part, x: (
        np.roll(plain(layer, part, x), 5, axis=1)
        if (layer, part) == (1, "ffn_up") else plain(layer, part, x))),
        "layer.1.ffn_up", "rows-shifted"),
    "rows of zeros": ("llama", wrong(linear=lambda s, plain, layer, part, x: (
        np.where(np.arange(160) // 32 == 2, F(0), plain(layer, part, x))
        if (layer, part) == (1, "ffn_gate") else plain(layer, part, x))),
        "layer.1.ffn_gate", "rows-zero"),
    "another layer's weight": ("llama", wrong(linear=lambda s, plain, layer, part, x: plain(
        0 if (layer, part) == (1, "attn_out") else layer, part, x)),
        "layer.1.attn_out", "other-layer"),
    "input of another site": ("llama", wrong(linear=lambda s, plain, layer, part, x: (
        plain(layer, part, np.concatenate([x[:1], x[:-1]]))
        if (layer, part) == (1, "ffn_out") else plain(layer, part, x))),
        "layer.1.ffn_out", "token-shifted"),
    "ReLU": ("llama", wrong(activate=lambda s, plain, layer, gate: (
        np.maximum(gate, F(0)) if layer == 1 else plain(layer, gate))),
        "layer.1.ffn_silu_gate", "activation"),
    "steeper sigmoid": ("llama", wrong(activate=lambda s, plain, layer, gate: (
        (gate / (1 + np.exp(-1.4 * gate.astype(float)))).astype(F) if layer == 1
        else plain(layer, gate))),
        "layer.1.ffn_silu_gate", "activation"),
    "1 + up": ("llama", wrong(gate_product=lambda s, plain, layer, a, b: plain(
        layer, a, b + F(1) if layer == 1 else b)),
        "layer.1.ffn_swiglu_inner", "product-one-plus"),
    "branch scaled": ("llama", wrong(add_residual=lambda s, plain, layer, which, h, b: plain(
        layer, which, h, b * F(0.22) if (layer, which) == (1, "ffn") else b)),
        "layer.1.output", "branch-scaled"),
    "softcap": ("llama", wrong(head=lambda s, plain, h: F(50) * np.tanh(plain(h) / F(50))),
                "logits", "softcap"),
    "logits scaled": ("Q4_K", wrong(head=lambda s, plain, h: plain(h) * F(0.7)),
                      "logits", "output-scaled"),
    "bfloat16 residual": ("llama", wrong(
        add_residual=lambda s, plain, layer, which, h, b: (
            (plain(layer, which, h, b).view(np.uint32) + 0x8000 & 0xFFFF0000).view(F))),
        "layer.0.attn_residual", "output-rounded"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_known_way_to_be_wrong_is_named(models: Models, name: str) -> None:
    model, forward, site, cause = CASES[name]

    # Each in one of the two: what is wrong is the same, what is rounded is not.
    numerics = ("f32", "q8")[list(CASES).index(name) % 2]
    found_site, found = find(models, model, forward, numerics)

    assert (found_site, [c.id for c in found.causes][:1]) == (site, [cause])
    best = found.causes[0]
    assert best.residual_after <= 3 * best.limit < best.residual_before


def test_the_fitted_figure_is_shown(models: Models) -> None:
    _, forward, _, _ = CASES["theta"]

    _, found = find(models, "llama", forward, "q8")

    assert found.causes[0].title == "theta is 123,456 and ought to be 10,000"


def test_what_is_no_known_way_is_called_unknown(models: Models) -> None:
    token, output = np.arange(1, 13)[:, None], np.arange(160)[None]
    waves = np.sin(token * output / 29).astype(F)
    forward = wrong(linear=lambda s, plain, layer, part, x: (
        plain(layer, part, x) + waves if (layer, part) == (1, "ffn_up")
        else plain(layer, part, x)))  # fmt: skip

    site, found = find(models, "llama", forward, "f32")

    assert (site, found.causes) == ("layer.1.ffn_up", ())
    assert found.nearest is not None
    assert found.num_tried > 50


def test_float32_that_multiplies_8_bit_blocks_is_found_out(models: Models) -> None:
    model = models("llama")
    trace = run(model, "q8")
    trace = replace(trace, engine=replace(trace.engine, numerics="f32"))
    side = observe(trace, model)
    case = first_wrong_case(side)

    found = find_causes(case)

    assert case.error.site == "layer.0.q"
    assert [(c.id, c.title) for c in found.causes] == [
        (
            "activations-rounded",
            "activations are rounded to 8-bit blocks, and f32 says not",
        )
    ]


def test_a_declared_scaling_left_out_comes_before_what_is_the_same(models: Models) -> None:
    # With a factor of 2 that is the same as turning twice.
    unscaled = wrong(angles=turned(other_theta(10_000.0)))

    _, found = find(models, "linear", unscaled, "f32")

    assert [(c.id, c.title) for c in found.causes] == [
        ("rope-scaling", "the RoPE scaling that the model declares is left out"),
        ("rope-twice", "RoPE is applied twice"),
    ]


DIVISORS = (1.0, 1.0, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)
DECLARED = "the RoPE scaling that the model declares"
SCALINGS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "left out": (lambda divisors: divisors, f"{DECLARED} is left out"),
    "the wrong way round": (
        lambda divisors: divisors**2,
        f"{DECLARED} is the wrong way round: what divides the frequencies multiplies them",
    ),
    "twice": (lambda divisors: 1 / divisors, f"{DECLARED} is applied twice"),
    "for all": (
        lambda divisors: divisors / 8,
        f"{DECLARED} for some pairs is applied to all alike",
    ),
}


@pytest.mark.parametrize("slots", ["all", "ten"])
@pytest.mark.parametrize("way", SCALINGS)
def test_a_declared_scaling_applied_otherwise_is_named(
    way: str, slots: str, tmp_path: Path
) -> None:
    by, title = SCALINGS[way]
    decoder = TinyDecoder(num_layers=2, rope_divisors=DIVISORS)
    model = open_language_model(write_tiny_gguf(tmp_path / "scaled.gguf", decoder))

    def angles(self: Pass, plain: Callable[..., object], layer: int) -> object:
        rope = self.model.config.rope_of(layer)
        right_P = rope.theta ** (-np.arange(0, rope.dim, 2) / rope.dim)
        divisors_P = np.array(rope.frequency_divisors)
        angle = np.outer(np.arange(12), right_P / divisors_P * by(divisors_P))
        return np.cos(angle).astype(F), np.sin(angle).astype(F)

    trace = run(model, "f32", wrong(angles=angles))
    if slots == "ten":
        kept = {n: a for n, a in trace.arrays.items() if parse_site(n).slot in CONTRACT_SLOTS}
        trace = replace(trace, arrays=kept)
    side = observe(trace, model)
    case = first_wrong_case(side)

    found = find_causes(case)

    where = "" if slots == "all" else ", in layer.0.q_rope and layer.0.k_rope"
    assert case.error.site == ("layer.0.q_rope" if slots == "all" else "layer.0.attn_out")
    assert (found.causes[0].id, found.causes[0].title) == ("rope-scaling", title + where)


def test_of_two_fitted_numbers_the_rounder_one_is_shown(models: Models) -> None:
    model = models("llama")
    trace = run(model, "f32", wrong(angles=turned(other_theta(500_000.0))))
    arrays = {n: np.asarray(a, np.float16).astype(F) for n, a in trace.arrays.items()}
    side = observe(replace(trace, arrays=arrays), model)
    side = replace(side, arithmetic=replace(side.arithmetic, recorded="f16"), _derived={})
    case = first_wrong_case(side)

    found = find_causes(case)

    assert found.causes[0].title == "theta is 500,000 and ought to be 10,000"
