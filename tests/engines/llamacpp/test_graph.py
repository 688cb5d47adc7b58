"""Nodes of llama.cpp's graph by operation and name, without llama.cpp."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cotejar.engines.llamacpp.graph import NOT_OBSERVED, expected_sites, node_sites
from cotejar.engines.spec import ENGINES
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.trace.forward_trace import Capture
from cotejar.trace.site import CONTRACT_SLOTS

if TYPE_CHECKING:
    from cotejar.model.config import DecoderConfig


@pytest.fixture
def config(tiny: Any) -> DecoderConfig:
    return tiny().config


@pytest.mark.parametrize(
    ("operation", "name", "site"),
    [
        ("GET_ROWS", "token_embd.weight", "embed"),
        ("MUL", "blk.1.attn_norm.weight", "layer.1.attn_norm"),
        ("MUL_MAT", "blk.0.attn_output.weight", "layer.0.attn_out"),
        ("ROPE", "Kcur-1", "layer.1.k_rope"),
        ("MUL_MAT", "Kcur-1", None),
        ("RESHAPE", "Kcur-1", None),
        ("RESHAPE", "kqv_out-0", "layer.0.attn_context"),
        ("CONT", "kqv_out-0", "layer.0.attn_context"),
        ("SWIGLU", "ffn_swiglu-1", "layer.1.ffn_swiglu_inner"),
        ("ADD", "l_out-1", "layer.1.output"),
        ("ADD", "l_out-2", None),
        ("MUL_MAT", "output.weight", "logits"),
        ("MUL_MAT", "token_embd.weight", "logits"),
    ],
)
def test_a_node_is_known_by_its_operation_and_a_name(
    config: DecoderConfig, operation: str, name: str, site: str | None
) -> None:
    found = node_sites(config).get((operation, name))

    assert (None if found is None else str(found)) == site


@pytest.mark.parametrize(
    ("field", "part", "slot"),
    [
        ("qkv_bias", "attn_q", "q"),
        ("output_bias", "attn_output", "attn_out"),
        ("mlp_bias", "ffn_down", "ffn_out"),
    ],
)
def test_with_a_bias_a_product_is_read_after_it(
    config: DecoderConfig, field: str, part: str, slot: str
) -> None:
    plain = node_sites(replace(config, **{field: False}))
    biased = node_sites(replace(config, **{field: True}))

    assert str(plain["MUL_MAT", f"blk.0.{part}.weight"]) == f"layer.0.{slot}"
    assert ("ADD", f"blk.0.{part}.bias") not in plain
    assert str(biased["ADD", f"blk.0.{part}.bias"]) == f"layer.0.{slot}"
    assert ("MUL_MAT", f"blk.0.{part}.weight") not in biased


def test_all_slots_are_read_but_those_that_cannot_be(config: DecoderConfig) -> None:
    slots = {name.rpartition(".")[2] for name in expected_sites(config, Capture())}

    assert set(CONTRACT_SLOTS) - slots == NOT_OBSERVED == ENGINES["llamacpp"].not_observed


def test_layers_that_nobody_wants_are_not_expected(config: DecoderConfig) -> None:
    names = expected_sites(config, Capture(layers=frozenset({1})))

    assert {n.partition(".ffn_up")[0] for n in names if n.endswith("ffn_up")} == {"layer.1"}
    assert {"embed", "final_norm", "logits"} <= names


def test_gemma3_has_its_own_nodes(tiny: Any) -> None:
    decoder = TinyDecoder(architecture="gemma3", final_softcap=5.0)

    nodes = {key: str(site) for key, site in node_sites(tiny(decoder).config).items()}

    assert nodes["SCALE", "inp_scaled"] == "embed"
    assert nodes["SCALE", "result_output"] == "logits"
    assert nodes["ADD", "sa_out-0"] == "layer.0.attn_residual"
    assert nodes["GEGLU", "ffn_geglu-0"] == "layer.0.ffn_swiglu_inner"
    assert nodes["MUL", "blk.0.post_ffw_norm.weight"] == "layer.0.ffn_post_norm"
    unscaled = {("GET_ROWS", "token_embd.weight"), ("MUL_MAT", "output.weight")}
    assert not unscaled & nodes.keys()
