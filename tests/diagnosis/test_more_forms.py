"""Other formulas of norms, RoPE, the embedding and the head, and what befell a whole run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis.case import Case
from cotejar.diagnosis.replay import replay_sides
from cotejar.diagnosis.search import find_causes
from cotejar.quant.floats import round_to_bfloat16

from .conftest import TOKENS, observe, run
from .planted import find_planted, first, weight_of

if TYPE_CHECKING:
    from .conftest import Models

HALF = 10_000.0 ** (-np.arange(8) / 8)


def to_bf16(values: np.ndarray) -> np.ndarray:
    return round_to_bfloat16(np.ascontiguousarray(values, np.float32)).astype(np.float64)


def normed(mean_square, eps: float = 2.0**-10):
    """The norm before attention in layer 1, with another mean square."""

    def fault(right, model):
        x = right["layer.0.output"].astype(np.float64)
        weight = model.declared.weights.vector("model.layers.1.input_layernorm.weight")
        return x / np.sqrt(mean_square(x) + eps) * weight

    return fault


def own_mean(x: np.ndarray) -> np.ndarray:
    return (x * x).mean(axis=1, keepdims=True)


def every_step_in_bf16(right, model):
    x = to_bf16(right["layer.0.output"])
    weight = to_bf16(model.declared.weights.vector("model.layers.1.input_layernorm.weight"))
    mean = to_bf16(to_bf16(x * x).mean(axis=1, keepdims=True))
    gain = to_bf16(1 / np.sqrt(to_bf16(mean + 2.0**-10)))
    return to_bf16(to_bf16(x * gain) * weight)


def turned(right, cos: np.ndarray, sin: np.ndarray, *, heads=None) -> np.ndarray:
    """RoPE of queries by tables of (tokens, 8)."""
    q = right["layer.1.q"].astype(np.float64).reshape(12, -1, 16)
    cos, sin = cos[:, None], sin[:, None]
    a, b = q[..., :8], q[..., 8:]
    out = np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=2)
    if heads is not None:
        out[:, heads] = q[:, heads]
    return out.reshape(12, -1)


def head_unturned(right, _):
    angles = np.outer(np.arange(12), HALF)
    return turned(right, np.cos(angles), np.sin(angles), heads=[5])


def angles_in_bf16(right, _):
    angles = to_bf16(np.outer(np.arange(12), to_bf16(HALF)))
    return turned(right, np.cos(angles), np.sin(angles))


def neighbours_by_tables_of_halves(right, _):
    q = right["layer.1.q"].astype(np.float64).reshape(12, -1, 16)
    angles = np.tile(np.outer(np.arange(12), HALF), 2)[:, None]
    other = np.stack([-q[..., 1::2], q[..., 0::2]], axis=-1).reshape(q.shape)
    return (q * np.cos(angles) + other * np.sin(angles)).reshape(12, -1)


def normed_and_turned(queries: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """Heads of 32 values, each normed and then turned with a theta of 10,000."""
    q = queries.astype(np.float64).reshape(12, -1, 32)
    q = q / np.sqrt((q * q).mean(axis=2, keepdims=True) + eps) * weight
    angles = np.outer(np.arange(12), 10_000.0 ** (-np.arange(16) / 16))[:, None]
    a, b = q[..., :16], q[..., 16:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], 2).reshape(12, -1)


def head_eps(right, model):
    weight = model.declared.weights.vector("model.layers.1.self_attn.q_norm.weight")
    return normed_and_turned(right["layer.1.q"], weight, 0.02)


def with_positions(right, _):
    half = right["embed"].shape[1] // 2
    angles = np.outer(np.arange(12), 10_000.0 ** (-np.arange(half) / half))
    return right["embed"] + np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def unit_rows(right, _):
    rows = right["embed"].astype(np.float64)
    return rows / np.sqrt((rows * rows).mean(axis=1, keepdims=True))


def another_row(right, _):
    rows = right["embed"].copy()
    rows[4] = np.random.default_rng(0).normal(size=rows.shape[1])
    return rows


def next_rows(right, model):
    table = weight_of(model, "model.embed_tokens.weight")
    return table[[token - 1 for token in TOKENS]]


def penalised(right, _):
    logits = right["logits"].astype(np.float64).copy()
    for row in range(12):
        seen = sorted(set(TOKENS[: row + 1]))
        part = logits[row, seen]
        logits[row, seen] = np.where(part > 0, part / 1.2, part * 1.2)
    return logits


def dropped(right, _):
    values = right["layer.1.ffn_swiglu_inner"].astype(np.float64)
    keep = np.random.default_rng(0).random(values.shape) > 0.1
    return np.where(keep, values / 0.9, 0.0)


def late_branch(right, _):
    stream, branch = right["layer.0.output"], right["layer.1.attn_out"].copy()
    branch[11] = branch[10]
    return stream.astype(np.float64) + branch


CASES = {
    "mean over another count": (
        "llama", "layer.1.attn_norm",
        normed(lambda x: (x * x).sum(axis=1, keepdims=True) / 128),
        ("norm-width", "the sum of squares is divided by 128, not by the 96 values")),
    "no eps": ("llama", "layer.1.attn_norm", normed(own_mean, eps=0.0),
               ("norm-eps",
                "eps of the norm is 0 (or anything below 2e-07) and ought to be 0.000977")),
    "the first token's mean": (
        "llama", "layer.1.attn_norm", normed(lambda x: (x[:1] ** 2).mean()),
        ("norm-one-gain", "every token is divided by the mean square of the first one")),
    "every step in bf16": (
        "llama", "layer.1.attn_norm", every_step_in_bf16,
        ("norm-bf16", "the norm runs in bf16: rounded are input, mean square, gain, normed "
         "input, weight, output")),
    "one head unturned": (
        "qwen2", "layer.1.q_rope", head_unturned,
        ("rope-missing", "RoPE is left out, in head 5 alone")),
    "angles in bf16": (
        "qwen2", "layer.1.q_rope", angles_in_bf16,
        ("rope-bf16", "RoPE runs in bf16: frequencies and angles are rounded")),
    "neighbours by tables of halves": (
        "qwen2", "layer.1.q_rope", neighbours_by_tables_of_halves,
        ("rope-pairing", "RoPE's tables are laid out for halves and its pairs are neighbours")),
    "eps of the heads' norm": (
        "qwen3", "layer.1.q_rope", head_eps,
        ("head-norm-eps", "eps of the norm of each head is 0.02 and ought to be 0.000977")),
    "positions added": (
        "llama", "embed", with_positions,
        ("positions-added",
         "sines and cosines of the position (base 10000) are added to the embedding")),
    "embedding normed": ("llama", "embed", unit_rows,
                         ("embedding-normed", "the embedding is normed (RMS)")),
    "one row": ("llama", "embed", another_row,
                ("embedding-row", "the row of token 53 in the table is another")),
    "the next rows": (
        "llama", "embed", next_rows,
        ("rows-shifted", "rows of the table are read 1 late: token 3 gets the row of 2")),
    "a penalty": (
        "llama", "logits", penalised,
        ("repetition-penalty",
         "logits of the tokens so far are under a repetition penalty of 1.2")),
    "dropout": (
        "llama", "layer.1.ffn_swiglu_inner", dropped,
        ("dropout", "10.4 % of the values are 0 and the others are multiplied by 1.111: "
         "dropout is on")),
    "the branch of the token before": (
        "llama", "layer.1.attn_residual", late_branch,
        ("tokens-moved", "in 1 tokens the branch is another token's: in token 11 that of 10")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_another_form_is_named(models: Models, name: str) -> None:
    model, site, fault, cause = CASES[name]

    found = find_planted(models(model), site, fault)

    assert first(found) == cause


def test_a_local_layer_that_turns_as_a_global_one_is_named(models: Models) -> None:
    """Layer 0 of this model is local, with a theta of its own."""

    def fault(right, model):
        weight = model.declared.weights.vector("model.layers.0.self_attn.q_norm.weight")
        return normed_and_turned(right["layer.0.q"], weight, model.config.rms_eps)

    found = find_planted(models("gemma3"), "layer.0.q_rope", fault)

    assert first(found) == (
        "rope-other-layer",
        "pairs turn as those of layer 1 do: a local layer is taken for a global one, or the "
        "reverse",
    )


def test_a_run_in_bf16_that_says_f32_is_named(models: Models) -> None:
    model = models("llama")
    trace = run(model, "f32")
    arrays = {
        name: round_to_bfloat16(np.ascontiguousarray(rows, np.float32))
        for name, rows in trace.arrays.items()
    }
    side = observe(replace(trace, arrays=arrays), model)
    error = next(e for e in replay_sides([side]) if not e.explained)
    operation = side.truth.operations[error.site]
    inputs, recorded = side.inputs(operation), side.recorded(operation.site)
    assert inputs is not None
    assert recorded is not None

    found = find_causes(Case(operation, side, inputs.arrays, recorded, error))

    id_, title = first(found)
    assert id_ == "run-type"
    assert title.startswith("the run is in bfloat16 and says f32: ")
