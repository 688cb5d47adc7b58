"""The forward pass as data: which operation makes each site, of which sites and weights.

An operation holds its parameters, so that a hypothesis is the same operation with one of
them changed. What it computes from given inputs is `compute`, in float64; products with a
weight are in `products`, which read it by blocks of rows.

Shape letters: T tokens, W width, H heads, K key/value heads, E head size, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cotejar.diagnosis import exact
from cotejar.model.inventory import EMBEDDING, FINAL_NORM, LM_HEAD, layer_tensor
from cotejar.trace.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float64

    from cotejar.model.config import DecoderConfig
    from cotejar.model.weights import Weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Embed:
    """Rows of the embedding table, one a token, times a scale."""

    weight: str = EMBEDDING
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Norm:
    """RMSNorm over the width."""

    weight: str
    eps: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """A product with a weight, and its bias if it has one."""

    weight: str
    bias: str | None = None
    softcap: float | None = None
    """Outputs become cap * tanh(output / cap); None where they stay."""
    row_order: tuple[int, ...] | None = None
    """Output i is row `row_order[i]` of the weight: q and k are compared in half-split
    order, whatever order the file stores; None where they are stored so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotate:
    """RoPE of every head, after the RMSNorm of each head where there is one."""

    head_dim: int
    frequencies: tuple[float, ...]
    """Radians a position, one a pair (i, i + P) of a half-split head."""
    theta: float
    """What the frequencies were made of."""
    norm: Norm | None = None
    first_position: int = 0
    """Of the first row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attend:
    """Causal attention with grouped queries."""

    head_dim: int
    num_kv_heads: int
    scale: float
    window: int | None = None
    softcap: float | None = None
    key_order: tuple[int, ...] | None = None
    """Value i of a key is stored at `key_order[i]` of the cache; None for the same order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Add:
    """The residual stream plus a branch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Activate:
    """The activation of the gate; a key of `exact.ACTIVATIONS`."""

    function: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Multiply:
    """The activated gate times up."""


Step: TypeAlias = Embed | Norm | Project | Rotate | Attend | Add | Activate | Multiply


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """What makes one site."""

    site: Site
    inputs: tuple[Site, ...]
    """None for `embed`, which is made of the token ids."""
    step: Step

    @property
    def name(self) -> str:
        """Of the site."""
        return str(self.site)


def model_operations(config: DecoderConfig, weights: Weights) -> dict[str, Operation]:
    """Every operation by its site's name, in forward order; `qkv` is q, k and v."""
    found = [Operation(site=Site("embed"), inputs=(), step=Embed(scale=config.embedding_scale))]
    for layer in range(config.num_layers):
        found += layer_operations(config, weights, layer)
    last = Site("output", config.num_layers - 1)
    norm = Norm(weight=FINAL_NORM, eps=config.rms_eps)
    found.append(Operation(site=Site("final_norm"), inputs=(last,), step=norm))
    head = Project(
        weight=LM_HEAD if LM_HEAD in weights else EMBEDDING, softcap=config.final_softcap
    )
    found.append(Operation(site=Site("logits"), inputs=(Site("final_norm"),), step=head))
    return {operation.name: operation for operation in found}


def layer_operations(config: DecoderConfig, weights: Weights, layer: int) -> list[Operation]:
    """One layer's operations, in forward order."""

    def make(slot: str, inputs: Sequence[str], step: Step) -> Operation:
        before = Site("output", layer - 1) if layer else Site("embed")
        sites = tuple(before if name == "input" else Site(name, layer) for name in inputs)
        return Operation(site=Site(slot, layer), inputs=sites, step=step)

    def norm(part: str) -> Norm:
        return Norm(weight=layer_tensor(layer, f"{part}.weight"), eps=config.rms_eps)

    def linear(part: str, row_order: tuple[int, ...] | None = None) -> Project:
        bias = layer_tensor(layer, f"{part}.bias")
        return Project(
            weight=layer_tensor(layer, f"{part}.weight"),
            bias=bias if bias in weights else None,
            row_order=row_order,
        )

    def rotation(which: str) -> Rotate:
        rope = config.rope_of(layer)
        return Rotate(
            head_dim=config.head_dim,
            theta=rope.theta,
            frequencies=tuple(
                float(f)
                for f in exact.frequencies(rope.theta, rope.dim, rope.frequency_divisors)
            ),
            norm=norm(f"self_attn.{which}_norm") if config.qk_norm else None,
        )

    post = config.post_norms
    ffn_norm = "pre_feedforward_layernorm" if post else "post_attention_layernorm"
    operations = [
        make("attn_norm", ["input"], norm("input_layernorm")),
        make("q", ["attn_norm"], linear("self_attn.q_proj", _row_order(config, "q"))),
        make("k", ["attn_norm"], linear("self_attn.k_proj", _row_order(config, "k"))),
        make("v", ["attn_norm"], linear("self_attn.v_proj")),
        make("q_rope", ["q"], rotation("q")),
        make("k_rope", ["k"], rotation("k")),
        make("attn_context", ["q_rope", "k_rope", "v"], _attention(config, layer)),
        make("attn_out", ["attn_context"], linear("self_attn.o_proj")),
    ]
    if post:
        operations.append(
            make("attn_post_norm", ["attn_out"], norm("post_attention_layernorm"))
        )
    branch = "attn_post_norm" if post else "attn_out"
    operations += [
        make("attn_residual", ["input", branch], Add()),
        make("ffn_norm", ["attn_residual"], norm(ffn_norm)),
        make("ffn_gate", ["ffn_norm"], linear("mlp.gate_proj")),
        make("ffn_up", ["ffn_norm"], linear("mlp.up_proj")),
        make("ffn_silu_gate", ["ffn_gate"], Activate(function=config.activation)),
        make("ffn_swiglu_inner", ["ffn_silu_gate", "ffn_up"], Multiply()),
        make("ffn_out", ["ffn_swiglu_inner"], linear("mlp.down_proj")),
    ]
    if post:
        operations.append(
            make("ffn_post_norm", ["ffn_out"], norm("post_feedforward_layernorm"))
        )
    branch = "ffn_post_norm" if post else "ffn_out"
    operations.append(make("output", ["attn_residual", branch], Add()))
    return operations


