"""One token at a time in one compiled call: `forward.Pass`, operation for operation.

A decode step is bound by the memory, which stands still between two products: Python there
costs a sixth of the time of a small model. The bits are those of `Pass`; a model or a machine
for which the compiled decoder lacks something is run by `Pass` as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.engines.native.layer_weights import prepare_layers
from cotejar.engines.native.rope import rope_tables
from cotejar.kernels import _compiled
from cotejar.kernels.arrays import empty_array
from cotejar.kernels.instruction_set import NUMPY, chosen_isa
from cotejar.model.inventory import EMBEDDING, FINAL_NORM

if TYPE_CHECKING:
    from jaxtyping import Float32

    from cotejar.engines.native.cache import KVCache
    from cotejar.engines.native.layer_weights import LayerWeights
    from cotejar.model.language_model import LanguageModel
    from cotejar.quant.block_matrix import BlockMatrix

POSITIONS_AT_ONCE = 256
"""Of which the angles are computed together."""


class Decoder:
    """All layers of one model, for one token after those that a cache holds."""

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

    def step(self, token_id: int, cache: KVCache) -> Float32[np.ndarray, "V"]:
        """Logits after one token more."""
        position = cache.num_tokens
        embedding = self._model.weights[EMBEDDING]
        hidden_D = embedding.decode_rows(token_id, token_id + 1).reshape(-1)
        logits_V = empty_array((self._model.weights.lm_head.rows,))
        row, keys, values = cache.rows_for_next()
        cos_P, sin_P = self._angles(position)
        self._compiled.step(hidden_D, cos_P, sin_P, keys, values, row, logits_V)
        cache.advance(1)
        return logits_V

    def _angles(
        self, position: int
    ) -> tuple[Float32[np.ndarray, "P"], Float32[np.ndarray, "P"]]:
        part, index = divmod(position, POSITIONS_AT_ONCE)
        if part not in self._tables:
            rope = self._model.config.rope
            self._tables = {
                part: rope_tables(rope, part * POSITIONS_AT_ONCE, POSITIONS_AT_ONCE)
            }
        cos_TP, sin_TP = self._tables[part]
        return cos_TP[index], sin_TP[index]


_LINEARS = ("q", "k", "v", "attn_out", "ffn_gate", "ffn_up", "ffn_out")


def has_decoder(model: LanguageModel, kv_type: str) -> bool:
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
    uniform = len({(layer.window, id(layer.rope)) for layer in layers}) == 1
    isa = chosen_isa()
    if kv_type != "f32" or not plain or not uniform or isa == NUMPY:
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
