"""The two ends of the model: embedding table and LM head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.faults.fault import Extent, Fault, FaultyPass, Injection, Strength, in_the_pass
from cotejar.faults.needs import EMBEDDING_SCALE, NO_EMBEDDING_SCALE, OWN_HEAD, SOFTCAP
from cotejar.model.inventory import EMBEDDING, LM_HEAD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float32

    from cotejar.faults.dose import Dose
    from cotejar.faults.needs import ModelNeed
    from cotejar.model.language_model import LanguageModel
    from cotejar.quant.block_matrix import BlockMatrix

    Stream = Float32[np.ndarray, "T D"]
    Logits = Float32[np.ndarray, "T V"]


def flat_part(matrix: BlockMatrix, start: int, stop: int) -> Float32[np.ndarray, "n"]:
    """Values start..stop of a matrix in the order of its memory."""
    first, last = start // matrix.columns, -(-stop // matrix.columns)
    values = matrix.decode_rows(first, last).reshape(-1)
    return values[start - first * matrix.columns : stop - first * matrix.columns]


class _HeadTransposed(FaultyPass):
    """The head's memory, (V, D), is read as (D, V), a row of it at a time."""

    def head(self, hidden_TD: Stream) -> Logits:
        matrix = self.model.weights.lm_head
        logits_TV = np.zeros((len(hidden_TD), matrix.rows), np.float32)
        for column in range(matrix.columns):
            row_V = flat_part(matrix, column * matrix.rows, (column + 1) * matrix.rows)
            logits_TV += hidden_TD[:, column, None] * row_V
        return logits_TV


class _HeadRowLate(FaultyPass):
    def head(self, hidden_TD: Stream) -> Logits:
        return np.roll(super().head(hidden_TD), 1, axis=1)


class _LogitsCapped(FaultyPass):
    def head(self, hidden_TD: Stream) -> Logits:
        cap = np.float32(self.dose.strength)
        capped: Logits = cap * np.tanh(super().head(hidden_TD) / cap)
        return capped


class _CapMissing(FaultyPass):
    def head(self, hidden_TD: Stream) -> Logits:
        return self.multiply_head(self.model.weights.lm_head, hidden_TD)


class _LogitsScaled(FaultyPass):
    def head(self, hidden_TD: Stream) -> Logits:
        return super().head(hidden_TD) * np.float32(self.dose.strength)


class _EmbeddingScaled(FaultyPass):
    def embed(self, token_ids: Sequence[int]) -> Stream:
        width = self.model.config.hidden_size
        return super().embed(token_ids) * np.float32(self.dose.strength * width**0.5)


class _EmbeddingUnscaled(FaultyPass):
    def embed(self, token_ids: Sequence[int]) -> Stream:
        return super().embed(token_ids) / np.float32(self.model.config.embedding_scale)


class _EmbeddingRowLate(FaultyPass):
    def embed(self, token_ids: Sequence[int]) -> Stream:
        num_rows = self.model.weights[EMBEDDING].rows
        return super().embed([(token + 1) % num_rows for token in token_ids])


class _EmbeddingTransposed(FaultyPass):
    """Value d of token i is at d * V + i."""

    def embed(self, token_ids: Sequence[int]) -> Stream:
        table = self.model.weights[EMBEDDING]
        places = [
            column * table.rows + token
            for token in token_ids
            for column in range(table.columns)
        ]
        values = [flat_part(table, place, place + 1)[0] for place in places]
        return np.array(values, np.float32).reshape(len(token_ids), table.columns)


def _tied(model: LanguageModel, _: Dose) -> Injection:
    head = {LM_HEAD: model.weights[EMBEDDING]}
    return Injection(model=model.altered(weights=model.weights.replaced(head)))


def _fault(
    id_: str,
    title: str,
    kind: type[FaultyPass],
    slot: str = "logits",
    *,
    strength: Strength | None = None,
    needs: tuple[ModelNeed, ...] = (),
    in_doubt: bool = False,
) -> Fault:
    return Fault(
        id=id_,
        title=title,
        family="head",
        slot=slot,
        extent=Extent.OUTSIDE,
        needs=needs,
        strength=strength,
        in_doubt=in_doubt,
        inject=in_the_pass(kind),
    )


CAP = Strength(text="where logits are capped", default=30, least=1e-3, most=1e6)
FACTOR = Strength(text="factor on the logits", default=0.9, least=-1e3, most=1e3)
ROOT = Strength(text="factor beside sqrt(D)", default=1, least=1e-6, most=1e6)

HEAD_FAULTS = (
    _fault("head-transposed", "the LM head is read transposed", _HeadTransposed),
    Fault(
        id="head-tied",
        title="the embedding table is taken for the head",
        family="head",
        slot="logits",
        extent=Extent.OUTSIDE,
        needs=(OWN_HEAD,),
        is_of_bytes=True,
        inject=_tied,
    ),
    _fault("head-row-shift", "each logit is its neighbour's", _HeadRowLate),
    _fault(
        "logit-softcap",
        "logits are capped where they are not",
        _LogitsCapped,
        strength=CAP,
        in_doubt=True,
    ),
    _fault("logit-softcap-missing", "logits are not capped", _CapMissing, needs=(SOFTCAP,)),
    _fault("logit-scale", "logits are scaled", _LogitsScaled, strength=FACTOR),
    _fault(
        "embedding-scale",
        "embeddings are multiplied by sqrt(D)",
        _EmbeddingScaled,
        "embed",
        needs=(NO_EMBEDDING_SCALE,),
        strength=ROOT,
    ),
    _fault(
        "embedding-scale-missing",
        "embeddings are not scaled",
        _EmbeddingUnscaled,
        "embed",
        needs=(EMBEDDING_SCALE,),
    ),
    _fault(
        "embedding-row-shift",
        "each token has its neighbour's embedding",
        _EmbeddingRowLate,
        "embed",
    ),
    _fault(
        "embedding-transposed",
        "the embedding table is read transposed",
        _EmbeddingTransposed,
        "embed",
    ),
)
