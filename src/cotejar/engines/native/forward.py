"""The native forward pass, top to bottom.

The same layer as everywhere: attention with rotary positions and grouped queries, then
SwiGLU, each behind an RMSNorm and added to the residual stream. Matrix products go to
`multiply`, which the numerics choose; everything else is float32 in `kernels.operations`.

q and k are turned in the row order of the weights. A GGUF of architecture llama stores
neighbouring pairs; only what is captured is brought to half-split order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cotejar.engines.native.rope import in_canonical_order, rope_tables
from cotejar.kernels.arrays import add_arrays, empty_array
from cotejar.kernels.operations import attend, multiply_elements, rms_norm, rotate, silu
from cotejar.model.inventory import EMBEDDING, FINAL_NORM, layer_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float32

    from cotejar.engines.native.cache import KVCache
    from cotejar.model.language_model import LanguageModel
    from cotejar.quant.block_matrix import BlockMatrix
    from cotejar.trace.forward_trace import TraceRecorder

    Multiply = Callable[[BlockMatrix, Float32[np.ndarray, "T C"]], Float32[np.ndarray, "T R"]]


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass over new tokens, after those that the cache holds."""

    model: LanguageModel
    multiply: Multiply
    cache: KVCache
    recorder: TraceRecorder | None = None

    def run(self, token_ids: Sequence[int], *, last_only: bool) -> Float32[np.ndarray, "T V"]:
        """Logits of every new position, or (1, V) of the last."""
        config, weights = self.model.config, self.model.weights

        embedding = weights[EMBEDDING]
        hidden_TD = np.concatenate([embedding.decode_rows(i, i + 1) for i in token_ids])
        self._see("embed", hidden_TD)

        tables = rope_tables(config.rope, self.cache.num_tokens, len(token_ids))
        for layer in range(config.num_layers):
            hidden_TD = add_arrays(hidden_TD, self._attention(layer, hidden_TD, tables))
            self._see("attn_residual", hidden_TD, layer)
            hidden_TD = add_arrays(hidden_TD, self._feed_forward(layer, hidden_TD))
            self._see("output", hidden_TD, layer)
        self.cache.advance(len(token_ids))

        if last_only:
            hidden_TD = hidden_TD[-1:]
        hidden_TD = rms_norm(hidden_TD, weights.vector(FINAL_NORM), config.rms_eps)
        self._see("final_norm", hidden_TD)
        logits_TV = self.multiply(weights.lm_head, hidden_TD)
        self._see("logits", logits_TV)
        return logits_TV

    def _attention(
        self,
        layer: int,
        hidden_TD: Float32[np.ndarray, "T D"],
        tables: tuple[np.ndarray, np.ndarray],
    ) -> Float32[np.ndarray, "T D"]:
        config = self.model.config
        tokens, rope = len(hidden_TD), config.rope
        x_TD = self._norm(layer, "input_layernorm", hidden_TD)
        self._see("attn_norm", x_TD, layer)

        q_THE, k_TKE, v_TKE = (
            self._linear(layer, f"self_attn.{letter}_proj", x_TD).reshape(
                tokens, -1, config.head_dim
            )
            for letter in "qkv"
        )
        if self.recorder:
            q_TW, k_TW, v_TW = (x.reshape(tokens, -1) for x in (q_THE, k_TKE, v_TKE))
            self._see("q", q_TW, layer, self._in_canonical_order)
            self._see("k", k_TW, layer, self._in_canonical_order)
            self._see("v", v_TW, layer)
            qkv_TW = empty_array((tokens, q_TW.shape[1] + 2 * k_TW.shape[1]))
            np.concatenate([q_TW, k_TW, v_TW], axis=1, out=qkv_TW)
            self._see("qkv", qkv_TW, layer, self._qkv_in_canonical_order)

        if config.qk_norm:
            q_THE = self._norm(layer, "self_attn.q_norm", q_THE)
            k_TKE = self._norm(layer, "self_attn.k_norm", k_TKE)
        adjacent = rope.pairing == "adjacent"
        q_THE = rotate(q_THE, *tables, adjacent=adjacent)
        k_TKE = rotate(k_TKE, *tables, adjacent=adjacent)
        self._see("q_rope", q_THE.reshape(tokens, -1), layer, self._in_canonical_order)
        self._see("k_rope", k_TKE.reshape(tokens, -1), layer, self._in_canonical_order)

        k_SKE, v_SKE = self.cache.extend(layer, k_TKE, v_TKE)
        window = config.sliding_window
        context_TD = attend(q_THE, k_SKE, v_SKE, window=window).reshape(tokens, -1)
        self._see("attn_context", context_TD, layer)
        out_TD = self._linear(layer, "self_attn.o_proj", context_TD)
        self._see("attn_out", out_TD, layer)
        return out_TD

    def _feed_forward(
        self, layer: int, hidden_TD: Float32[np.ndarray, "T D"]
    ) -> Float32[np.ndarray, "T D"]:
        x_TD = self._norm(layer, "post_attention_layernorm", hidden_TD)
        self._see("ffn_norm", x_TD, layer)
        gate_TF = self._linear(layer, "mlp.gate_proj", x_TD)
        self._see("ffn_gate", gate_TF, layer)
        up_TF = self._linear(layer, "mlp.up_proj", x_TD)
        self._see("ffn_up", up_TF, layer)
        activated_TF = silu(gate_TF)
        self._see("ffn_silu_gate", activated_TF, layer)
        inner_TF = multiply_elements(activated_TF, up_TF)
        self._see("ffn_swiglu_inner", inner_TF, layer)
        out_TD = self._linear(layer, "mlp.down_proj", inner_TF)
        self._see("ffn_out", out_TD, layer)
        return out_TD

    def _linear(
        self, layer: int, part: str, inputs_TC: Float32[np.ndarray, "T C"]
    ) -> Float32[np.ndarray, "T R"]:
        weights = self.model.weights
        outputs_TR = self.multiply(weights[layer_tensor(layer, f"{part}.weight")], inputs_TC)
        bias_R = weights.optional_vector(layer_tensor(layer, f"{part}.bias"))
        return outputs_TR if bias_R is None else outputs_TR + bias_R

    def _norm(
        self, layer: int, part: str, values: Float32[np.ndarray, "... W"]
    ) -> Float32[np.ndarray, "... W"]:
        weight_W = self.model.weights.vector(layer_tensor(layer, f"{part}.weight"))
        return rms_norm(values, weight_W, self.model.config.rms_eps)

    def _see(
        self,
        slot: str,
        values_TW: Float32[np.ndarray, "T W"],
        layer: int | None = None,
        arrange: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        if self.recorder:
            self.recorder.record(slot, values_TW, layer, arrange=arrange)

    def _in_canonical_order(
        self, values_TW: Float32[np.ndarray, "T W"]
    ) -> Float32[np.ndarray, "T W"]:
        config = self.model.config
        values_THE = values_TW.reshape(len(values_TW), -1, config.head_dim)
        return in_canonical_order(values_THE, config.rope)

    def _qkv_in_canonical_order(
        self, qkv_TW: Float32[np.ndarray, "T W"]
    ) -> Float32[np.ndarray, "T W"]:
        v_size = self.model.config.num_kv_heads * self.model.config.head_dim
        qk_TW, v_TW = qkv_TW[:, :-v_size], qkv_TW[:, -v_size:]
        return np.concatenate([self._in_canonical_order(qk_TW), v_TW], axis=1)
