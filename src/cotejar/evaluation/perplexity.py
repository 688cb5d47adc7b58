"""How well a model predicts a text: perplexity, as llama.cpp's tool measures it.

    perplexity = exp(mean of -log p(next token))

Its standard error follows from that of the mean: d exp(m) = exp(m) dm.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from cotejar.engines.generating import open_generating
from cotejar.evaluation.running_mean import RunningMean
from cotejar.evaluation.saved_sums import load_sums, save_sums
from cotejar.evaluation.text_chunks import judged_logits, log_softmax, read_chunks
from cotejar.generation.finite import require_finite

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jaxtyping import Float


@dataclass(frozen=True, kw_only=True, slots=True)
class Perplexity:
    """Of one text through one model."""

    model: str
    engine: str
    numerics: str
    chunk_tokens: int
    num_chunks: int
    num_judged: int
    """Predictions that counted; never 0."""
    mean_nll: float
    """Nats a token."""
    standard_error_nll: float

    @property
    def perplexity(self) -> float:
        """Exp of the mean; infinite where a token that came was held impossible."""
        return math.exp(self.mean_nll) if self.mean_nll < 700 else math.inf  # noqa: PLR2004 - exp overflows at 709

    @property
    def standard_error(self) -> float:
        """Of the perplexity."""
        return self.perplexity * self.standard_error_nll


def measure_perplexity(
    source: str,
    text: Path,
    *,
    chunk_tokens: int,
    resume: Path | None = None,
    on_chunk: Callable[[str], None] = lambda _: None,
) -> Perplexity:
    """Run a text through a model, chunk by chunk.

    Args:
        source: `[ENGINE[+numerics]:]PATH`.
        text: a file of UTF-8.
        chunk_tokens: tokens that are run as one text.
        resume: a file that keeps the sums after every chunk, and is gone on from if there.
        on_chunk: hears how far it is.

    Raises:
        ModelError: a logit is not finite.
        CotejarError: as opening, tokenizing and running find.
    """
    name, model, engine = open_generating(source)
    chunks = read_chunks(text, model, chunk_tokens=chunk_tokens)
    identity = {
        "measure": "perplexity",
        "model": model.fingerprint if resume else "",
        "engine": f"{engine.info.name}+{engine.info.numerics} {engine.info.build}",
        "text": chunks.text_sha256,
        "chunk_tokens": chunk_tokens,
    }
    nll, done = RunningMean(), 0
    kept = load_sums(resume, identity) if resume else None
    if kept is not None:
        nll, done = RunningMean(**kept["nll"]), int(kept["done"])
    for index in range(done, len(chunks.token_ids)):
        on_chunk(f"chunk {index + 1} of {len(chunks.token_ids)}")
        for logits_NV, next_ids in judged_logits(engine, chunks, index):
            nll.add(-true_log_probabilities(logits_NV, next_ids))
        if resume:
            save_sums(resume, identity, {"nll": asdict(nll), "done": index + 1})
    return Perplexity(
        model=model.name,
        engine=name.engine,
        numerics=name.numerics,
        chunk_tokens=chunk_tokens,
        num_chunks=len(chunks.token_ids),
        num_judged=nll.count,
        mean_nll=nll.mean,
        standard_error_nll=nll.standard_error,
    )


def true_log_probabilities(
    logits_NV: Float[np.ndarray, "N V"], next_ids: tuple[int, ...]
) -> Float[np.ndarray, "N"]:
    """The log of p of each token that came.

    Raises:
        ModelError: a logit is not finite.
    """
    require_finite(logits_NV)
    rows = np.arange(len(next_ids))
    return log_softmax(logits_NV)[rows, list(next_ids)]
