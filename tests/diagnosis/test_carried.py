"""What goes wrong where nobody recorded is named at the first site that was recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis.case import Case
from cotejar.diagnosis.replay import replay_sides
from cotejar.diagnosis.search import Found, find_causes
from cotejar.engines.native.forward import Pass
from cotejar.quant.floats import round_to_bfloat16
from cotejar.trace.site import CONTRACT_SLOTS

from .conftest import observe, run
from .planted import first

if TYPE_CHECKING:
    from .conftest import Models

FUSED = ("attn_norm", "qkv", "attn_context", "attn_out", "attn_residual", "ffn_norm",
         "ffn_swiglu_inner", "ffn_out", "output", "embed", "final_norm", "logits")  # fmt: skip
HIDDEN = ("embed", "output", "final_norm", "logits")


def find(
    models: Models, name: str, forward: type[Pass], slots: tuple[str, ...]
) -> tuple[str, Found]:
    """From a run of which these slots alone were recorded."""
    trace = run(models(name), "f32", forward)
    arrays = {n: np.asarray(a) for n, a in trace.arrays.items() if n.split(".")[-1] in slots}
    side = observe(replace(trace, arrays=arrays), models(name))
    error = next(e for e in replay_sides([side]) if not e.explained)
    operation = side.truth.operations[error.site]
    inputs, recorded = side.inputs(operation), side.recorded(operation.site)
    assert inputs is not None
    assert recorded is not None
    return error.site, find_causes(Case(operation, side, inputs.arrays, recorded, error))


class Theta(Pass):
    """A common theta, and not this model's, in layer 1."""

    def angles(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        theta = 500_000.0 if layer == 1 else 10_000.0
        angles = np.outer(np.arange(12), theta ** (-np.arange(0, 16, 2) / 16))
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


class LateQueries(Pass):
    """Queries of layer 1 turn as if they stood one further; keys are right."""

    def rotate(self, layer: int, values: np.ndarray, *, which: str) -> np.ndarray:
        turned = super().rotate(layer, values, which=which)  # type: ignore[arg-type]
        if (layer, which) != (1, "q"):
            return turned
        angle = 10_000.0 ** (-np.arange(0, 16, 2) / 16)
        first, second = turned[..., :8], turned[..., 8:]
        parts = (
            first * np.cos(angle) - second * np.sin(angle),
            second * np.cos(angle) + first * np.sin(angle),
        )
        return np.concatenate(parts, axis=-1).astype(np.float32)


class AttentionDropped(Pass):
    """Layer 1 adds nothing to the stream after its attention."""

    def add_residual(
        self, layer: int, which: str, hidden: np.ndarray, branch: np.ndarray
    ) -> np.ndarray:
        dropped = np.zeros_like(branch) if (layer, which) == (1, "attn") else branch
        return super().add_residual(layer, which, hidden, dropped)  # type: ignore[arg-type]  # any str


class NormOfTheLayersInput(Pass):
    """The feed-forward's norm of layer 1 takes what came into the layer; the sums are right."""

    def add_residual(
        self, layer: int, which: str, hidden: np.ndarray, branch: np.ndarray
    ) -> np.ndarray:
        if (layer, which) == (1, "attn"):
            self._came_in = hidden
        return super().add_residual(layer, which, hidden, branch)  # type: ignore[arg-type]  # any str

    def norm(self, layer: int | None, part: str, values: np.ndarray) -> np.ndarray:
        is_there = (layer, part) == (1, "ffn_norm")
        return super().norm(layer, part, self._came_in if is_there else values)


class Rectified(Pass):
    """ReLU for SiLU in layer 1."""

    def activate(self, layer: int, gate: np.ndarray) -> np.ndarray:
        return np.maximum(gate, np.float32(0)) if layer == 1 else super().activate(layer, gate)


class UpForGate(Pass):
    """The gate and up of layer 1 change places."""

    def linear(self, layer: int, part: str, values: np.ndarray) -> np.ndarray:
        other = {"ffn_gate": "ffn_up", "ffn_up": "ffn_gate"} if layer == 1 else {}
        return super().linear(layer, other.get(part, part), values)  # type: ignore[arg-type]


class LayerZeroAgain(Pass):
    """Layer 1 computes with the weights of layer 0."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._layers = (self._layers[0], self._layers[0])


class OddTheta(Pass):
    """A theta that no list has, in layer 1."""

    def angles(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        theta = 37_000.0 if layer == 1 else 10_000.0
        angles = np.outer(np.arange(12), theta ** (-np.arange(0, 16, 2) / 16))
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


class OddScale(Pass):
    """Scores of layer 1 are a third of what they ought to be."""

    def attend(self, layer: int, q: np.ndarray, *rows: np.ndarray) -> np.ndarray:
        return super().attend(layer, q / np.float32(3) if layer == 1 else q, *rows)


class CoarseCache(Pass):
    """Keys and values of layer 1 are kept in bfloat16."""

    def extend_cache(
        self, layer: int, k: np.ndarray, v: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        if layer == 1:
            k, v = round_to_bfloat16(k), round_to_bfloat16(v)
        return super().extend_cache(layer, k, v)


class Chunks(Pass):
    """Tokens of layer 1 see those of their own eight alone."""

    def attend(self, layer: int, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        if layer != 1:
            return super().attend(layer, q, k, v)
        parts = [slice(0, 8), slice(8, 12)]
        return np.concatenate([super(Chunks, self).attend(1, q[p], k[p], v[p]) for p in parts])


class NoQueryBias(Pass):
    """The bias of queries of layer 1 is left out."""

    def linear(self, layer: int, part: str, values: np.ndarray) -> np.ndarray:
        product = super().linear(layer, part, values)  # type: ignore[arg-type]
        bias = self._layers[layer].linears[part][1]
        return product - bias if (layer, part) == (1, "q") else product


class OnePlus(Pass):
    """Every norm of layer 1 takes its weight as 1 + w."""

    def norm(self, layer: int | None, part: str, values: np.ndarray) -> np.ndarray:
        found = super().norm(layer, part, values)
        if layer != 1:
            return found
        ones = np.sqrt((values * values).mean(axis=-1, keepdims=True) + np.float32(2**-10))
        return found + values / ones


TEN = ("attn_norm", "qkv", "attn_out", "ffn_norm", "ffn_gate", "ffn_up", "ffn_silu_gate",
       "ffn_swiglu_inner", "ffn_out", "output", "embed", "final_norm", "logits")  # fmt: skip


@pytest.mark.parametrize(
    ("forward", "slots", "site", "cause", "title"),
    [
        (OddTheta, TEN, "attn_out", "rope-theta",
         "theta is 37,000 and ought to be 10,000, in layer.1.q_rope and layer.1.k_rope"),
        (OddScale, TEN, "attn_out", "attention-scale",
         "scores are scaled by 0.0833333, 1/3 times the right 0.25, in layer.1.attn_context"),
        (CoarseCache, TEN, "attn_out", "cache-rounded",
         "keys and values are rounded to bf16, in layer.1.attn_context"),
        (Chunks, TEN, "attn_out", "mask-chunks",
         "a token sees its own chunk of 8 tokens alone, in layer.1.attn_context"),
        (NoQueryBias, HIDDEN, "output", "bias-missing", "the bias is left out, in layer.1.q"),
        (OnePlus, HIDDEN, "output", "norm-one-plus-weight",
         "the weight is taken as 1 + w, in layer.1.attn_norm and layer.1.ffn_norm"),
    ],
)  # fmt: skip
def test_numbers_and_roundings_that_nobody_recorded_are_fitted(
    models: Models,
    forward: type[Pass],
    slots: tuple[str, ...],
    site: str,
    cause: str,
    title: str,
) -> None:
    found_site, found = find(models, "qwen2", forward, slots)

    assert found_site == f"layer.1.{site}"
    assert (found.causes[0].id, found.causes[0].title) == (cause, title)


class Disturbed(Pass):
    """Something that is no known way to be wrong."""

    def linear(self, layer: int, part: str, values: np.ndarray) -> np.ndarray:
        product = super().linear(layer, part, values)  # type: ignore[arg-type]
        if (layer, part) != (1, "ffn_gate"):
            return product
        noise = np.random.default_rng(3).standard_normal(product.shape)
        return product + noise.astype(np.float32)


@pytest.mark.parametrize(
    ("forward", "slots", "site", "cause", "where"),
    [
        (Theta, FUSED, "attn_context", "rope-theta", "in layer.1.q_rope and layer.1.k_rope"),
        (Theta, HIDDEN, "output", "rope-theta", "in layer.1.q_rope and layer.1.k_rope"),
        (LateQueries, FUSED, "attn_context", "rope-position-offset", "in layer.1.q_rope"),
        (Rectified, FUSED, "ffn_swiglu_inner", "activation", "in layer.1.ffn_silu_gate"),
        (Rectified, HIDDEN, "output", "activation", "in layer.1.ffn_silu_gate"),
        (UpForGate, FUSED, "ffn_swiglu_inner", "gate-up-swapped", "in layer 1"),
        (LayerZeroAgain, HIDDEN, "output", "other-layer", "the weights of layer 0"),
    ],
)
def test_a_fault_before_the_recorded_site_is_named(
    models: Models,
    forward: type[Pass],
    slots: tuple[str, ...],
    site: str,
    cause: str,
    where: str,
) -> None:
    # The pairs that `LateQueries` turns are halves, as qwen2 has them.
    name = "qwen2" if forward is LateQueries else "llama"

    found_site, found = find(models, name, forward, slots)

    assert found_site == f"layer.1.{site}"
    assert found.causes[0].id == cause
    assert found.causes[0].title.endswith(where)


def test_what_is_no_known_way_stays_unknown(models: Models) -> None:
    site, found = find(models, "llama", Disturbed, FUSED)

    assert (site, found.causes) == ("layer.1.ffn_swiglu_inner", ())


def test_a_branch_that_is_left_out_goes_before_the_other_input_of_a_norm(
    models: Models,
) -> None:
    """Both leave the same in the norm; the sum at the layer's end tells them apart."""
    site, found = find(models, "llama", AttentionDropped, CONTRACT_SLOTS)

    assert site == "layer.1.ffn_norm"
    assert (found.causes[0].id, found.causes[0].title) == (
        "branch-missing",
        "the branch is not added: attention is skipped, in layer.1.attn_residual",
    )


def test_a_norm_of_another_input_is_no_branch_left_out(models: Models) -> None:
    site, found = find(models, "llama", NormOfTheLayersInput, CONTRACT_SLOTS)

    assert site == "layer.1.ffn_norm"
    assert (found.causes[0].id, found.causes[0].title) == (
        "other-input",
        "the input is layer.0.output, not layer.1.attn_residual",
    )


# --- what reads a derived site and is right says where it was not ---------------------------


class InputTwice(Pass):
    """Layer 1 adds its input once more at its end."""

    def add_residual(self, layer, which, hidden, branch):
        if (layer, which) == (1, "attn"):
            self.came_in = np.array(hidden)
        added = super().add_residual(layer, which, hidden, branch)
        return added + self.came_in if (layer, which) == (1, "ffn") else added


class StreamTwice(Pass):
    """Layer 1 adds its attention to twice the stream: all that follows reads it so."""

    def add_residual(self, layer, which, hidden, branch):
        factor = np.float32(2 if (layer, which) == (1, "attn") else 1)
        return super().add_residual(layer, which, factor * hidden, branch)


WITHOUT_STREAM = tuple(slot for slot in FUSED if slot != "attn_residual")
INPUT_TWICE = ("residual-extra", "layer.0.output is added once more: the layer's input")


@pytest.mark.parametrize("slots", [FUSED, WITHOUT_STREAM], ids=["all", "without attn_residual"])
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_an_input_added_once_more_is_named_at_the_layers_end(
    models: Models, name: str, slots: tuple[str, ...]
) -> None:
    site, found = find(models, name, InputTwice, slots)

    assert site == "layer.1.output"
    assert [(cause.id, cause.title) for cause in found.causes] == [INPUT_TWICE]


def test_a_stream_doubled_for_all_its_readers_is_named_there(models: Models) -> None:
    site, found = find(models, "llama", StreamTwice, WITHOUT_STREAM)

    assert (site, *first(found)) == (
        "layer.1.ffn_norm",
        "residual-doubled",
        "the residual stream is added twice, in layer.1.attn_residual",
    )
