"""The native forward pass, top to bottom.

The same layer as everywhere: attention with rotary positions and grouped queries, then a
gated feed-forward, each behind an RMSNorm (gemma3: and before another) and added to the
residual stream. Matrix products go to `multiply`, which the numerics choose; everything else
is float32 in `kernels.operations`.

Every operation is one method, with the layer it works in (None outside the layers), arrays
in and arrays out, so that a subclass can make exactly one of them another. A product or a
norm is named by the slot that it gives.

q and k are turned in the row order of the weights. A GGUF of architecture llama stores
neighbouring pairs; only what is captured is brought to half-split order.

Shape letters: T new tokens, S all tokens so far, D width, H heads, K key/value heads, E head
size, F feed-forward width, V vocabulary, P pairs, C columns, R rows, W any width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from cotejar.engines.native.activations import gelu_tanh, softcap
from cotejar.engines.native.layer_weights import prepare_layers
from cotejar.engines.native.rope import in_canonical_order, rope_tables
from cotejar.formats.mapped_file import release_pages
from cotejar.kernels import operations
from cotejar.kernels.arrays import add_arrays
from cotejar.kernels.products import multiply_w8a8, product_of_head
from cotejar.model.inventory import EMBEDDING, FINAL_NORM
from cotejar.trace.array_store import token_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jaxtyping import Float32

    from cotejar.engines.native.cache import KVCache
    from cotejar.model.language_model import LanguageModel
    from cotejar.quant.block_matrix import BlockMatrix
    from cotejar.trace.forward_trace import TraceRecorder

    Multiply = Callable[[BlockMatrix, Float32[np.ndarray, "T C"]], Float32[np.ndarray, "T R"]]


class Pass:
    """Forward passes over new tokens, after those that the cache holds."""

    def __init__(
        self,
        model: LanguageModel,
        multiply: Multiply,
        cache: KVCache,
        recorder: TraceRecorder | None = None,
    ) -> None:
        self.model = model
        self.multiply = multiply
        self.multiply_head = product_of_head(multiply)
        self.attends_in_float32 = multiply is multiply_w8a8
        self.cache = cache
        self.recorder = recorder
        self._layers = prepare_layers(model)
        self._adjacent = model.config.rope.pairing == "adjacent"
        # Scores are divided by sqrt(head_dim) in any case.
        scalar = model.config.query_scalar
        self._query_factor = None if scalar is None else (model.config.head_dim / scalar) ** 0.5
        self._num_new_tokens = 0
        self._last_only = False
        self._tables: dict[bool, tuple[np.ndarray, np.ndarray]] = {}

    def run(self, token_ids: Sequence[int], *, last_only: bool) -> Float32[np.ndarray, "T V"]:
        """Logits of every new position, or (1, V) of the last.

        Where a recorder keeps many, they are computed by parts, and those of the last part
        come back.
        """
        self._num_new_tokens, self._tables = len(token_ids), {}
        self._last_only = last_only

        hidden_TD = self.embed(token_ids)
        self._see("embed", hidden_TD)
        for layer in range(self.model.config.num_layers):
            hidden_TD = self._attention(layer, hidden_TD)
            hidden_TD = self._feed_forward(layer, hidden_TD)
            if self.recorder and self.recorder.wants_arrays:
                # What is captured takes memory enough; the weights have been read.
                release_pages(self._layers[layer].linears["ffn_out"][0].raw)
        self.cache.advance(len(token_ids))

        if last_only:
            hidden_TD = self.last_rows(hidden_TD)
        return self._logits(self.norm(None, "final_norm", hidden_TD))

    def _logits(self, hidden_TD: Float32[np.ndarray, "T D"]) -> Float32[np.ndarray, "N V"]:
        self._see("final_norm", hidden_TD)
        row_bytes = 4 * self.model.config.vocab_size
        if self.recorder and self.recorder.takes_parts(len(hidden_TD) * row_bytes):
            return self._head_by_parts(self.recorder, hidden_TD, row_bytes)
        logits_TV = self.head(hidden_TD)
        self._see("logits", logits_TV)
        return logits_TV

    def _head_by_parts(
        self, recorder: TraceRecorder, hidden_TD: Float32[np.ndarray, "T D"], row_bytes: int
    ) -> Float32[np.ndarray, "N V"]:
        last: list[np.ndarray] = []

        def parts() -> Iterator[np.ndarray]:
            for rows in token_parts(len(hidden_TD), row_bytes):
                last[:] = [self.head(hidden_TD[rows])]
                yield last[0]

        shape = (len(hidden_TD), row_bytes // 4)
        recorder.record_parts("logits", parts(), shape, np.dtype(np.float32))
        return last[0]

    def _attention(
        self, layer: int, hidden_TD: Float32[np.ndarray, "T D"]
    ) -> Float32[np.ndarray, "T D"]:
        config, tokens = self.model.config, len(hidden_TD)
        x_TD = self.norm(layer, "attn_norm", hidden_TD)
        q_TW, k_TW, v_TW = self._project(layer, x_TD)
        q_THE = q_TW.reshape(len(q_TW), -1, config.head_dim)
        k_TKE = k_TW.reshape(tokens, -1, config.head_dim)
        v_TKE = v_TW.reshape(tokens, -1, config.head_dim)

        if config.qk_norm:
            q_THE = self.norm(layer, "q_norm", q_THE)
            k_TKE = self.norm(layer, "k_norm", k_TKE)
        q_THE, k_TKE = self._turn_both(layer, q_THE, k_TKE)

        k_SKE, v_SKE = self.extend_cache(layer, k_TKE, v_TKE)
        context_TD = self.attend(layer, q_THE, k_SKE, v_SKE).reshape(len(q_THE), -1)
        return self._project_back(layer, "attn", hidden_TD, context_TD)

    def _project(
        self, layer: int, x_TD: Float32[np.ndarray, "T D"]
    ) -> tuple[Float32[np.ndarray, "T W"], ...]:
        self._see("attn_norm", x_TD, layer)
        k_TW = self.linear(layer, "k", x_TD)
        v_TW = self.linear(layer, "v", x_TD)
        q_TW = self.linear(layer, "q", self._asking_rows(layer, x_TD))
        if self.recorder:
            self._see_qkv(layer, q_TW, k_TW, v_TW)
        return q_TW, k_TW, v_TW

    def _turn_both(
        self,
        layer: int,
        q_THE: Float32[np.ndarray, "T H E"],
        k_TKE: Float32[np.ndarray, "T K E"],
    ) -> tuple[Float32[np.ndarray, "T H E"], Float32[np.ndarray, "T K E"]]:
        return self._turn(layer, q_THE, "q"), self._turn(layer, k_TKE, "k")

    def _turn(
        self, layer: int, values_THE: Float32[np.ndarray, "T H E"], which: Literal["q", "k"]
    ) -> Float32[np.ndarray, "T H E"]:
        values_THE = self.rotate(layer, values_THE, which=which)
        if self.recorder:
            values_TW = values_THE.reshape(len(values_THE), -1)
            self._see(f"{which}_rope", values_TW, layer, self._in_canonical_order)
        return values_THE

    def _feed_forward(
        self, layer: int, hidden_TD: Float32[np.ndarray, "T D"]
    ) -> Float32[np.ndarray, "T D"]:
        x_TD = self.norm(layer, "ffn_norm", hidden_TD)
        return self._project_back(layer, "ffn", hidden_TD, self._gated(layer, x_TD))

    def _gated(
        self, layer: int, x_TD: Float32[np.ndarray, "T D"]
    ) -> Float32[np.ndarray, "T F"]:
        self._see("ffn_norm", x_TD, layer)
        gate_TF = self.linear(layer, "ffn_gate", x_TD)
        up_TF = self.linear(layer, "ffn_up", x_TD)
        self._see("ffn_gate", gate_TF, layer)
        self._see("ffn_up", up_TF, layer)
        activated_TF = self.activate(layer, gate_TF)
        self._see("ffn_silu_gate", activated_TF, layer)
        inner_TF = self.gate_product(layer, activated_TF, up_TF)
        self._see("ffn_swiglu_inner", inner_TF, layer)
        return inner_TF

    def _project_back(
        self,
        layer: int,
        which: Literal["attn", "ffn"],
        hidden_TD: Float32[np.ndarray, "T D"],
        inputs_TC: Float32[np.ndarray, "T C"],
    ) -> Float32[np.ndarray, "T D"]:
        if which == "attn":
            self._see("attn_context", inputs_TC, layer)
        branch_TD = self.linear(layer, f"{which}_out", inputs_TC)
        return self._join(layer, which, hidden_TD, branch_TD)

    def _join(
        self,
        layer: int,
        which: Literal["attn", "ffn"],
        hidden_TD: Float32[np.ndarray, "T D"],
        branch_TD: Float32[np.ndarray, "T D"],
    ) -> Float32[np.ndarray, "T D"]:
        self._see(f"{which}_out", branch_TD, layer)
        if self.model.config.post_norms:
            branch_TD = self.norm(layer, f"{which}_post_norm", branch_TD)
            self._see(f"{which}_post_norm", branch_TD, layer)
        hidden_TD = self.add_residual(layer, which, hidden_TD, branch_TD)
        self._see("attn_residual" if which == "attn" else "output", hidden_TD, layer)
        return hidden_TD

    def _asking_rows(
        self,
        layer: int,  # noqa: ARG002 - for a subclass
        x_TD: Float32[np.ndarray, "T D"],
    ) -> Float32[np.ndarray, "T D"]:
        """Of the rows, those that attend; a subclass may know that few are needed."""
        return x_TD

    # --- the operations ---------------------------------------------------------------

    def embed(self, token_ids: Sequence[int]) -> Float32[np.ndarray, "T D"]:
        """One row of the embedding table a token, times the model's scale."""
        table, scale = self.model.weights[EMBEDDING], self.model.config.embedding_scale
        rows_TD = table.decode_picked(token_ids)
        return rows_TD if scale == 1 else rows_TD * np.float32(scale)

    def norm(
        self, layer: int | None, part: str, values: Float32[np.ndarray, "... W"]
    ) -> Float32[np.ndarray, "... W"]:
        """RMSNorm; `part` is a key of `LayerWeights.norms`, or `final_norm`."""
        if layer is None:
            weight_W = self.model.weights.vector(FINAL_NORM)
        else:
            weight_W = self._layers[layer].norms[part]
        return operations.rms_norm(values, weight_W, self.model.config.rms_eps)

    def linear(
        self, layer: int, part: str, inputs_TC: Float32[np.ndarray, "T C"]
    ) -> Float32[np.ndarray, "T R"]:
        """A product and its bias; `part` is a key of `LINEAR_PARTS`."""
        weight, bias_R = self._layers[layer].linears[part]
        outputs_TR = self.multiply(weight, inputs_TC)
        return outputs_TR if bias_R is None else outputs_TR + bias_R

    def angles(
        self, layer: int
    ) -> tuple[Float32[np.ndarray, "T P"], Float32[np.ndarray, "T P"]]:
        """Cosine and sine of the new positions' angles."""
        rope = self._layers[layer].rope
        is_local = rope is not self.model.config.rope
        if is_local not in self._tables:
            self._tables[is_local] = rope_tables(
                rope, self.cache.num_tokens, self._num_new_tokens
            )
        return self._tables[is_local]

    def angles_of(
        self, layer: int, num_last: int
    ) -> tuple[Float32[np.ndarray, "T P"], Float32[np.ndarray, "T P"]]:
        """Those of the last new positions alone."""
        cos_TP, sin_TP = self.angles(layer)
        return cos_TP[-num_last:], sin_TP[-num_last:]

    def rotate(
        self,
        layer: int,
        values_THE: Float32[np.ndarray, "T H E"],
        *,
        which: Literal["q", "k"],  # noqa: ARG002 - for a subclass
    ) -> Float32[np.ndarray, "T H E"]:
        """RoPE of the new queries or keys."""
        cos_TP, sin_TP = self.angles_of(layer, len(values_THE))
        return operations.rotate(values_THE, cos_TP, sin_TP, adjacent=self._adjacent)

    def extend_cache(
        self,
        layer: int,
        k_TKE: Float32[np.ndarray, "T K E"],
        v_TKE: Float32[np.ndarray, "T K E"],
    ) -> tuple[Float32[np.ndarray, "S K E"], Float32[np.ndarray, "S K E"]]:
        """Keep the new keys and values; all of them, old and new."""
        return self.cache.extend(layer, k_TKE, v_TKE)

    def attend(
        self,
        layer: int,
        q_THE: Float32[np.ndarray, "T H E"],
        k_SKE: Float32[np.ndarray, "S K E"],
        v_SKE: Float32[np.ndarray, "S K E"],
    ) -> Float32[np.ndarray, "T H E"]:
        """Causal attention of the new tokens over all."""
        window = self._layers[layer].window
        return operations.attend(
            self.scaled_queries(q_THE),
            k_SKE,
            v_SKE,
            window=window,
            in_float32=self.attends_in_float32,
        )

    def scaled_queries(
        self, q_THE: Float32[np.ndarray, "T H E"]
    ) -> Float32[np.ndarray, "T H E"]:
        """Queries such that dividing their scores by sqrt(E) gives what the model wants."""
        return q_THE if self._query_factor is None else q_THE * np.float32(self._query_factor)

    def activate(
        self,
        layer: int,  # noqa: ARG002 - for a subclass
        gate_TF: Float32[np.ndarray, "T F"],
    ) -> Float32[np.ndarray, "T F"]:
        """SiLU of the gate projection, or what the model has."""
        if self.model.config.activation == "gelu_tanh":
            return gelu_tanh(gate_TF)
        return operations.silu(gate_TF)

    def gate_product(
        self,
        layer: int,  # noqa: ARG002 - for a subclass
        activated_TF: Float32[np.ndarray, "T F"],
        up_TF: Float32[np.ndarray, "T F"],
    ) -> Float32[np.ndarray, "T F"]:
        """The activated gate times up."""
        return operations.multiply_elements(activated_TF, up_TF)

    def add_residual(
        self,
        layer: int,  # noqa: ARG002 - for a subclass
        which: Literal["attn", "ffn"],  # noqa: ARG002 - for a subclass
        hidden_TD: Float32[np.ndarray, "T D"],
        branch_TD: Float32[np.ndarray, "T D"],
    ) -> Float32[np.ndarray, "T D"]:
        """The residual stream plus what attention or the feed-forward adds to it."""
        return add_arrays(hidden_TD, branch_TD)

    def last_rows(self, hidden_TD: Float32[np.ndarray, "T D"]) -> Float32[np.ndarray, "N D"]:
        """The rows whose logits are asked for where not all are."""
        return hidden_TD[-1:]

    def head(self, hidden_TD: Float32[np.ndarray, "T D"]) -> Float32[np.ndarray, "T V"]:
        """The logits."""
        logits_TV = self.multiply_head(self.model.weights.lm_head, hidden_TD)
        cap = self.model.config.final_softcap
        return logits_TV if cap is None else softcap(logits_TV, cap)

    # --- what is recorded -------------------------------------------------------------

    def _see(
        self,
        slot: str,
        values_TW: Float32[np.ndarray, "T W"],
        layer: int | None = None,
        arrange: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        if self.recorder:
            self.recorder.record(slot, values_TW, layer, arrange=arrange)

    def _see_qkv(
        self,
        layer: int,
        q_TW: Float32[np.ndarray, "T W"],
        k_TW: Float32[np.ndarray, "T W"],
        v_TW: Float32[np.ndarray, "T W"],
    ) -> None:
        self._see("q", q_TW, layer, self._in_canonical_order)
        self._see("k", k_TW, layer, self._in_canonical_order)
        self._see("v", v_TW, layer)
        if self.recorder:
            self.recorder.record_joined(
                "qkv", ("q", "k", "v"), layer, join=lambda: self._join_qkv(q_TW, k_TW, v_TW)
            )

    def _join_qkv(
        self,
        q_TW: Float32[np.ndarray, "T W"],
        k_TW: Float32[np.ndarray, "T W"],
        v_TW: Float32[np.ndarray, "T W"],
    ) -> Float32[np.ndarray, "T W"]:
        q_TW, k_TW = self._in_canonical_order(q_TW), self._in_canonical_order(k_TW)
        return np.concatenate([q_TW, k_TW, v_TW], axis=1)

    def _in_canonical_order(
        self, values_TW: Float32[np.ndarray, "T W"]
    ) -> Float32[np.ndarray, "T W"]:
        config = self.model.config
        values_THE = values_TW.reshape(len(values_TW), -1, config.head_dim)
        return in_canonical_order(values_THE, config.rope)
