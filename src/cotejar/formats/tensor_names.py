"""Two spellings of the same tensors: Hugging Face's, which `.apr` uses too, and GGUF's.

    model.embed_tokens.weight                   token_embd.weight
    model.norm.weight                           output_norm.weight
    lm_head.weight                              output.weight
    rope_freqs.weight                           rope_freqs.weight     (GGUF's own)
    model.layers.7.self_attn.q_proj.weight      blk.7.attn_q.weight
    ...

The tables hold what decoders of the families llama, mistral, qwen2, qwen3 and gemma3 are
made of. They are spellings only: which of them an architecture has is the model's business,
and nothing here says anything about the order of a tensor's rows.

One pair depends on the architecture. `ffn_norm`, the norm before the feed-forward, is Hugging
Face's `post_attention_layernorm`; gemma3 has a norm behind attention, which takes that name,
and calls the other one `pre_feedforward_layernorm`.

Sources: `gguf-py/gguf/tensor_mapping.py` of llama.cpp for the pairs; the modules of
Hugging Face transformers' `LlamaForCausalLM`, `Qwen3ForCausalLM` and `Gemma3ForCausalLM` for
the left side.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cotejar.formats.model_file import ModelFile

ROPE_FREQS = "rope_freqs.weight"
"""Llama 3's divisors of the RoPE frequencies: a GGUF stores them, Hugging Face's
`config.json` holds the figures to compute them from."""

EMBEDDING = "model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"

_SINGLE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "rope_freqs": "rope_freqs",
}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BEHIND = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
"""Norms behind attention and the feed-forward."""
_IN_GEMMA_LAYER = _IN_LAYER | _BEHIND | {"ffn_norm": "pre_feedforward_layernorm"}
_BY_ARCHITECTURE = {"gemma3": _IN_GEMMA_LAYER, "gemma3_text": _IN_GEMMA_LAYER}
_SINGLE_BACK = {hugging_face: gguf for gguf, hugging_face in _SINGLE.items()}

# A number as both formats write it: `blk.07.` is another name, not a layer. ASCII digits
# only, and few of them: no model has a million layers.
_INDEX = r"(0|[1-9][0-9]{0,5})"
_GGUF_LAYER = re.compile(rf"blk\.{_INDEX}\.([a-z_]+)\.(weight|bias)")
_HUGGING_FACE_LAYER = re.compile(rf"model\.layers\.{_INDEX}\.([a-z_.]+)\.(weight|bias)")
_OUTSIDE_LAYERS = re.compile(r"([a-z_.]+)\.(weight|bias)")


def stated_architecture(file: ModelFile) -> str | None:
    """What a file calls its architecture; None where it does not say."""
    values: Mapping[str, object] = file.metadata
    if file.format == "gguf":
        name = values.get("general.architecture")
    elif file.format == "apr":
        name = values.get("architecture") or values.get("model_type")
    else:
        config = values.get("config")
        name = config.get("model_type") if isinstance(config, Mapping) else None
    return name if isinstance(name, str) and name else None


def to_hugging_face(gguf_name: str, architecture: str | None = None) -> str | None:
    """The Hugging Face spelling of a GGUF tensor name; None if the tables lack it.

    Args:
        gguf_name: the name.
        architecture: as `stated_architecture` has it.
    """
    if match := _GGUF_LAYER.fullmatch(gguf_name):
        layer, part, kind = match.groups()
        known = _BY_ARCHITECTURE.get(architecture or "", _IN_LAYER).get(part)
        return known and f"model.layers.{layer}.{known}.{kind}"
    if match := _OUTSIDE_LAYERS.fullmatch(gguf_name):
        part, kind = match.groups()
        known = _SINGLE.get(part)
        return known and f"{known}.{kind}"
    return None


def to_gguf(hugging_face_name: str, architecture: str | None = None) -> str | None:
    """The GGUF spelling of a Hugging Face tensor name; None if the tables lack it.

    Args:
        hugging_face_name: the name.
        architecture: as `stated_architecture` has it.
    """
    if match := _HUGGING_FACE_LAYER.fullmatch(hugging_face_name):
        layer, part, kind = match.groups()
        table = _BY_ARCHITECTURE.get(architecture or "", _IN_LAYER)
        known = next((gguf for gguf, theirs in table.items() if theirs == part), None)
        return known and f"blk.{layer}.{known}.{kind}"
    if match := _OUTSIDE_LAYERS.fullmatch(hugging_face_name):
        part, kind = match.groups()
        known = _SINGLE_BACK.get(part)
        return known and f"{known}.{kind}"
    return None
