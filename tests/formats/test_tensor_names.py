"""The two spellings of a tensor's name."""

from __future__ import annotations

import gguf
import pytest

from cotejar.formats.tensor_names import to_gguf, to_hugging_face

LAYER_PARTS = (
    "input_layernorm.weight",
    "self_attn.q_proj.weight",
    "self_attn.q_proj.bias",
    "self_attn.k_proj.weight",
    "self_attn.k_proj.bias",
    "self_attn.v_proj.weight",
    "self_attn.v_proj.bias",
    "self_attn.o_proj.weight",
    "self_attn.o_proj.bias",
    "self_attn.q_norm.weight",
    "self_attn.k_norm.weight",
    "post_attention_layernorm.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
    "mlp.down_proj.bias",
)
NAMES = (
    "model.embed_tokens.weight",
    "model.norm.weight",
    "lm_head.weight",
    *(f"model.layers.{layer}.{part}" for layer in (0, 7, 31, 126) for part in LAYER_PARTS),
)


@pytest.mark.parametrize("architecture", [gguf.MODEL_ARCH.LLAMA, gguf.MODEL_ARCH.QWEN3])
def test_names_are_those_of_the_gguf_package(architecture) -> None:
    table = gguf.get_tensor_name_map(architecture, 127)
    for name in NAMES:
        theirs = table.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is not None:  # llama has no q_norm
            assert to_gguf(name) == theirs


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(name) -> None:
    there = to_gguf(name)
    assert there is not None
    assert to_hugging_face(there) == name


GEMMA_PARTS = (
    *(part for part in LAYER_PARTS if not part.endswith(".bias")),
    "pre_feedforward_layernorm.weight",
    "post_feedforward_layernorm.weight",
)


@pytest.mark.parametrize("architecture", ["gemma3", "gemma3_text"])
@pytest.mark.parametrize("part", GEMMA_PARTS)
def test_gemma3_has_names_of_its_own(architecture: str, part: str) -> None:
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, 127)
    name = f"model.layers.7.{part}"

    theirs = to_gguf(name, architecture)

    assert theirs == table.get_name(name, try_suffixes=(".weight",))
    assert to_hugging_face(theirs, architecture) == name


def test_one_name_is_two_norms() -> None:
    """Hugging Face's `post_attention_layernorm` is another norm in gemma3."""
    name = "model.layers.0.post_attention_layernorm.weight"

    assert to_gguf(name, "llama") == to_gguf(name) == "blk.0.ffn_norm.weight"
    assert to_gguf(name, "gemma3") == "blk.0.post_attention_norm.weight"
    assert to_hugging_face("blk.0.post_attention_norm.weight", "llama") is None


def test_rope_freqs_keeps_its_name() -> None:
    assert to_gguf("rope_freqs.weight") == to_hugging_face("rope_freqs.weight")
    assert to_gguf("rope_freqs.weight") == "rope_freqs.weight"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "token_embd",
        "token_embd.weight.weight",
        "token_embd.scale",
        "blk.01.attn_q.weight",
        "blk.-1.attn_q.weight",
        "blk.1234567.attn_q.weight",
        "blk.\u0661.attn_q.weight",  # a digit, but no ASCII one
        "blk.0.attn_qkv.weight",
        "blk.0.ffn_gate_exps.weight",
        "blk.0.attn_q.weight\n",
        "model.layers.0.self_attn.q_proj.weight",
    ],
)
def test_no_gguf_name_of_ours(name) -> None:
    assert to_hugging_face(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.00.self_attn.q_proj.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.0.self_attn.qkv_proj.weight",
        "layers.0.self_attn.q_proj.weight",
        "transformer.wte.weight",
        "blk.0.attn_q.weight",
    ],
)
def test_no_hugging_face_name_of_ours(name) -> None:
    assert to_gguf(name) is None
