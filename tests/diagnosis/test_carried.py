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

from .conftest import observe, run

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
