"""A function that ought not to be there is named, with its number where it has one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from .planted import find_planted, first, weight_of

if TYPE_CHECKING:
    from .conftest import Models
    from .planted import Fault

OUTPUT = "the output comes through a function: "


def silu(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x / (1 + np.exp(-x))


def scaled_before_bias(right, model):
    bias = model.declared.weights.vector("model.layers.1.self_attn.v_proj.bias")
    return (right["layer.1.v"] - bias) * np.float32(0.25) + bias


def squared_input(right, model):
    weight = weight_of(model, "model.layers.1.mlp.down_proj.weight")
    return right["layer.1.ffn_swiglu_inner"].astype(np.float64) ** 2 @ weight.T


def normed_again(right, model):
    x = right["final_norm"].astype(np.float64)
    weight = weight_of(model, "model.norm.weight")[0]
    return x / np.sqrt((x * x).mean(axis=1, keepdims=True) + model.config.rms_eps) * weight


CASES: dict[str, tuple[str, str, Fault, tuple[str, str]]] = {
    "ReLU": ("llama", "layer.1.ffn_up",
             lambda right, model: np.maximum(right["layer.1.ffn_up"], 0),
             ("output-function", OUTPUT + "ReLU")),
    "absolute": ("qwen2", "layer.1.v", lambda right, model: np.abs(right["layer.1.v"]),
                 ("output-function", OUTPUT + "the absolute value")),
    "square root": ("llama", "layer.1.ffn_gate",
                    lambda right, model: np.sqrt(np.abs(right["layer.1.ffn_gate"])),
                    ("output-function",
                     OUTPUT + "the square root of the absolute value")),
    "clipped above": ("llama", "layer.1.output",
                      lambda right, model: np.minimum(right["layer.1.output"], np.float32(0.5)),
                      ("output-function", OUTPUT + "values above 0.5 are clipped")),
    "softcap": ("llama", "layer.1.attn_out",
                lambda right, model: 0.125 * np.tanh(right["layer.1.attn_out"] / 0.125),
                ("output-function", OUTPUT + "0.125 tanh(x / 0.125)")),
    "centred": ("llama", "logits",
                lambda right, model: right["logits"] - right["logits"].mean(1, keepdims=True),
                ("output-function", OUTPUT + "x less the token's mean")),
    "log softmax": ("qwen2", "logits",
                    lambda right, model: right["logits"]
                    - np.log(np.exp(right["logits"].astype(float)).sum(1, keepdims=True)),
                    ("output-function", OUTPUT + "the logarithm of the softmax")),
    "vocabulary masked": ("llama", "logits",
                          lambda right, model: np.where(
                              np.arange(320) >= 300, np.float32(-100), right["logits"]),
                          ("outputs-constant",
                           "outputs 300..319 (20) are -100 at every token")),
    "before the bias": ("qwen2", "layer.1.v", scaled_before_bias,
                        ("scaled-before-bias",
                         "the product is multiplied by 1/4 before the bias")),
    "input squared": ("qwen3", "layer.1.ffn_out", squared_input,
                      ("input-function",
                       "the input comes through a function: the square")),
    "branch": ("llama", "layer.1.output",
               lambda right, model: right["layer.1.attn_residual"]
               + np.maximum(right["layer.1.ffn_out"], 0),
               ("input-function",
                "layer.1.ffn_out comes through a function before it is used: ReLU")),
    "up activated": ("llama", "layer.1.ffn_swiglu_inner",
                     lambda right, model: right["layer.1.ffn_silu_gate"]
                     * silu(right["layer.1.ffn_up"]),
                     ("input-function",
                      "layer.1.ffn_up comes through a function before it is used: SiLU")),
    "gate activated twice": ("llama", "layer.1.ffn_silu_gate",
                             lambda right, model: silu(silu(right["layer.1.ffn_gate"])),
                             ("activation-twice", "the gate is activated twice, by SiLU")),
    "norm twice": ("qwen2", "final_norm", normed_again,
                   ("norm-twice", "the norm is applied twice, with its weight")),
    "norm": ("qwen2", "layer.1.attn_norm",
             lambda right, model: right["layer.1.attn_norm"] * np.float32(1.003),
             ("norm-scaled", "the normed values are multiplied by 1.003")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_function_too_many_is_named(models: Models, name: str) -> None:
    model, site, fault, cause = CASES[name]

    found = find_planted(models(model), site, fault)

    assert first(found) == cause
    assert found.causes[0].residual_after <= 3 * found.causes[0].limit


SITES = ("embed", "layer.1.attn_norm", "layer.1.q", "layer.1.q_rope", "layer.1.attn_context",
         "layer.1.attn_out", "layer.1.ffn_silu_gate", "layer.1.ffn_swiglu_inner",
         "layer.1.output", "logits")  # fmt: skip


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("model", ["mistral", "qwen2"])
def test_noise_is_no_cause(models: Models, model: str, site: str) -> None:
    noise = np.random.default_rng(7)

    found = find_planted(
        models(model),
        site,
        lambda right, model: right[site]
        * (1 + 0.01 * noise.standard_normal(right[site].shape)),
    )

    assert found.causes == ()
    assert found.num_tried > 40
