"""Several contexts in one pass: their tokens stand side by side as rows.

Products and norms see rows and no contexts, so a pass reads every weight once for all of
them; positions and attention are each context's own. In `q8` a row's bits do not depend on
what stands beside it. Where every context brings one token, the engine prefers the compiled
`decoder`, which does the same in one call.

Shape letters as in `forward`; N contexts.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from cotejar.engines.native.cache import KVCache, make_room_together
from cotejar.engines.native.fused import FusedPass
from cotejar.engines.native.rope import rope_tables
from cotejar.kernels import operations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float32

    from cotejar.engines.native.forward import Multiply
    from cotejar.model.language_model import LanguageModel


class PackedPass(FusedPass):
    """One forward pass over new tokens of several contexts."""

    def __init__(self, model: LanguageModel, multiply: Multiply) -> None:
        super().__init__(model, multiply, KVCache(model.config))
        self._caches: Sequence[KVCache] = ()
        self._rows: list[slice] = []
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []
        self._packed_tables: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def run_packed(
        self, parts: Sequence[tuple[KVCache, Sequence[int]]]
    ) -> Float32[np.ndarray, "N V"]:
        """Extend every context by its tokens, one or more; its last token's logits a row."""
        ends = np.cumsum([0, *(len(token_ids) for _, token_ids in parts)]).tolist()
        self._rows = [slice(start, stop) for start, stop in pairwise(ends)]
        self._caches = [cache for cache, _ in parts]
        self._packed_tables = {}
        make_room_together([(cache, len(token_ids)) for cache, token_ids in parts])
        everything = [token for _, token_ids in parts for token in token_ids]
        logits_NV = self.run(everything, last_only=True)
        for cache, rows in zip(self._caches, self._rows, strict=True):
            cache.advance(rows.stop - rows.start)
        self._kept = []
        return logits_NV

    def angles(
        self, layer: int
    ) -> tuple[Float32[np.ndarray, "T P"], Float32[np.ndarray, "T P"]]:
        """Every context counts its own positions."""
        rope = self.model.config.rope_of(layer)
        if id(rope) not in self._packed_tables:
            tables = [
                rope_tables(rope, cache.num_tokens, rows.stop - rows.start)
                for cache, rows in zip(self._caches, self._rows, strict=True)
            ]
            cos_TP, sin_TP = (np.concatenate(table) for table in zip(*tables, strict=True))
            self._packed_tables[id(rope)] = cos_TP, sin_TP
        return self._packed_tables[id(rope)]

    def extend_cache(
        self,
        layer: int,
        k_TKE: Float32[np.ndarray, "T K E"],
        v_TKE: Float32[np.ndarray, "T K E"],
    ) -> tuple[Float32[np.ndarray, "T K E"], Float32[np.ndarray, "T K E"]]:
        """Every context keeps its own rows, which `attend` goes through."""
        self._kept = [
            cache.extend(layer, k_TKE[rows], v_TKE[rows])
            for cache, rows in zip(self._caches, self._rows, strict=True)
        ]
        return k_TKE, v_TKE

    def _places(self, layer: int, num_tokens: int) -> None:  # noqa: ARG002 - of many caches
        return None

    def attend(
        self,
        layer: int,
        q_THE: Float32[np.ndarray, "T H E"],
        k_SKE: Float32[np.ndarray, "S K E"],  # noqa: ARG002 - each context's own are kept
        v_SKE: Float32[np.ndarray, "S K E"],  # noqa: ARG002
    ) -> Float32[np.ndarray, "T H E"]:
        """Every context attends to itself alone."""
        contexts = [
            (rows.stop - rows.start, keys, values)
            for rows, (keys, values) in zip(self._rows, self._kept, strict=True)
        ]
        window = self.model.config.window_of(layer)
        return operations.attend_each(
            self.scaled_queries(q_THE),
            contexts,
            window=window,
            in_float32=self.attends_in_float32,
        )

    def _asking_rows(
        self,
        layer: int,  # noqa: ARG002 - in no layer fewer
        x_TD: Float32[np.ndarray, "T D"],
    ) -> Float32[np.ndarray, "T D"]:
        return x_TD

    def last_rows(self, hidden_TD: Float32[np.ndarray, "T D"]) -> Float32[np.ndarray, "N D"]:
        """Each context's last."""
        return hidden_TD[[rows.stop - 1 for rows in self._rows]]
