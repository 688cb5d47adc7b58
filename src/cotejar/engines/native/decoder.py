"""One token more in each of some contexts, in one compiled call: `forward.Pass`, bit for bit.

A decode step is bound by the memory, which stands still between two products: Python there
costs a sixth of the time of a small model. Several contexts share one reading of the weights,
and no context's bits depend on the others. The bits are those of `Pass`, and so are the
statistics of a trace; a model or a machine for which the compiled decoder lacks something is
run by `Pass` or `PackedPass`.

Shape letters as in `forward`; N contexts.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from cotejar.engines.native.layer_weights import prepare_layers
from cotejar.engines.native.rope import rope_tables
from cotejar.kernels import _compiled
from cotejar.kernels.arrays import empty_array
from cotejar.kernels.instruction_set import NUMPY, chosen_isa
from cotejar.model.inventory import EMBEDDING, FINAL_NORM
from cotejar.trace.counted_step import CountedSite, StepLayout
from cotejar.trace.site import Site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float32

    from cotejar.engines.native.cache import KVCache
    from cotejar.engines.native.layer_weights import LayerWeights
    from cotejar.model.config import DecoderConfig
    from cotejar.model.language_model import LanguageModel
    from cotejar.quant.block_matrix import BlockMatrix
    from cotejar.trace.forward_trace import TraceRecorder

POSITIONS_AT_ONCE = 256
"""Of which the angles are computed together."""


class Decoder:
    """All layers of one model, for one token after those that each cache holds."""

    def __init__(self, model: LanguageModel) -> None:
        config, weights = model.config, model.weights
        self._model = model
        self._tables: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._compiled = _compiled.Decoder(
            isa=chosen_isa(),
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            head_size=config.head_dim,
            pairs=config.rope.dim // 2,
            adjacent=config.rope.pairing == "adjacent",
            window=config.window_of(0) or 0,
            eps=config.rms_eps,
            embedding=_linear(weights[EMBEDDING], None),
            final_norm=weights.vector(FINAL_NORM),
            lm_head=_linear(weights.lm_head, None),
        )
        for layer in prepare_layers(model):
            norms = layer.norms
            self._compiled.add_layer(
                norms["attn_norm"],
                norms["ffn_norm"],
                norms.get("q_norm"),
                norms.get("k_norm"),
                *(_linear(*layer.linears[slot]) for slot in _LINEARS),
            )

    def step(self, parts: Sequence[tuple[KVCache, int]]) -> Float32[np.ndarray, "N V"]:
        """Extend every context by one token; the logits after it, a row each."""
        return self._run(parts, measured=False)[0]

    def step_traced(
        self, cache: KVCache, token_id: int, recorder: TraceRecorder
    ) -> Float32[np.ndarray, "1 V"]:
        """Extend one context and record all sites; the recorder's `takes_step` was asked."""
        logits_1V, moments = self._run([(cache, token_id)], measured=True)
        if moments is not None:
            recorder.record_step(self._layout, moments, logits_1V)
        return logits_1V

    @cached_property
    def _layout(self) -> StepLayout:
        config, vocab_size = self._model.config, self._model.weights.lm_head.rows
        outside = (("embed", config.hidden_size), ("final_norm", config.hidden_size))
        embed, *last = (
            CountedSite(Site(slot), width) for slot, width in (*outside, ("logits", vocab_size))
        )
        layers = (
            CountedSite(Site(slot, layer), _width(config, slot))
            for layer in range(config.num_layers)
            for slot in COUNTED_SLOTS
        )
        return StepLayout((embed, *layers, *last), joined="qkv", of=("q", "k", "v"))

    def _run(
        self, parts: Sequence[tuple[KVCache, int]], *, measured: bool
    ) -> tuple[Float32[np.ndarray, "N V"], bytes | None]:
        token_ids = [int(token) for _, token in parts]
        angles = [self._angles(cache.num_tokens) for cache, _ in parts]
        cos_NP, sin_NP = (np.stack(table) for table in zip(*angles, strict=True))
        rows, caches = zip(*(cache.row_for_next() for cache, _ in parts), strict=True)
        logits_NV = empty_array((len(parts), self._model.weights.lm_head.rows))
        moments = self._compiled.step(
            token_ids, cos_NP, sin_NP, list(caches), list(rows), logits_NV, measured
        )
        for cache, _ in parts:
            cache.advance(1)
        return logits_NV, moments

    def _angles(
        self, position: int
    ) -> tuple[Float32[np.ndarray, "P"], Float32[np.ndarray, "P"]]:
        part, index = divmod(position, POSITIONS_AT_ONCE)
        if part not in self._tables:
            rope = self._model.config.rope
            self._tables[part] = rope_tables(rope, part * POSITIONS_AT_ONCE, POSITIONS_AT_ONCE)
        cos_TP, sin_TP = self._tables[part]
        return cos_TP[index], sin_TP[index]


COUNTED_SLOTS = (
    "attn_norm",
    "q",
    "k",
    "v",
    "q_rope",
    "k_rope",
    "attn_context",
    "attn_out",
    "attn_residual",
    "ffn_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_silu_gate",
    "ffn_swiglu_inner",
    "ffn_out",
    "output",
)
"""What the compiled step measures in a layer, in its order: `LayerSite` there."""


def _width(config: DecoderConfig, slot: str) -> int:
    if slot in {"q", "q_rope", "attn_context"}:
        return config.num_heads * config.head_dim
    if slot in {"k", "v", "k_rope"}:
        return config.num_kv_heads * config.head_dim
    if slot in {"ffn_gate", "ffn_up", "ffn_silu_gate", "ffn_swiglu_inner"}:
        return config.ffn_size
    return config.hidden_size


_LINEARS = ("q", "k", "v", "attn_out", "ffn_gate", "ffn_up", "ffn_out")


def has_decoder(model: LanguageModel) -> bool:
    """Is there a compiled decoder for this model, in `q8`, here?"""
    config = model.config
    plain = (
        config.activation == "silu"
        and not config.post_norms
        and config.query_scalar is None
        and config.final_softcap is None
        and config.embedding_scale == 1
    )
    layers = prepare_layers(model)
    table = model.weights[EMBEDDING]
    whole = table.columns % table.block_type.elements_per_block == 0
    uniform = len({(layer.window, id(layer.rope)) for layer in layers}) == 1
    isa = chosen_isa()
    if not (plain and whole and uniform) or isa == NUMPY:
        return False
    return _has_kernels(isa, model, layers)


def _has_kernels(isa: str, model: LanguageModel, layers: tuple[LayerWeights, ...]) -> bool:
    weights = [weight for layer in layers for weight, _ in layer.linears.values()]
    return all(
        _compiled.has_vector_kernel(isa, int(weight.block_type))
        for weight in [*weights, model.weights.lm_head]
    )


def _linear(weight: BlockMatrix, bias_R: Float32[np.ndarray, "R"] | None) -> _compiled.Linear:
    raw = np.ascontiguousarray(weight.raw)
    return _compiled.Linear(int(weight.block_type), raw, weight.rows, weight.columns, bias_R)
