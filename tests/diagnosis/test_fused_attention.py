"""Ten slots a layer: what is wrong in RoPE or attention is told from the output projection."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis.case import Case
from cotejar.diagnosis.replay import replay_sides
from cotejar.diagnosis.search import Found, find_causes
from cotejar.trace.site import CONTRACT_SLOTS, parse_site

from .conftest import observe, run
from .planted import first, weight_of

if TYPE_CHECKING:
    from cotejar.model.language_model import LanguageModel

    from .conftest import Models

BEHIND = "layer.1.attn_context"
TURNED = "in layer.1.q_rope and layer.1.k_rope"
DISTANCE = np.abs(np.arange(12)[:, None] - np.arange(12)[None])
CAUSAL = np.tril(np.ones((12, 12), bool))


class Attention:
    """Of layer 1 in float64; a fault is a subclass."""

    frequencies = 10_000.0 ** (-np.arange(8) / 8)
    positions = np.arange(12)
    gain = 1.0

    def scores(self, q: np.ndarray, k: np.ndarray) -> np.ndarray:
        return np.einsum("the,she->hts", q, k) / 4

    def weights(self, scores: np.ndarray) -> np.ndarray:
        size = np.exp(np.where(CAUSAL, scores, -np.inf))
        return size / size.sum(axis=2, keepdims=True)

    def turn(self, values: np.ndarray) -> np.ndarray:
        angles = np.outer(self.positions, self.frequencies)[:, None]
        a, b, cos, sin = values[..., :8], values[..., 8:], np.cos(angles), np.sin(angles)
        return self.gain * np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=2)

    def __call__(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        q, k, v = (a.astype(np.float64).reshape(12, -1, 16) for a in (q, k, v))
        group = q.shape[1] // k.shape[1]
        q, k = self.turn(q), np.repeat(self.turn(k), group, axis=1)
        weights = self.weights(self.scores(q, k))
        context = np.einsum("hts,she->the", weights, np.repeat(v, group, axis=1))
        return context.reshape(12, -1)


class YarnTable(Attention):
    frequencies = Attention.frequencies / np.array([1, 1, 1.5, 2.5, 4, 4, 4, 4])


class YarnTableAndGain(YarnTable):
    gain = 1.125


class PositionsFromPadding(Attention):
    positions = np.maximum(np.arange(12) - 3, 0)


class Alibi(Attention):
    def scores(self, q, k):
        slopes = 2.0 ** (-8 * (np.arange(6) + 1) / 6)
        return super().scores(q, k) - slopes[:, None, None] * DISTANCE


class AlibiForRope(Alibi):
    def turn(self, values):
        return values


class TableOfPositions(Attention):
    def scores(self, q, k):
        bias = np.random.default_rng(1).normal(size=12)
        return super().scores(q, k) + bias[DISTANCE]


class OneKeyFavoured(Attention):
    def scores(self, q, k):
        return super().scores(q, k) + 2.0 * (np.arange(12) == 3)


class Dropout(Attention):
    def weights(self, scores):
        kept = np.random.default_rng(2).random(scores.shape) > 0.1
        return super().weights(scores) * kept / 0.9


class SinkOfEachHead(Attention):
    def weights(self, scores):
        size = np.exp(np.where(CAUSAL, scores, -np.inf))
        sinks = np.exp(np.linspace(-1, 1, 6))[:, None, None]
        return size / (size.sum(axis=2, keepdims=True) + sinks)


class ScoresCut(Attention):
    def scores(self, q, k):
        return np.clip(super().scores(q, k), -0.5, 0.5)


def find_fused(model: LanguageModel, attention: Attention) -> Found:
    """What the search makes of a recording of ten slots with that attention in layer 1."""
    trace = run(model, "f32")
    right = {name: np.asarray(values) for name, values in trace.arrays.items()}
    q, k, v = (right[f"layer.1.{slot}"] for slot in "qkv")
    weight = weight_of(model, "model.layers.1.self_attn.o_proj.weight")
    planted = attention(q, k, v) @ weight.T
    kept = {n: a for n, a in right.items() if parse_site(n).slot in CONTRACT_SLOTS}
    kept["layer.1.qkv"] = np.concatenate([q, k, v], axis=1)
    kept["layer.1.attn_out"] = planted.astype(np.float32)
    side = observe(replace(trace, arrays=kept), model)
    error = next(e for e in replay_sides([side]) if not e.explained)
    assert error.site == "layer.1.attn_out"
    operation = side.truth.operations[error.site]
    inputs, recorded = side.inputs(operation), side.recorded(operation.site)
    assert inputs is not None
    assert recorded is not None
    return find_causes(Case(operation, side, inputs.arrays, recorded, error))


CASES = {
    "a table": (YarnTable, (
        "rope-frequencies",
        "pairs turn by other frequencies: the 2 fastest are right, the 4 slowest turn 1/4 "
        f"times as fast, a scaling by frequency as YaRN or llama3 have it, {TURNED}")),
    "a table and a gain": (YarnTableAndGain, (
        "rope-frequencies+rope-gain",
        "pairs turn by other frequencies: the 2 fastest are right, the 4 slowest turn 1/4 "
        "times as fast, a scaling by frequency as YaRN or llama3 have it; and values are "
        f"multiplied by 1.125: an attention factor of YaRN?, {TURNED}")),
    "positions": (PositionsFromPadding, (
        "rope-positions",
        f"11 of 12 positions are others; token 1 is turned as if at 0, {TURNED}")),
    "ALiBi": (Alibi, (
        "position-bias", f"scores have a bias by distance, ALiBi, in {BEHIND}")),
    "ALiBi in place of RoPE": (AlibiForRope, (
        "position-bias",
        f"RoPE is left out, and scores have a bias by distance, ALiBi, in {BEHIND}")),
    "a table of positions": (TableOfPositions, (
        "position-bias", "scores have a bias by distance, -1.658 to 0.5503 (a table of "
        f"relative positions?), in {BEHIND}")),
    "one key": (OneKeyFavoured, (
        "position-bias", f"scores have 2 added at key 3 alone, in {BEHIND}")),
    "dropout": (Dropout, (
        "dropout", "10.4 % of the weights of attention are 0 and the others are multiplied by "
        f"1.111: dropout is on in attention, in {BEHIND}")),
    "a sink of each head": (SinkOfEachHead, (
        "attention-sink", "each head has a sink, -1 to 1, in the sum below of its softmax, "
        f"in {BEHIND}")),
    "scores cut": (ScoresCut, (
        "scores-clipped", f"scores are cut to 0.5 on both sides, in {BEHIND}")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_the_projection_hides_is_named(models: Models, name: str) -> None:
    attention, cause = CASES[name]

    found = find_fused(models("qwen2"), attention())

    assert first(found) == cause


def test_the_right_attention_leaves_nothing_to_explain(models: Models) -> None:
    """The attention of this module is the model's: else nothing above would mean anything."""
    model = models("qwen2")
    trace = run(model, "f32")
    q, k, v = (np.asarray(trace.arrays[f"layer.1.{slot}"]) for slot in "qkv")

    context = Attention()(q, k, v)

    # float32 sums of 16 and of 12 terms, and angles of at most 12 radians
    assert np.allclose(context, trace.arrays["layer.1.attn_context"], rtol=0, atol=1e-5)
