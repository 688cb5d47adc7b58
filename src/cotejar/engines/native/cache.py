"""The KV cache: keys after RoPE, and values, of every position so far, in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32

    from cotejar.model.config import DecoderConfig

FIRST_CAPACITY_TOKENS = 64


class KVCache:
    """Grows by doubling; never holds more than it was given."""

    def __init__(self, config: DecoderConfig) -> None:
        self.num_tokens = 0
        self._shape = (config.num_kv_heads, config.head_dim)
        self._keys = [self._empty(0)] * config.num_layers
        self._values = [self._empty(0)] * config.num_layers

    def _empty(self, tokens: int) -> Float32[np.ndarray, "T K E"]:
        return np.empty((tokens, *self._shape), np.float32)

    def extend(
        self,
        layer: int,
        k_TKE: Float32[np.ndarray, "T K E"],
        v_TKE: Float32[np.ndarray, "T K E"],
    ) -> tuple[Float32[np.ndarray, "S K E"], Float32[np.ndarray, "S K E"]]:
        """Add one layer's new rows after the old ones; return all rows, old and new.

        `num_tokens` moves on when every layer has been extended: see `advance`.
        """
        start, stop = self.num_tokens, self.num_tokens + len(k_TKE)
        for store, rows in ((self._keys, k_TKE), (self._values, v_TKE)):
            if len(store[layer]) < stop:
                grown = self._empty(max(stop, 2 * len(store[layer]), FIRST_CAPACITY_TOKENS))
                grown[:start] = store[layer][:start]
                store[layer] = grown
            store[layer][start:stop] = rows
        return self._keys[layer][:stop], self._values[layer][:stop]

    def advance(self, num_tokens: int) -> None:
        """Every layer holds `num_tokens` more."""
        self.num_tokens += num_tokens
