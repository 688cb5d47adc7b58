"""Which node of llama.cpp's graph is which site.

Names of nodes repeat (`Qcur-3` is a product, the addition of a bias, a view and a rotation)
and some have none, so a node is known by its operation and either the weight it takes or its
own name. Read off the graphs that llama.cpp builds for llama, qwen2, qwen3 and gemma3:

    slot                  node
    embed                 GET_ROWS of token_embd.weight; where it is scaled, SCALE inp_scaled
    attn_norm ffn_norm .. MUL by the weight: blk.N.attn_norm.weight, ...
    q k v attn_out ...    MUL_MAT by the weight; where the model has a bias, ADD of the bias
    q_rope k_rope         ROPE named Qcur-N, Kcur-N
    attn_context          kqv_out-N: CONT, or RESHAPE with flash attention
    attn_residual         ADD named ffn_inp-N, in gemma3 sa_out-N
    ffn_swiglu_inner      SWIGLU named ffn_swiglu-N, GEGLU named ffn_geglu-N
    output                ADD named l_out-N
    logits                MUL_MAT by the head; where they are capped, SCALE result_output

SiLU (GELU) and the product with `up` are one node: `ffn_silu_gate` is never there to be read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.trace.site import Site

if TYPE_CHECKING:
    from cotejar.model.config import DecoderConfig
    from cotejar.trace.forward_trace import Capture

NOT_OBSERVED = frozenset({"ffn_silu_gate"})

NodeKey = tuple[str, str]
"""An operation, as ggml names it, and the name that tells its nodes apart."""


def node_sites(config: DecoderConfig) -> dict[NodeKey, Site]:
    """Every node that is read, and the site it is; `qkv` is put together from three."""
    nodes: dict[NodeKey, Site] = {("MUL", "output_norm.weight"): Site("final_norm")}
    is_scaled = config.embedding_scale != 1
    embed = ("SCALE", "inp_scaled") if is_scaled else ("GET_ROWS", "token_embd.weight")
    nodes[embed] = Site("embed")
    if config.final_softcap is None:
        nodes["MUL_MAT", "output.weight"] = Site("logits")
        # The head of a model that ties it to the table.
        nodes["MUL_MAT", "token_embd.weight"] = Site("logits")
    else:
        nodes["SCALE", "result_output"] = Site("logits")
    projections = (
        ("q", "attn_q", config.qkv_bias),
        ("k", "attn_k", config.qkv_bias),
        ("v", "attn_v", config.qkv_bias),
        ("attn_out", "attn_output", config.output_bias),
        ("ffn_gate", "ffn_gate", config.mlp_bias),
        ("ffn_up", "ffn_up", config.mlp_bias),
        ("ffn_out", "ffn_down", config.mlp_bias),
    )
    gated = {"silu": ("SWIGLU", "ffn_swiglu"), "gelu_tanh": ("GEGLU", "ffn_geglu")}
    operation, gated_name = gated[config.activation]
    residual = "sa_out" if config.post_norms else "ffn_inp"
    for n in range(config.num_layers):
        nodes |= {
            ("MUL", f"blk.{n}.attn_norm.weight"): Site("attn_norm", n),
            ("MUL", f"blk.{n}.ffn_norm.weight"): Site("ffn_norm", n),
            ("ROPE", f"Qcur-{n}"): Site("q_rope", n),
            ("ROPE", f"Kcur-{n}"): Site("k_rope", n),
            ("CONT", f"kqv_out-{n}"): Site("attn_context", n),
            ("RESHAPE", f"kqv_out-{n}"): Site("attn_context", n),
            ("ADD", f"{residual}-{n}"): Site("attn_residual", n),
            (operation, f"{gated_name}-{n}"): Site("ffn_swiglu_inner", n),
            ("ADD", f"l_out-{n}"): Site("output", n),
        }
        if config.post_norms:
            nodes["MUL", f"blk.{n}.post_attention_norm.weight"] = Site("attn_post_norm", n)
            nodes["MUL", f"blk.{n}.post_ffw_norm.weight"] = Site("ffn_post_norm", n)
        for slot, weight, has_bias in projections:
            last = ("ADD", "bias") if has_bias else ("MUL_MAT", "weight")
            nodes[last[0], f"blk.{n}.{weight}.{last[1]}"] = Site(slot, n)
    return nodes


def expected_sites(config: DecoderConfig, capture: Capture) -> set[str]:
    """The sites that a trace must have: those that are read, and the `qkv` made of them."""
    qkv = [Site("qkv", layer) for layer in range(config.num_layers)]
    sites = [*node_sites(config).values(), *qkv]
    return {str(site) for site in sites if capture.wants_site(site)}