def _row_order(config: DecoderConfig, which: str) -> tuple[int, ...] | None:
    if config.rope.pairing == "halves":
        return None
    heads = config.num_heads if which == "q" else config.num_kv_heads
    order = exact.half_split_order(config.head_dim, config.rope.dim)
    starts = np.arange(heads)[:, None] * config.head_dim
    return tuple(int(i) for i in (starts + order).reshape(-1))


def _attention(config: DecoderConfig, layer: int) -> Attend:
    return Attend(
        head_dim=config.head_dim,
        num_kv_heads=config.num_kv_heads,
        scale=(config.query_scalar or config.head_dim) ** -0.5,
        window=config.window_of(layer),
        key_order=_row_order(config, "k"),
    )


def key_heads(attend: Attend, num_heads: int) -> tuple[int, ...]:
    """The key/value head that each query head reads: neighbours share one."""
    group = num_heads // attend.num_kv_heads
    return tuple(head // group for head in range(num_heads))


def vector(weights: Weights, name: str) -> Float64[np.ndarray, "W"]:
    """A norm's weight or a bias, exactly."""
    return weights.vector(name).astype(np.float64)


def compute(
    step: Step,
    inputs: Sequence[Float64[np.ndarray, "T W"]],
    weights: Weights,
    *,
    round_weights: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Float64[np.ndarray, "T W"]:
    """What an operation makes of its inputs; `Embed` and `Project` are in `products`.

    `round_weights` rounds the weights of attention.
    """
    match step:
        case Norm():
            return exact.rms_norm(inputs[0], vector(weights, step.weight), step.eps)
        case Rotate():
            return _rotate(step, inputs[0], weights)
        case Attend():
            return _attend(step, (inputs[0], inputs[1], inputs[2]), round_weights)
        case Add():
            total: np.ndarray = inputs[0] + inputs[1]
            return total
        case Activate():
            return exact.ACTIVATIONS[step.function](inputs[0])
        case Multiply():
            product: np.ndarray = inputs[0] * inputs[1]
            return product
        case _:
            raise TypeError(f"{type(step).__name__} is computed in `products`")


def _rotate(
    step: Rotate, values_TW: Float64[np.ndarray, "T W"], weights: Weights
) -> Float64[np.ndarray, "T W"]:
    values_THE = exact.split_heads(values_TW, step.head_dim)
    if step.norm is not None:
        weight_E = vector(weights, step.norm.weight)
        values_THE = exact.rms_norm(values_THE, weight_E, step.norm.eps)
    positions_T = step.first_position + np.arange(len(values_TW))
    angles_TP = np.outer(positions_T, step.frequencies)
    return exact.join_heads(exact.turn(values_THE, angles_TP))


def _attend(
    step: Attend,
    inputs: tuple[Float64[np.ndarray, "T W"], ...],
    round_weights: Callable[[np.ndarray], np.ndarray] | None,
) -> Float64[np.ndarray, "T W"]:
    q_THE, k_TKE, v_TKE = (exact.split_heads(a, step.head_dim) for a in inputs)
    context_THE = exact.attend(
        q_THE,
        k_TKE,
        v_TKE,
        scale=step.scale,
        visible_TT=exact.visible_keys(len(q_THE), step.window),
        key_heads=key_heads(step, q_THE.shape[1]),
        softcap=step.softcap,
        round_weights=round_weights,
    )
    return exact.join_heads(context_THE)
