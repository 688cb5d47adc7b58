"""The oracle: the forward pass in float64, written to be read, not to be fast.

It decodes the same bytes that every other engine reads and then makes no approximation:
no KV cache, no fusion, no options. It shares no arithmetic with any other engine, since an
oracle that shares code with its subject proves nothing.

One layer of a decoder with RMSNorm, rotary positions, grouped-query attention and SwiGLU:

    h = h + O softmax(q k / sqrt(E)) v         with q, k, v from RMSNorm(h), q and k turned
    h = h + D (silu(G x) * U x)                with x = RMSNorm(h)

gemma3 has GELU for SiLU, a second RMSNorm behind O and behind D, a window and a RoPE of its
own in most layers, and multiplies what it embeds.

Shape letters: T tokens, D width, H heads, K key/value heads, E head size, F feed-forward
width, V vocabulary, P pairs (half of a head's turning values).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

import cotejar
from cotejar.engines.protocol import check_token_ids
from cotejar.engines.tracing import finish_trace
from cotejar.formats.mapped_file import release_pages
from cotejar.model.inventory import EMBEDDING, FINAL_NORM, layer_tensor
from cotejar.trace.array_store import token_parts
from cotejar.trace.forward_trace import EngineInfo, TraceRecorder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float64

    from cotejar.model.config import DecoderConfig, RopeConfig
    from cotejar.model.language_model import LanguageModel
    from cotejar.quant.block_matrix import BlockMatrix
    from cotejar.trace.forward_trace import Capture, ForwardTrace

ROWS_AT_ONCE_BYTES = 8 << 20
"""A weight is decoded in blocks of rows of about this size in float64."""


class OracleEngine:
    """The exact forward pass of one model."""

    def __init__(self, model: LanguageModel, *, numerics: str = "f64") -> None:
        self.model = model
        self.info = EngineInfo(
            name="oracle",
            build=f"cotejar {cotejar.__version__}, numpy {np.__version__}",
            numerics=numerics,
        )

    def trace(
        self, token_ids: Sequence[int], *, capture: Capture, prompt: str | None = None
    ) -> ForwardTrace:
        """Run the tokens from position 0; arrays are float64."""
        declared = self.model.declared.config
        check_token_ids(
            token_ids,
            vocab_size=declared.vocab_size,
            context_length=declared.context_length,
        )
        recorder = TraceRecorder(capture)
        # Infinite weights make NaN; the trace reports them, numpy need not.
        with np.errstate(all="ignore"):
            forward(self.model, token_ids, recorder)
        return finish_trace(
            recorder,
            engine=self.info,
            model=self.model,
            token_ids=token_ids,
            prompt=prompt,
        )


def forward(model: LanguageModel, token_ids: Sequence[int], recorder: TraceRecorder) -> None:
    """The whole forward pass; what it computes is the recorder's."""
    config, weights = model.config, model.weights

    hidden_TD = np.concatenate([decode(weights[EMBEDDING], id_, id_ + 1) for id_ in token_ids])
    hidden_TD = hidden_TD * config.embedding_scale
    recorder.record("embed", hidden_TD, None)

    for layer in range(config.num_layers):
        hidden_TD = run_layer(model, layer, hidden_TD, recorder)
        release_pages(weights[layer_tensor(layer, "mlp.down_proj.weight")].raw)

    hidden_TD = rms_norm(hidden_TD, decode_vector(weights[FINAL_NORM]), config.rms_eps)
    recorder.record("final_norm", hidden_TD, None)
    row_bytes = 8 * config.vocab_size
    if recorder.takes_parts(len(hidden_TD) * row_bytes):
        parts = (
            head(model, hidden_TD[rows]) for rows in token_parts(len(hidden_TD), row_bytes)
        )
        shape = (len(hidden_TD), config.vocab_size)
        recorder.record_parts("logits", parts, shape, np.dtype(np.float64))
        return
    recorder.record("logits", head(model, hidden_TD), None)


def head(
    model: LanguageModel, hidden_TD: Float64[np.ndarray, "T D"]
) -> Float64[np.ndarray, "T V"]:
    """The logits of some positions."""
    logits_TV = project(model.weights.lm_head, hidden_TD)
    if model.config.final_softcap is not None:
        logits_TV = model.config.final_softcap * np.tanh(logits_TV / model.config.final_softcap)
    return logits_TV


def run_layer(
    model: LanguageModel,
    layer: int,
    hidden_TD: Float64[np.ndarray, "T D"],
    recorder: TraceRecorder,
) -> Float64[np.ndarray, "T D"]:
    """Attention, then feed-forward, each added to the residual stream."""
    hidden_TD = hidden_TD + run_attention(model, layer, hidden_TD, recorder)
    recorder.record("attn_residual", hidden_TD, layer)
    hidden_TD = hidden_TD + run_feed_forward(model, layer, hidden_TD, recorder)
    recorder.record("output", hidden_TD, layer)
    return hidden_TD


