"""The weights of one layer, looked up once and not again for every token.

Each is named by the slot that its product or norm gives: `ffn_gate`, `attn_out`; the norms
of q and k, which no slot shows on its own, are `q_norm` and `k_norm`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.model.inventory import layer_tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float32
    from numpy import ndarray

    from cotejar.model.language_model import LanguageModel
    from cotejar.quant.block_matrix import BlockMatrix

LINEAR_PARTS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_out": "mlp.down_proj",
}
"""The canonical name, within a layer, of the weight behind each product."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayerWeights:
    """One layer's weights: matrices in their blocks, vectors decoded."""

    linears: Mapping[str, tuple[BlockMatrix, Float32[ndarray, "R"] | None]]
    """Weight and bias of each product."""
    norms: Mapping[str, Float32[ndarray, "W"]]
    """The weight of each RMSNorm."""


def norm_parts(model: LanguageModel) -> dict[str, str]:
    """The canonical name, within a layer, of the weight behind each norm."""
    parts = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    if model.config.qk_norm:
        parts |= {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
    return parts


def prepare_layers(model: LanguageModel) -> tuple[LayerWeights, ...]:
    """Look up every layer's weights."""
    weights, norms = model.weights, norm_parts(model)
    return tuple(
        LayerWeights(
            linears={
                slot: (
                    weights[layer_tensor(layer, f"{part}.weight")],
                    weights.optional_vector(layer_tensor(layer, f"{part}.bias")),
                )
                for slot, part in LINEAR_PARTS.items()
            },
            norms={
                slot: weights.vector(layer_tensor(layer, f"{part}.weight"))
                for slot, part in norms.items()
            },
        )
        for layer in range(model.config.num_layers)
    )
