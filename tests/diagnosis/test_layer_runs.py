"""A layer, or half of one, that is run twice is named, whichever run was recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis.case import Case
from cotejar.diagnosis.replay import replay_sides
from cotejar.diagnosis.search import find_causes
from cotejar.trace.forward_trace import in_forward_order
from cotejar.trace.site import Site

from .conftest import observe, run
from .planted import find_planted, first, weight_of

if TYPE_CHECKING:
    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import ForwardTrace

    from .conftest import Models


def twice(model: LanguageModel, numerics: str) -> ForwardTrace:
    """Two layers, the second of them run twice: as three, of which two are one."""
    again = {
        name.replace(".layers.1.", ".layers.2."): model.weights[name]
        for name in model.weights
        if ".layers.1." in name
    }
    weights = model.weights.replaced(again)
    return run(
        model.altered(config=replace(model.config, num_layers=3), weights=weights), numerics
    )


def seen(trace: ForwardTrace, *, second: set[str]) -> ForwardTrace:
    """Layer 1 as recorded: of the second run these slots, of the first the others."""
    sites, arrays = {}, {}
    for name, record in trace.sites.items():
        site = record.site
        if site.layer and (site.layer == 2) != (site.slot in second):
            continue
        place = Site(site.slot, 1) if site.layer == 2 else site
        sites[str(place)] = replace(record, site=place)
        arrays[str(place)] = np.asarray(trace.arrays[name])
    return replace(trace, sites=in_forward_order(sites), arrays=arrays)


EVERY = {"attn_norm", "q", "k", "v", "qkv", "q_rope", "k_rope", "attn_context", "attn_out",
         "attn_residual", "ffn_norm", "ffn_gate", "ffn_up", "ffn_silu_gate", "ffn_swiglu_inner",
         "ffn_out", "output"}  # fmt: skip
CASES = {
    "the second run": (EVERY, "layer.1.attn_norm",
                       "layer 1 is run twice before layer.1.attn_norm"),
    "the first run": (set(), "final_norm", "layer 1 is run twice before final_norm"),
    "its end alone": ({"output"}, "layer.1.output", "layer 1 is run twice"),
}  # fmt: skip


@pytest.mark.parametrize("numerics", ["f32", "q8"])
@pytest.mark.parametrize("name", CASES)
def test_a_layer_that_runs_twice_is_named(models: Models, name: str, numerics: str) -> None:
    second, site, title = CASES[name]
    model = models("llama")
    side = observe(seen(twice(model, numerics), second=second), model)
    error = next(e for e in replay_sides([side]) if not e.explained)
    operation = side.truth.operations[error.site]
    inputs, recorded = side.inputs(operation), side.recorded(operation.site)
    assert inputs is not None
    assert recorded is not None

    found = find_causes(Case(operation, side, inputs.arrays, recorded, error))

    assert (error.site, *first(found)) == (site, "layer-twice", title)


def test_a_feed_forward_that_runs_twice_is_named(models: Models) -> None:
    def fault(right, model):
        stream = right["layer.1.output"].astype(np.float64)
        norm = model.declared.weights.vector("model.layers.1.post_attention_layernorm.weight")
        mean = (stream * stream).mean(axis=1, keepdims=True)
        x = stream / np.sqrt(mean + model.config.rms_eps) * norm
        gate, up, down = (
            weight_of(model, f"model.layers.1.mlp.{part}_proj.weight")
            for part in ("gate", "up", "down")
        )
        inner = x @ gate.T / (1 + np.exp(-(x @ gate.T))) * (x @ up.T)
        return stream + inner @ down.T

    found = find_planted(models("llama"), "layer.1.output", fault)

    assert first(found) == (
        "branch-twice",
        "the feed-forward of layer 1 is run twice, one after the other",
    )