def run_attention(
    model: LanguageModel,
    layer: int,
    hidden_TD: Float64[np.ndarray, "T D"],
    recorder: TraceRecorder,
) -> Float64[np.ndarray, "T D"]:
    """What attention adds to the residual stream."""
    config = model.config
    see = partial(recorder.record, layer=layer)
    norm, linear = partial(apply_norm, model, layer), partial(apply_linear, model, layer)

    x_TD = norm("input_layernorm", hidden_TD)
    see("attn_norm", x_TD)

    q_THE = split_heads(linear("self_attn.q_proj", x_TD), config.head_dim)
    k_TKE = split_heads(linear("self_attn.k_proj", x_TD), config.head_dim)
    v_TKE = split_heads(linear("self_attn.v_proj", x_TD), config.head_dim)
    # From here on q and k are in half-split order, whatever order the rows are stored in.
    q_THE, k_TKE = to_half_split(q_THE, config.rope), to_half_split(k_TKE, config.rope)
    see("q", join_heads(q_THE))
    see("k", join_heads(k_TKE))
    see("v", join_heads(v_TKE))
    see("qkv", np.concatenate([join_heads(a) for a in (q_THE, k_TKE, v_TKE)], axis=1))

    if config.qk_norm:
        q_THE = norm("self_attn.q_norm", q_THE)
        k_TKE = norm("self_attn.k_norm", k_TKE)
    rope = config.rope_of(layer)
    q_THE, k_TKE = rotate(q_THE, rope), rotate(k_TKE, rope)
    see("q_rope", join_heads(q_THE))
    see("k_rope", join_heads(k_TKE))

    context_TD = join_heads(attend(q_THE, k_TKE, v_TKE, config, config.window_of(layer)))
    see("attn_context", context_TD)
    out_TD = linear("self_attn.o_proj", context_TD)
    see("attn_out", out_TD)
    if config.post_norms:
        out_TD = norm("post_attention_layernorm", out_TD)
        see("attn_post_norm", out_TD)
    return out_TD


def run_feed_forward(
    model: LanguageModel,
    layer: int,
    hidden_TD: Float64[np.ndarray, "T D"],
    recorder: TraceRecorder,
) -> Float64[np.ndarray, "T D"]:
    """What the feed-forward adds to the residual stream."""
    config = model.config
    see = partial(recorder.record, layer=layer)
    norm, linear = partial(apply_norm, model, layer), partial(apply_linear, model, layer)

    # Where attention has a norm behind it, that one has the other name.
    before = "pre_feedforward_layernorm" if config.post_norms else "post_attention_layernorm"
    x_TD = norm(before, hidden_TD)
    see("ffn_norm", x_TD)
    gate_TF = linear("mlp.gate_proj", x_TD)
    see("ffn_gate", gate_TF)
    up_TF = linear("mlp.up_proj", x_TD)
    see("ffn_up", up_TF)
    activated_TF = activate(gate_TF, config)
    see("ffn_silu_gate", activated_TF)
    inner_TF = activated_TF * up_TF
    see("ffn_swiglu_inner", inner_TF)
    out_TD = linear("mlp.down_proj", inner_TF)
    see("ffn_out", out_TD)
    if config.post_norms:
        out_TD = norm("post_feedforward_layernorm", out_TD)
        see("ffn_post_norm", out_TD)
    return out_TD


def apply_linear(
    model: LanguageModel, layer: int, part: str, inputs_TC: Float64[np.ndarray, "T C"]
) -> Float64[np.ndarray, "T R"]:
    """The product with a layer's weight, and its bias if there is one."""
    weights = model.weights
    outputs_TR = project(weights[layer_tensor(layer, f"{part}.weight")], inputs_TC)
    bias = layer_tensor(layer, f"{part}.bias")
    return outputs_TR + decode_vector(weights[bias]) if bias in weights else outputs_TR


def apply_norm(
    model: LanguageModel, layer: int, part: str, inputs: Float64[np.ndarray, "... W"]
) -> Float64[np.ndarray, "... W"]:
    """A layer's RMSNorm."""
    weight_W = decode_vector(model.weights[layer_tensor(layer, f"{part}.weight")])
    return rms_norm(inputs, weight_W, model.config.rms_eps)


def decode(matrix: BlockMatrix, start: int, stop: int) -> Float64[np.ndarray, "R C"]:
    """Rows of a weight, exactly."""
    return matrix.decode_rows(start, stop).astype(np.float64)


def decode_vector(matrix: BlockMatrix) -> Float64[np.ndarray, "W"]:
    """A norm's weight or a bias, exactly."""
    return decode(matrix, 0, matrix.rows).reshape(-1)


