"""How far a model's predictions lie from another's, over a text.

Position by position: KL divergence of the next-token distributions, whether the likeliest
token is the same, and what became of the probability of the token that came. Both models run
side by side, so that no logits are ever stored.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from cotejar.engines.generating import open_generating
from cotejar.errors import UsageError
from cotejar.evaluation.running_mean import RunningMean
from cotejar.evaluation.saved_sums import load_sums, save_sums
from cotejar.evaluation.text_chunks import judged_logits, log_softmax, read_chunks
from cotejar.generation.finite import require_finite

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jaxtyping import Float

QUANTILES = (0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """Of a candidate from a reference, over one text."""

    reference: str
    candidate: str
    chunk_tokens: int
    num_chunks: int
    num_judged: int
    """Positions compared; never 0."""
    kl: RunningMean
    """KL(reference || candidate), nats."""
    kl_quantiles: tuple[float, ...]
    """At `QUANTILES`."""
    top1_equal: RunningMean
    """1 where the likeliest token is the same."""
    probability_change: RunningMean
    """Of the token that came: candidate's minus reference's."""
    reference_nll: RunningMean
    candidate_nll: RunningMean

    @property
    def perplexities(self) -> tuple[float, float]:
        """Reference's and candidate's."""
        return math.exp(self.reference_nll.mean), math.exp(self.candidate_nll.mean)


MEANS = ("kl", "top1_equal", "probability_change", "reference_nll", "candidate_nll")


def measure_divergence(
    reference: str,
    candidate: str,
    text: Path,
    *,
    chunk_tokens: int,
    resume: Path | None = None,
    on_chunk: Callable[[str], None] = lambda _: None,
) -> Divergence:
    """Run a text through both models, chunk by chunk; arguments as `measure_perplexity`.

    Raises:
        UsageError: the two do not cut the text into the same tokens.
        ModelError: a logit is not finite.
        CotejarError: as opening, tokenizing and running find.
    """
    sides = [open_generating(source) for source in (reference, candidate)]
    cut = [read_chunks(text, model, chunk_tokens=chunk_tokens) for _, model, _ in sides]
    _require_same(cut[0].token_ids == cut[1].token_ids, sides[0][1].name, sides[1][1].name)
    chunks = cut[0]
    identity = {
        "measure": "kl",
        "models": [model.fingerprint if resume else "" for _, model, _ in sides],
        "engines": [f"{e.info.name}+{e.info.numerics} {e.info.build}" for _, _, e in sides],
        "text": chunks.text_sha256,
        "chunk_tokens": chunk_tokens,
    }
    means, kls, done = {name: RunningMean() for name in MEANS}, list[float](), 0
    kept = load_sums(resume, identity) if resume else None
    if kept is not None:
        means = {name: RunningMean(**kept[name]) for name in MEANS}
        kls, done = list(kept["kls"]), int(kept["done"])
    for index in range(done, len(chunks.token_ids)):
        on_chunk(f"chunk {index + 1} of {len(chunks.token_ids)}")
        both = (judged_logits(engine, chunks, index) for _, _, engine in sides)
        for (logits_NV, next_ids), (other_NV, _) in zip(*both, strict=True):
            kls += _take_in(means, logits_NV, other_NV, next_ids).tolist()
        if resume:
            sums = {name: asdict(mean) for name, mean in means.items()}
            save_sums(resume, identity, sums | {"kls": kls, "done": index + 1})
    return Divergence(
        reference=reference,
        candidate=candidate,
        chunk_tokens=chunk_tokens,
        num_chunks=len(chunks.token_ids),
        num_judged=len(kls),
        kl_quantiles=tuple(float(q) for q in np.quantile(kls, QUANTILES)),
        **means,
    )


def _take_in(
    means: dict[str, RunningMean],
    reference_NV: Float[np.ndarray, "N V"],
    candidate_NV: Float[np.ndarray, "N V"],
    next_ids: tuple[int, ...],
) -> Float[np.ndarray, "N"]:
    for logits_NV in (reference_NV, candidate_NV):
        require_finite(logits_NV)
    log_p, log_q = log_softmax(reference_NV), log_softmax(candidate_NV)
    # Rounding can leave a sum of two equal distributions a little below 0.
    kl: np.ndarray = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=1), 0)
    rows = np.arange(len(next_ids))
    true_p, true_q = log_p[rows, list(next_ids)], log_q[rows, list(next_ids)]
    same = reference_NV.argmax(axis=1) == candidate_NV.argmax(axis=1)
    means["kl"].add(kl)
    means["top1_equal"].add(same.astype(np.float64))
    means["probability_change"].add(np.exp(true_q) - np.exp(true_p))
    means["reference_nll"].add(-true_p)
    means["candidate_nll"].add(-true_q)
    return kl


def _require_same(same: bool, reference: str, candidate: str) -> None:  # noqa: FBT001 - the claim
    if not same:
        raise UsageError(
            "the two models do not see the same tokens",
            where=f"{reference} and {candidate}",
            expected="one tokenization of the text",
            found="two",
            hint="`apr tokens` shows where they part; compare perplexities by byte instead",
        )
