"""Which module of a transformers model holds which site: the map from modules to slots.

The names are those of transformers' Llama, Mistral, Qwen and Gemma classes. A layer reads

    input_layernorm  self_attn.{q,k,v,o}_proj  post_attention_layernorm
    mlp.{gate_proj, up_proj, act_fn, down_proj}

and, where each block is also normalised behind, `pre_feedforward_layernorm` and
`post_feedforward_layernorm`; there `post_attention_layernorm` comes before the residual
addition, and without them it comes after. A model that has none of this is refused: a hook
on a module of the same name in another structure would read another thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotejar.errors import ArchitectureError

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tap:
    """One site, and the module at which it is read."""

    slot: str
    layer: int | None
    module: Any
    """A `torch.nn.Module`."""
    reads_input: bool = False
    """What goes into the module, and not what comes out."""


LAYER_PARTS = (
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.act_fn",
    "mlp.down_proj",
)
"""Modules that every layer must have."""

SANDWICH_PARTS = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
"""Modules that a layer has both of or neither."""


def find_layers(model: Any) -> list[Any]:
    """The decoder layers of a model, each with every part that is to be read.

    Raises:
        ArchitectureError: the model has no such layers.
    """
    outside = ("model.embed_tokens", "model.layers", "model.norm", "lm_head")
    absent = [name for name in outside if find_part(model, name) is None]
    if absent:
        raise _unknown_structure(model, f"no {absent[0]}")
    layers = list(model.model.layers)
    if not layers:
        raise _unknown_structure(model, "model.layers is empty")
    for index, layer in enumerate(layers):
        absent = [name for name in LAYER_PARTS if find_part(layer, name) is None]
        sandwich = [name for name in SANDWICH_PARTS if find_part(layer, name) is not None]
        if len(sandwich) == 1:
            absent += [name for name in SANDWICH_PARTS if name not in sandwich]
        if absent:
            raise _unknown_structure(model, f"no model.layers.{index}.{absent[0]}")
    return layers


def find_taps(model: Any) -> list[Tap]:
    """Every site that a hook on a module can read.

    `qkv` is made of three of them, `q_rope` and `k_rope` are seen where attention is called,
    and `logits` are what the model returns.

    Raises:
        ArchitectureError: as `find_layers`.
    """
    layers = find_layers(model)
    taps = [Tap(slot="embed", layer=None, module=model.model.embed_tokens)]
    for index, layer in enumerate(layers):
        taps += [
            Tap(slot=slot, layer=index, module=module, reads_input=reads_input)
            for slot, module, reads_input in _layer_slots(layer)
        ]
    taps.append(Tap(slot="final_norm", layer=None, module=model.model.norm))
    return taps


def _layer_slots(layer: Any) -> Iterator[tuple[str, Any, bool]]:
    """(slot, module, whether its input is read) for one layer."""
    attention, mlp = layer.self_attn, layer.mlp
    before_ffn = layer.post_attention_layernorm
    if find_part(layer, SANDWICH_PARTS[0]) is not None:
        yield "attn_post_norm", layer.post_attention_layernorm, False
        yield "ffn_post_norm", layer.post_feedforward_layernorm, False
        before_ffn = layer.pre_feedforward_layernorm
    yield "attn_norm", layer.input_layernorm, False
    yield "q", attention.q_proj, False
    yield "k", attention.k_proj, False
    yield "v", attention.v_proj, False
    yield "attn_context", attention.o_proj, True
    yield "attn_out", attention.o_proj, False
    yield "attn_residual", before_ffn, True
    yield "ffn_norm", before_ffn, False
    yield "ffn_gate", mlp.gate_proj, False
    yield "ffn_up", mlp.up_proj, False
    yield "ffn_silu_gate", mlp.act_fn, False
    yield "ffn_swiglu_inner", mlp.down_proj, True
    yield "ffn_out", mlp.down_proj, False
    yield "output", layer, False


def find_part(module: Any, path: str) -> Any | None:
    """`module.a.b` for the path `a.b`, or None where there is no such thing."""
    for name in path.split("."):
        module = getattr(module, name, None)
        if module is None:
            return None
    return module


def _unknown_structure(model: Any, found: str) -> ArchitectureError:
    return ArchitectureError(
        f"the structure of {type(model).__name__} is not known",
        where=f"{type(model).__module__}.{type(model).__name__}",
        expected="model.embed_tokens, model.layers, model.norm and lm_head, and in a layer: "
        + ", ".join(LAYER_PARTS),
        found=found,
        hint="give a Llama, Mistral, Qwen2, Qwen3 or Gemma3 model for causal language "
        "modelling itself, not what wraps it",
    )
