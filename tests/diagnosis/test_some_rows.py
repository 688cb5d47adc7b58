"""An operation that is wrong in some tokens alone gets its ordinary cause, and says which."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from .planted import attend, attention_inputs, find_planted, first

if TYPE_CHECKING:
    from .conftest import Models

LAST = "at the last token, 11, alone: as in a step over the KV cache"
LATER = "from token 8 on alone: as in steps over the KV cache, or a later chunk"
CAUSAL = np.tril(np.ones((12, 12), bool))


def in_rows(slot: str, rows, wrong):
    """The right values of a site of layer 1, and what `wrong` gives in some rows."""

    def fault(right, model):
        values = right[f"layer.1.{slot}"].astype(np.float64).copy()
        values[rows] = wrong(right, model)[rows]
        return values

    return fault


def relu(right, _):
    return np.maximum(right["layer.1.ffn_gate"], 0.0)


def unnormed(right, _):
    return right["layer.1.attn_residual"].astype(np.float64)


def unbiased(right, model):
    bias = model.declared.weights.vector("model.layers.1.self_attn.q_proj.bias")
    return right["layer.1.q"].astype(np.float64) - bias


def by_theta(theta: float):
    def turned(right, _):
        q = right["layer.1.q"].astype(np.float64).reshape(12, -1, 16)
        angles = np.outer(np.arange(12), theta ** (-np.arange(8) / 8))[:, None]
        a, b, cos, sin = q[..., :8], q[..., 8:], np.cos(angles), np.sin(angles)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], 2).reshape(12, -1)

    return turned


def sharper(right, _):
    q, k, v = attention_inputs(right)
    return attend(1.5 * q.astype(np.float64), k, v, CAUSAL)


def heads_in_turn(right, _):
    q, k, v = attention_inputs(right)
    k, v = (a.reshape(12, -1, 16)[:, ::-1].reshape(12, -1) for a in (k, v))
    return attend(q, k, v, CAUSAL)


def branch_alone(right, _):
    return right["layer.1.ffn_out"].astype(np.float64)


CASES = {
    "activation, last": (
        "llama", "ffn_silu_gate", [11], relu,
        ("activation", f"the activation is ReLU and ought to be SiLU, {LAST}")),
    "activation, a chunk": (
        "llama", "ffn_silu_gate", slice(8, 12), relu,
        ("activation", f"the activation is ReLU and ought to be SiLU, {LATER}")),
    "activation, between": (
        "llama", "ffn_silu_gate", slice(2, 5), relu,
        ("activation", "the activation is ReLU and ought to be SiLU, at tokens 2 to 4 alone")),
    "activation, scattered": (
        "llama", "ffn_silu_gate", [1, 4, 9], relu,
        ("activation", "the activation is ReLU and ought to be SiLU, at 3 of 12 tokens alone, "
         "the first 1")),
    "norm, first": (
        "llama", "ffn_norm", [0], unnormed,
        ("norm-missing", "the norm is left out: its input came through, at token 0 alone")),
    "bias": (
        "qwen2", "q", [11], unbiased,
        ("bias-missing",
         f"the bias model.layers.1.self_attn.q_proj.bias is left out, {LAST}")),
    "theta": (
        "qwen2", "q_rope", [11], by_theta(500_000.0),
        ("rope-theta", f"theta is 500,000 and ought to be 10,000, {LAST}")),
    "an odd theta": (
        "qwen2", "q_rope", [10, 11], by_theta(33_333.0),
        ("rope-theta", "theta is 33,333 and ought to be 10,000, from token 10 on alone: as in "
         "steps over the KV cache, or a later chunk")),
    "scores": (
        "llama", "attn_context", [11], sharper,
        ("attention-scale",
         f"scores are scaled by 0.375, 1.5 times the right 0.25, {LAST}")),
    "heads": (
        "llama", "attn_context", slice(8, 12), heads_in_turn,
        ("head-order", f"every head reads the next key/value head, {LATER}")),
    "residual": (
        "llama", "output", [11], branch_alone,
        ("residual-missing",
         f"the residual stream is left out: only the branch is there, {LAST}")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_rows_that_are_wrong_alone_are_looked_at_alone(models: Models, name: str) -> None:
    model, slot, rows, wrong, (id_, title) = CASES[name]

    found = find_planted(models(model), f"layer.1.{slot}", in_rows(slot, rows, wrong))

    assert first(found) == (id_, title)
    assert found.output is not None
    assert found.output.shape == (12, found.output.shape[1])


def test_a_fault_of_all_tokens_names_no_tokens(models: Models) -> None:
    """Token 0 sees itself alone, so that a wrong scale cannot reach it."""
    found = find_planted(models("llama"), "layer.1.attn_context", sharper)

    assert first(found) == (
        "attention-scale",
        "scores are scaled by 0.375, 1.5 times the right 0.25",
    )
