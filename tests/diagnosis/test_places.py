"""Right values at a wrong place are named with the place: tokens, channels, slices, sites."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from .planted import find_planted, first, weight_of

if TYPE_CHECKING:
    from .conftest import Models
    from .planted import Fault

QKV = "model.layers.1.self_attn."


def exchange(values: np.ndarray, a: int, b: int) -> np.ndarray:
    order = np.arange(len(values))
    order[[a, b]] = b, a
    return values[order]


def interleaved_gate(right, model):
    both = np.concatenate([right["layer.1.ffn_gate"], right["layer.1.ffn_up"]], axis=1)
    return both[:, 0::2]


def half_lost(right, model):
    x, weight = (
        right["layer.1.ffn_swiglu_inner"],
        weight_of(model, "model.layers.1.mlp.down_proj.weight"),
    )
    return x[:, :80] @ weight[:, :80].T


def ranks_exchanged(right, model):
    x, weight = (
        right["layer.1.ffn_swiglu_inner"],
        weight_of(model, "model.layers.1.mlp.down_proj.weight"),
    )
    return np.concatenate([x[:, 80:], x[:, :80]], axis=1) @ weight.T


def norm_of_another_stream(right, model):
    x = right["layer.0.attn_residual"].astype(np.float64)
    weight = weight_of(model, "model.layers.1.post_attention_layernorm.weight")[0]
    return x / np.sqrt((x * x).mean(axis=1, keepdims=True) + model.config.rms_eps) * weight


def fused_cut_late(right, model):
    both = np.concatenate([right["layer.1.k"], right["layer.1.v"]], axis=1)
    return both[:, 8 : 8 + right["layer.1.k"].shape[1]]


def sum_that_ends_early(right, model):
    x = right["layer.1.ffn_swiglu_inner"].astype(np.float64)
    weight = weight_of(model, "model.layers.1.mlp.down_proj.weight")
    return x[:, :128] @ weight[:, :128].T


def norm_of_the_first_half(right, model):
    x = right["layer.1.output"].astype(np.float64)
    square = (x[:, :48] ** 2).mean(axis=1, keepdims=True)
    weight = weight_of(model, "model.norm.weight")[0]
    return x / np.sqrt(square + model.config.rms_eps) * weight


def value_of_layer_0(right, model):
    x, part = right["layer.1.attn_norm"], "model.layers.0.self_attn.v_proj"
    bias = model.declared.weights.vector(f"{part}.bias")
    return x.astype(np.float64) @ weight_of(model, f"{part}.weight").T + bias


CASES: dict[str, tuple[str, str, Fault, tuple[str, str]]] = {
    "tokens exchanged": (
        "llama", "layer.1.attn_residual",
        lambda right, model: exchange(right["layer.1.attn_residual"], 4, 7),
        ("tokens-moved", "tokens 4 and 7 change places")),
    "tokens reversed": (
        "qwen2", "layer.1.ffn_norm", lambda right, model: right["layer.1.ffn_norm"][::-1],
        ("tokens-moved", "tokens are in reverse order")),
    "last row stale": (
        "llama", "layer.1.ffn_up",
        lambda right, model: right["layer.1.ffn_up"][[*range(11), 3]],
        ("tokens-moved", "token 11 has the output of token 3 (a stale buffer)")),
    "buffer of the layer before": (
        "llama", "layer.1.v", lambda right, model: right["layer.0.v"],
        ("output-stale", "the output is that of layer.0.v: a stale or shared buffer")),
    "k is v, with its bias": (
        "qwen2", "layer.1.k", lambda right, model: right["layer.1.v"],
        ("key-value-swapped",
         "weight and bias are those of layer.1.v: the two change places")),
    "gate and up in turn": (
        "llama", "layer.1.ffn_gate", interleaved_gate,
        ("fused-interleaved",
         "rows of layer.1.ffn_gate and layer.1.ffn_up are stored in turn and read in halves, "
         "or the reverse")),
    "fused weight cut late": (
        "qwen2", "layer.1.k", fused_cut_late,
        ("fused-cut", "a fused weight is cut at the wrong row: outputs from 0 on are outputs "
         "8.. of layer.1.k")),
    "a rank's share lost": (
        "qwen3", "layer.1.ffn_out", half_lost,
        ("input-part-lost", "part 1 of 2 of the input is left out of the sum, as when the "
         "ranks' shares are not added up")),
    "ranks exchanged": (
        "qwen3", "layer.1.ffn_out", ranks_exchanged,
        ("input-parts-moved", "the input's 2 parts change places: 1 0")),
    "a norm of another stream": (
        "llama", "layer.1.ffn_norm",
        norm_of_another_stream,
        ("other-input", "the input is layer.0.attn_residual, not layer.1.attn_residual")),
    "a sum that ends early": (
        "qwen3", "layer.1.ffn_out", sum_that_ends_early,
        ("input-cut", "only the first 128 of 160 inputs are summed")),
    "a norm of half the channels": (
        "llama", "final_norm", norm_of_the_first_half,
        ("norm-over-part", "the mean square is that of part 0 of 2 of the channels")),
    "weight and bias of another layer": (
        "qwen2", "layer.1.v", value_of_layer_0,
        ("other-layer", "weight and bias are those of layer.0.v")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_place_is_named(models: Models, name: str) -> None:
    model, site, fault, cause = CASES[name]

    found = find_planted(models(model), site, fault)

    assert first(found) == cause
    assert found.causes[0].residual_after <= 3 * found.causes[0].limit
