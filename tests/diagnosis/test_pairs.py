"""Two faults in one operation are named together; one alone is never named as two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from .planted import attend, attention_inputs, find_planted, first, weight_of

if TYPE_CHECKING:
    from .conftest import Models

QUERY, KEY = np.arange(12)[:, None], np.arange(12)[None, :]
CAUSAL = KEY <= QUERY


def turned(values: np.ndarray, theta: float, first_position: int, *, neighbours: bool):
    """RoPE of heads of 16 values, written for these tests alone."""
    heads = values.astype(np.float64).reshape(12, -1, 16)
    angles = np.outer(first_position + np.arange(12), theta ** (-np.arange(8) / 8))[:, None]
    places = (slice(0, 16, 2), slice(1, 16, 2)) if neighbours else (slice(0, 8), slice(8, 16))
    a, b = heads[..., places[0]], heads[..., places[1]]
    out = np.empty_like(heads)
    out[..., places[0]] = a * np.cos(angles) - b * np.sin(angles)
    out[..., places[1]] = b * np.cos(angles) + a * np.sin(angles)
    return out.reshape(12, -1)


def sharper(seen: np.ndarray, heads: tuple[int, ...] | None = None):
    """Scores 1.3 times the right ones, and what is seen, or read by which head."""

    def fault(right, _):
        q, k, v = attention_inputs(right)
        if heads is not None:
            k, v = (a.reshape(12, -1, 16)[:, list(heads)].reshape(12, -1) for a in (k, v))
        return attend(1.3 * q, k, v, seen)

    return fault


def transposed_without_bias(right, model):
    weight_RC = weight_of(model, "model.layers.1.self_attn.q_proj.weight")
    return right["layer.1.attn_norm"] @ weight_RC.reshape(weight_RC.shape[::-1])


def gemma_norm_with_other_eps(right, model):
    weight = model.declared.weights.vector("model.layers.1.input_layernorm.weight")
    x = right["layer.0.output"].astype(np.float64)
    return x / np.sqrt((x * x).mean(axis=1, keepdims=True) + 0.3) * (1 + weight)


SCALE = "scores are scaled by 0.325, 1.3 times the right 0.25"
CASES = {
    "theta and offset": (
        "qwen2", "q_rope", lambda r, _: turned(r["layer.1.q"], 5e5, 3, neighbours=False),
        ("rope-theta+rope-position-offset", "theta is 500,000 and ought to be 10,000; and "
         "positions start at 3 and ought to start at 0")),
    "pairing and theta": (
        "qwen2", "q_rope", lambda r, _: turned(r["layer.1.q"], 5e5, 0, neighbours=True),
        ("rope-pairing+rope-theta", "RoPE turns the wrong pairs (neighbours for halves, or the "
         "reverse); and theta is 500,000 and ought to be 10,000")),
    "heads and scale": (
        "qwen2", "attn_context", sharper(CAUSAL, (0, 1, 0, 1, 0, 1)),
        ("head-order+attention-scale", "heads take key/value heads in turn, not neighbours the "
         f"same; and {SCALE}")),
    "window and scale": (
        "qwen2", "attn_context", sharper(CAUSAL & (QUERY - KEY < 6)),
        ("window+attention-scale",
         f"there is a window of 6 and ought to be none; and {SCALE}")),
    "window missing and scale": (
        "mistral", "attn_context", sharper(CAUSAL),
        ("window-missing+attention-scale",
         f"there is no window and ought to be one of 5; and {SCALE}")),
    "bias and weight": (
        "qwen2", "q", transposed_without_bias,
        ("bias-missing+weight-transposed", "the bias is left out; and "
         "model.layers.1.self_attn.q_proj.weight is read transposed")),
    "norm's weight and eps": (
        "qwen2", "attn_norm", gemma_norm_with_other_eps,
        ("norm-one-plus-weight+norm-eps", "the norm's weight is taken as 1 + w; and eps of the "
         "norm is 0.3 and ought to be 0.000977")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_two_faults_of_one_operation_are_named_together(models: Models, name: str) -> None:
    model, slot, fault, cause = CASES[name]

    found = find_planted(models(model), f"layer.1.{slot}", fault)

    assert first(found) == cause
    assert found.causes[0].residual_after <= 3 * found.causes[0].limit


def test_what_one_fault_explains_is_not_explained_by_two(models: Models) -> None:
    fault = sharper(CAUSAL)

    found = find_planted(models("qwen2"), "layer.1.attn_context", fault)

    assert [cause.id for cause in found.causes] == ["attention-scale"]


def test_noise_is_explained_by_no_pair(models: Models) -> None:
    def noise(right, _):
        context = right["layer.1.attn_context"]
        return context + 0.1 * np.random.default_rng(0).normal(size=context.shape)

    found = find_planted(models("qwen2"), "layer.1.attn_context", noise)

    assert (found.causes, found.output) == ((), None)
    assert found.looks_like is not None
    assert found.looks_like.startswith("the difference has no form: noise of ")
