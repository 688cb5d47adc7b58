"""What only gemma3 has: defaults that a file leaves out, and what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cotejar.errors import ArchitectureError, ConfigValueError, CotejarError
from cotejar.model.inventory import tensor_shapes
from cotejar.model.read_config import read_config
from cotejar.testing.tiny_decoder import TinyDecoder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cotejar.model.config import DecoderConfig


@dataclass
class Metadata:
    """An opened file as far as a configuration needs one."""

    format: str
    metadata: Mapping[str, object]
    path: Path = field(default_factory=lambda: Path("model.file"))


NAMES = frozenset(
    tensor_shapes(TinyDecoder(architecture="gemma3").config(pairing="halves")).keys()
)


def read(kind: str, metadata: Mapping[str, object]) -> DecoderConfig:
    file: Any = Metadata(kind, metadata)
    return read_config(file, NAMES, rope_divisors=(), embedding_rows=320)


GGUF: dict[str, object] = {
    "general.architecture": "gemma3",
    "gemma3.block_count": 12,
    "gemma3.embedding_length": 96,
    "gemma3.attention.head_count": 6,
    "gemma3.attention.key_length": 32,
    "gemma3.feed_forward_length": 160,
    "gemma3.context_length": 64,
    "gemma3.attention.layer_norm_rms_epsilon": 1e-6,
    "gemma3.rope.freq_base": 1e6,
    "gemma3.attention.sliding_window": 5,
}
CONFIG: dict[str, object] = {
    "model_type": "gemma3_text",
    "num_hidden_layers": 12,
    "hidden_size": 96,
    "num_attention_heads": 6,
    "intermediate_size": 160,
    "vocab_size": 320,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "sliding_window": 5,
}
APR: dict[str, object] = {
    "architecture": "gemma3",
    "num_layers": 12,
    "hidden_size": 96,
    "num_heads": 6,
    "head_dim": 32,
    "intermediate_size": 160,
    "vocab_size": 320,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_type": 2,
    "sliding_window": 5,
}


def test_a_gguf_leaves_llamacpps_defaults_out() -> None:
    config = read("gguf", GGUF)

    assert config.global_layers == (5, 11)
    assert [config.window_of(layer) for layer in (4, 5, 6)] == [5, None, 5]
    assert [config.rope_of(layer).theta for layer in (4, 5, 6)] == [10000.0, 1e6, 10000.0]
    assert (config.query_scalar, config.final_softcap) == (None, None)
    assert (config.post_norms, config.qk_norm, config.activation) == (True, True, "gelu_tanh")
    assert config.embedding_scale == math.sqrt(96)


def test_a_config_leaves_transformers_defaults_out() -> None:
    config = read("safetensors", {"config": CONFIG})

    assert (config.head_dim, config.rope.dim, config.query_scalar) == (256, 256, None)
    assert (config.rope.theta, config.rope_of(0).theta) == (1e6, 10000.0)
    assert config.global_layers == (5, 11)
    assert config.tied_embeddings


def test_the_model_of_62_layers_divides_its_scores_by_another_root() -> None:
    """llama.cpp: 5376 / 32 = 168, where a head has 128 values; here 96 / 6 = 16 for 32."""
    assert read("gguf", GGUF | {"gemma3.block_count": 62}).query_scalar == 16
    assert read("gguf", GGUF | {"gemma3.block_count": 61}).query_scalar is None


@pytest.mark.parametrize(
    ("pattern", "layers"), [(0, ()), (1, None), (2, (1, 3, 5, 7, 9, 11)), (13, ())]
)
def test_a_pattern_is_read_as_llamacpp_reads_it(
    pattern: int, layers: tuple[int, ...] | None
) -> None:
    config = read("gguf", GGUF | {"gemma3.attention.sliding_window_pattern": pattern})

    assert config.sliding_window == (None if layers is None else 5)
    assert config.global_layers == (layers or ())


def test_a_scaling_is_the_global_layers_alone() -> None:
    scaled = {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0}

    config = read("gguf", GGUF | scaled)

    assert config.rope_of(5).frequency_divisors == (8.0,) * 16
    assert config.rope_of(4).frequency_divisors == ()


def test_no_window_in_any_of_the_three() -> None:
    window_key = "gemma3.attention.sliding_window"
    for config in (
        read("gguf", GGUF | {window_key: 0}),
        read("gguf", {key: value for key, value in GGUF.items() if key != window_key}),
        read("apr", APR | {"sliding_window": None}),
        read("safetensors", {"config": CONFIG | {"sliding_window_pattern": 1}}),
    ):
        assert config.sliding_window is None
        assert config.local_rope is None
        assert config.global_layers == ()
        assert config.rope_of(0).theta == 1e6


def test_what_a_model_has_not_is_left_out_of_what_two_are_compared_by(tiny: Any) -> None:
    """So that a trace from before there was a gemma3 has the same keys."""
    parts = {
        *("global_layers", "post_norms", "activation", "embedding_scale", "query_scalar"),
        *("final_softcap", "local_rope_theta", "local_rope_dim"),
        "local_rope_frequency_divisors",
    }

    assert not parts & tiny().config.comparable().keys()
    every = read(
        "gguf", GGUF | {"gemma3.block_count": 62, "gemma3.final_logit_softcapping": 30.0}
    )
    assert parts <= every.comparable().keys()
    assert not {"rope", "local_rope"} & every.comparable().keys()


REFUSED: dict[str, tuple[str, dict[str, object], type[CotejarError], str, str]] = {
    "attention's cap, gguf": (
        "gguf",
        GGUF | {"gemma3.attn_logit_softcapping": 50.0},
        ArchitectureError,
        "no gemma3.attn_logit_softcapping",
        "50.0",
    ),
    "attention's cap": (
        "safetensors",
        {"config": CONFIG | {"attn_logit_softcapping": 50.0}},
        ArchitectureError,
        "no attn_logit_softcapping",
        "50.0",
    ),
    "activation": (
        "safetensors",
        {"config": CONFIG | {"hidden_activation": "gelu"}},
        ArchitectureError,
        "hidden_activation gelu_pytorch_tanh, attention in one direction",
        "'gelu', use_bidirectional_attention None",
    ),
    "both directions": (
        "safetensors",
        {"config": CONFIG | {"use_bidirectional_attention": True}},
        ArchitectureError,
        "hidden_activation gelu_pytorch_tanh, attention in one direction",
        "'gelu_pytorch_tanh', use_bidirectional_attention True",
    ),
    "with a vision tower": (
        "safetensors",
        {"config": {"model_type": "gemma3", "text_config": CONFIG}},
        ArchitectureError,
        "gemma3_text, the text model alone",
        "gemma3",
    ),
    "pattern": (
        "safetensors",
        {"config": CONFIG | {"sliding_window_pattern": "6"}},
        ConfigValueError,
        "a whole number of at least 0",
        "'6'",
    ),
    "scalar": (
        "apr",
        APR | {"query_pre_attn_scalar": 0},
        ConfigValueError,
        "a positive finite number",
        "0.0",
    ),
    "cap": (
        "apr",
        APR | {"final_logit_softcapping": -30.0},
        ConfigValueError,
        "a positive finite number",
        "-30.0",
    ),
    "local theta": (
        "apr",
        APR | {"rope_local_base_freq": 0.0},
        ConfigValueError,
        "a positive finite number",
        "0.0",
    ),
    "another local scaling": (
        "safetensors",
        {
            "config": CONFIG
            | {"rope_parameters": {"sliding_attention": {"rope_type": "yarn", "factor": 2.0}}}
        },
        ArchitectureError,
        "none, linear or llama3",
        "yarn",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_run_is_refused_with_figures(name: str) -> None:
    kind, metadata, error, expected, found = REFUSED[name]

    with pytest.raises(error) as caught:
        read(kind, metadata)

    assert (caught.value.parts["expected"], caught.value.parts["found"]) == (expected, found)


ODD = [None, True, -1, 0, 1, 2.5, 10**18, 10**400, 1e308, 5e-324, "x", [], {}, [1], {"a": []}]


@pytest.mark.parametrize("odd", ODD, ids=lambda v: f"{v!r:.12}")
def test_any_odd_value_is_refused_or_read_and_never_another_exception(odd: object) -> None:
    for kind, whole in (("gguf", GGUF), ("apr", APR), ("safetensors", CONFIG)):
        optional = {
            *("query_pre_attn_scalar", "rope_local_base_freq", "final_logit_softcapping"),
            *("attn_logit_softcapping", "layer_types", "sliding_window_pattern"),
            *("hidden_activation", "use_bidirectional_attention", "rope_parameters"),
            *("gemma3.attention.sliding_window_pattern", "gemma3.rope.freq_base_swa"),
            *("gemma3.final_logit_softcapping", "gemma3.attn_logit_softcapping"),
        }
        for key in (*whole, *optional):
            changed = whole | {key: odd}
            try:
                config = read(kind, {"config": changed} if kind == "safetensors" else changed)
            except CotejarError:
                continue
            assert config.architecture in {"gemma3", "llama"}


def test_norms_of_a_folder_are_opened_with_their_1(tiny: Any) -> None:
    decoder = TinyDecoder(architecture="gemma3")
    gguf, folder = tiny(decoder), tiny(decoder, "safetensors")

    assert folder.fingerprint == gguf.fingerprint
    name = "model.layers.1.post_feedforward_layernorm.weight"
    stored = folder.file.read_bytes(name).view(np.float32)
    np.testing.assert_array_equal(folder.weights.vector(name), stored + np.float32(1))
    np.testing.assert_array_equal(folder.weights.vector(name), gguf.weights.vector(name))
