"""Text from transformers over its own cache: one forward of the unmodified model an append.

The cache is transformers' `DynamicCache`, made for the model's configuration, so that layers
with a sliding window keep what their window can reach. Positions and masks are what
transformers itself derives from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from cotejar.engines.protocol import check_token_ids
from cotejar.engines.transformers.load import arithmetic_of
from cotejar.engines.transformers.observation import cache_arguments, to_array
from cotejar.errors import EngineDataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from jaxtyping import Float

    from cotejar.model.language_model import LanguageModel


class TransformersSession:
    """A context that grows; logits in the model's type, those of bfloat16 in float32."""

    def __init__(self, model: LanguageModel, module: Any) -> None:
        """Begin an empty context.

        Args:
            model: what is run, by its declared identity.
            module: transformers' model of it.
        """
        self._model, self._module = model, module
        self._cache = DynamicCache(config=module.config)
        self.num_tokens = 0
        """Tokens in the context so far."""

    def append(self, token_ids: Sequence[int]) -> Float[np.ndarray, "V"]:
        """Add tokens; return the logits after the last of them."""
        return self._run(token_ids, num_rows=1).reshape(-1)

    def append_all(self, token_ids: Sequence[int]) -> Float[np.ndarray, "T V"]:
        """Add tokens; return the logits after each of them."""
        return self._run(token_ids, num_rows=len(token_ids))

    def _run(self, token_ids: Sequence[int], *, num_rows: int) -> Float[np.ndarray, "N V"]:
        declared = self._model.declared.config
        check_token_ids(
            token_ids,
            vocab_size=declared.vocab_size,
            context_length=declared.context_length,
            num_before=self.num_tokens,
        )
        embedding = self._module.get_input_embeddings().weight
        ids = torch.tensor([list(token_ids)], dtype=torch.long, device=embedding.device)
        with torch.no_grad(), arithmetic_of(embedding.dtype):
            output = self._module(
                input_ids=ids,
                logits_to_keep=num_rows,
                return_dict=True,
                **cache_arguments(self._module, self._cache),
            )
        logits_NV = to_array(output.logits[0])
        held = self._cache.get_seq_length()
        expected = (num_rows, declared.vocab_size)
        self.num_tokens += len(token_ids)
        if logits_NV.shape != expected or held != self.num_tokens:
            raise EngineDataError(
                "transformers' cache and logits are not what the tokens make",
                where="engine transformers",
                expected=f"logits of {expected}, {self.num_tokens} tokens in the cache",
                found=f"logits of {logits_NV.shape}, {held} tokens in the cache",
                hint="does this release keep its cache in another way?",
            )
        return logits_NV