def project(
    matrix: BlockMatrix, inputs_TC: Float64[np.ndarray, "T C"]
) -> Float64[np.ndarray, "T R"]:
    """`inputs @ weight.T`, the weight decoded by blocks of rows."""
    rows_at_once = max(1, ROWS_AT_ONCE_BYTES // (8 * matrix.columns))
    outputs_TR = np.empty((len(inputs_TC), matrix.rows))
    for start in range(0, matrix.rows, rows_at_once):
        stop = min(start + rows_at_once, matrix.rows)
        outputs_TR[:, start:stop] = inputs_TC @ decode(matrix, start, stop).T
    return outputs_TR


def rms_norm(
    values: Float64[np.ndarray, "... W"], weight_W: Float64[np.ndarray, "W"], eps: float
) -> Float64[np.ndarray, "... W"]:
    """Zhang and Sennrich, 2019 (arXiv:1910.07467): x / sqrt(mean(x^2) + eps) * weight."""
    mean_square = np.mean(values**2, axis=-1, keepdims=True)
    normed: np.ndarray = values / np.sqrt(mean_square + eps) * weight_W
    return normed


def activate(
    gate_TF: Float64[np.ndarray, "T F"], config: DecoderConfig
) -> Float64[np.ndarray, "T F"]:
    """SiLU, or GELU with tanh: see `DecoderConfig.activation`."""
    activated_TF: np.ndarray = gate_TF / (1 + np.exp(-gate_TF))
    if config.activation == "gelu_tanh":
        inner_TF = np.sqrt(2 / np.pi) * (gate_TF + 0.044715 * gate_TF**3)
        activated_TF = 0.5 * gate_TF * (1 + np.tanh(inner_TF))
    return activated_TF


def split_heads(values_TW: Float64[np.ndarray, "T W"], e: int) -> Float64[np.ndarray, "T H E"]:
    """(tokens, heads * E) -> (tokens, heads, E)."""
    return values_TW.reshape(len(values_TW), -1, e)


def join_heads(values_THE: Float64[np.ndarray, "T H E"]) -> Float64[np.ndarray, "T W"]:
    """(tokens, heads, E) -> (tokens, heads * E)."""
    return values_THE.reshape(len(values_THE), -1)


def to_half_split(
    values_THE: Float64[np.ndarray, "T H E"], rope: RopeConfig
) -> Float64[np.ndarray, "T H E"]:
    """Bring values whose pairs are neighbours (2i, 2i+1) to the order (i, i + P)."""
    if rope.pairing == "halves":
        return values_THE
    turning, rest = values_THE[..., : rope.dim], values_THE[..., rope.dim :]
    return np.concatenate([turning[..., 0::2], turning[..., 1::2], rest], axis=-1)


def rotate(
    values_THE: Float64[np.ndarray, "T H E"], rope: RopeConfig
) -> Float64[np.ndarray, "T H E"]:
    """Turn pair (i, i + P) of every head by position * frequency i; positions from 0."""
    half = rope.dim // 2
    frequencies_P = rope.theta ** (-np.arange(half) / half)
    if rope.frequency_divisors:
        frequencies_P = frequencies_P / np.array(rope.frequency_divisors)
    angles_T1P = np.arange(len(values_THE))[:, None, None] * frequencies_P
    cos, sin = np.cos(angles_T1P), np.sin(angles_T1P)
    first, second = values_THE[..., :half], values_THE[..., half : rope.dim]
    rest = values_THE[..., rope.dim :]
    return np.concatenate(
        [first * cos - second * sin, second * cos + first * sin, rest], axis=-1
    )


def attend(
    q_THE: Float64[np.ndarray, "T H E"],
    k_TKE: Float64[np.ndarray, "T K E"],
    v_TKE: Float64[np.ndarray, "T K E"],
    config: DecoderConfig,
    window: int | None,
) -> Float64[np.ndarray, "T H E"]:
    """Causal attention; query head h reads key/value head h // (H / K)."""
    scalar = config.head_dim if config.query_scalar is None else config.query_scalar
    tokens = len(q_THE)
    query, key = np.arange(tokens)[:, None], np.arange(tokens)[None, :]
    visible_TT = key <= query
    if window is not None:
        visible_TT &= query - key < window
    context_THE = np.empty_like(q_THE)
    for head in range(config.num_heads):
        kv_head = head // config.queries_per_kv_head
        scores_TT = q_THE[:, head] @ k_TKE[:, kv_head].T / np.sqrt(scalar)
        scores_TT = np.where(visible_TT, scores_TT, -np.inf)
        weights_TT = np.exp(scores_TT - scores_TT.max(axis=1, keepdims=True))
        weights_TT /= weights_TT.sum(axis=1, keepdims=True)
        context_THE[:, head] = weights_TT @ v_TKE[:, kv_head]
    return context_THE
