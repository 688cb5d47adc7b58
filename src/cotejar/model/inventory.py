"""Which tensors a decoder has, by canonical name, and the shape of each.

Canonical names are Hugging Face's: `model.layers.3.self_attn.q_proj.weight`. Shapes are
row-major, `(out, in)` for a projection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cotejar.model.config import DecoderConfig

LINEAR_PARTS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_out": "mlp.down_proj",
}
"""By the slot that a product gives, the canonical name of its weight within a layer."""

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
LM_HEAD = "lm_head.weight"
ROPE_DIVISORS = "rope_freqs.weight"
"""Not a weight of a layer: Llama 3's frequency divisors, as a GGUF stores them."""


def layer_tensor(layer: int, part: str) -> str:
    """The canonical name of a layer's tensor: `layer_tensor(3, "mlp.up_proj.weight")`."""
    return f"model.layers.{layer}.{part}"


def norm_parts(config: DecoderConfig) -> dict[str, str]:
    """By the slot that a norm gives, the canonical name of its weight within a layer.

    The norms of q and k, which no slot shows on its own, are `q_norm` and `k_norm`. Hugging
    Face calls by one name, `post_attention_layernorm`, the norm before the feed-forward and,
    where attention has a norm behind it, that one.
    """
    parts = {"attn_norm": "input_layernorm"}
    if config.qk_norm:
        parts |= {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
    if config.post_norms:
        return parts | {
            "attn_post_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "ffn_post_norm": "post_feedforward_layernorm",
        }
    return parts | {"ffn_norm": "post_attention_layernorm"}


def tensor_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor that this configuration needs, with its shape, in the order of use."""
    d = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, d)}
    parts = _layer_shapes(config)
    for layer in range(config.num_layers):
        shapes |= {layer_tensor(layer, part): shape for part, shape in parts.items()}
    shapes[FINAL_NORM] = (d,)
    if not config.tied_embeddings:
        shapes[LM_HEAD] = (config.vocab_size, d)
    return shapes


def _layer_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    d, f, e = config.hidden_size, config.ffn_size, config.head_dim
    q_size, kv_size = config.num_heads * e, config.num_kv_heads * e
    parts: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (d,)}
    for letter, size in (("q", q_size), ("k", kv_size), ("v", kv_size)):
        parts[f"self_attn.{letter}_proj.weight"] = (size, d)
        if config.qkv_bias:
            parts[f"self_attn.{letter}_proj.bias"] = (size,)
    if config.qk_norm:
        parts |= {"self_attn.q_norm.weight": (e,), "self_attn.k_norm.weight": (e,)}
    parts["self_attn.o_proj.weight"] = (d, q_size)
    if config.output_bias:
        parts["self_attn.o_proj.bias"] = (d,)
    parts["post_attention_layernorm.weight"] = (d,)
    if config.post_norms:
        parts["pre_feedforward_layernorm.weight"] = (d,)
    for name, shape in (("gate", (f, d)), ("up", (f, d)), ("down", (d, f))):
        parts[f"mlp.{name}_proj.weight"] = shape
        if config.mlp_bias:
            parts[f"mlp.{name}_proj.bias"] = shape[:1]
    if config.post_norms:
        parts["post_feedforward_layernorm.weight"] = (d,)
    return parts
