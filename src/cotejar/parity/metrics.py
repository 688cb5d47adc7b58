"""How far two activations lie apart: float64, error = candidate - reference.

Shape letters: T tokens, W width, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Float64

    from cotejar.trace.stats import ActivationStats


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ArrayDistance:
    """The distance between two arrays of one shape."""

    num_compared: int
    """Elements compared; never 0."""
    rel_l2: Float64[np.ndarray, "T"]
    """Per token: L2 norm of the error over that of the reference. 0/0 is 0, x/0 infinite."""
    max_abs: float
    """Largest |error|, in the activation's own unit."""
    cosine_min: float
    """Smallest cosine of a token's two vectors; two zero vectors count as 1, one as 0."""
    nmse: float
    """Sum of squared errors over sum of squares of the reference (not over its variance)."""
    bit_identical: bool
    """The same dtype and the same bits everywhere."""

    @property
    def rel_l2_max(self) -> float:
        """Of the worst token; NaN counts as worst."""
        return float(self.rel_l2.max())

    @property
    def worst_token(self) -> int:
        """Index into the compared tokens, from 0; a NaN counts as worst."""
        return int(self.rel_l2.argmax())


def measure_distance(
    reference_TW: Float[np.ndarray, "T W"], candidate_TW: Float[np.ndarray, "T W"]
) -> ArrayDistance:
    """Measure two arrays; the caller has checked that the shapes agree and hold something.

    Where either holds NaN or infinity no measure passes a gate: each is NaN or infinite.
    """
    with np.errstate(all="ignore"):
        return _measure(reference_TW, candidate_TW)


def _measure(
    reference_TW: Float[np.ndarray, "T W"], candidate_TW: Float[np.ndarray, "T W"]
) -> ArrayDistance:
    reference = reference_TW.astype(np.float64)
    candidate = candidate_TW.astype(np.float64)
    error = candidate - reference
    error_norm = np.linalg.norm(error, axis=1)
    reference_norm = np.linalg.norm(reference, axis=1)
    candidate_norm = np.linalg.norm(candidate, axis=1)
    rel_l2 = np.where(error_norm == 0, 0.0, np.inf)
    np.divide(error_norm, reference_norm, out=rel_l2, where=reference_norm > 0)
    both = reference_norm * candidate_norm
    cosine = np.where((reference_norm == 0) & (candidate_norm == 0), 1.0, 0.0)
    np.divide((reference * candidate).sum(axis=1), both, out=cosine, where=both != 0)
    return ArrayDistance(
        num_compared=error.size,
        rel_l2=rel_l2,
        max_abs=float(np.abs(error).max()),
        # Equal rows have cosine 1; the quotient of rounded norms may miss it by an ulp.
        cosine_min=float(np.where(error_norm == 0, 1.0, cosine).min()),
        nmse=divide(float((error**2).sum()), float((reference**2).sum())),
        bit_identical=same_bits(reference_TW, candidate_TW),
    )


def same_bits(a: Float[np.ndarray, "T W"], b: Float[np.ndarray, "T W"]) -> bool:
    """Equal dtype, shape and bytes; 0.0 and -0.0 differ."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return np.array_equal(
        np.ascontiguousarray(a).view(np.uint8), np.ascontiguousarray(b).view(np.uint8)
    )


def divide(numerator: float, denominator: float) -> float:
    """A ratio of two magnitudes: 0/0 is 0, x/0 infinite, NaN stays NaN."""
    if denominator == 0:
        return numerator if math.isnan(numerator) else (math.inf if numerator else 0.0)
    return numerator / denominator


def std_ratio(reference: ActivationStats, candidate: ActivationStats) -> float:
    """Candidate's standard deviation over the reference's; 1 where both are 0."""
    if reference.std == candidate.std == 0:
        return 1.0
    return divide(candidate.std, reference.std)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LogitsDistance:
    """The distance between two models' next-token distributions, per token."""

    kl: Float64[np.ndarray, "T"]
    """KL(reference || candidate), in nats; NaN where a logit is NaN or +inf."""
    top1_equal: np.ndarray
    """(T,) bool: the same most likely token; of equals, the lowest id."""
    top5_overlap: Float64[np.ndarray, "T"]
    """Share of the reference's five most likely tokens among the candidate's five."""
    margin: Float64[np.ndarray, "T"]
    """The reference's largest logit less its second: how near a tie it is."""


def measure_logits(
    reference_TV: Float[np.ndarray, "T V"], candidate_TV: Float[np.ndarray, "T V"]
) -> LogitsDistance:
    """Measure logits of one shape; a token with a NaN is equal to none."""
    with np.errstate(all="ignore"):
        reference, candidate = _log_softmax(reference_TV), _log_softmax(candidate_TV)
        probability = np.exp(reference)
        terms = np.where(probability == 0, 0.0, probability * (reference - candidate))
        kl = terms.sum(axis=1)
    unusable = np.isnan(reference).any(axis=1) | np.isnan(candidate).any(axis=1)
    top = min(5, reference.shape[1])
    top_reference, top_candidate = _top(reference_TV, top), _top(candidate_TV, top)
    pairs = zip(top_reference, top_candidate, strict=True)
    overlap = np.array([len(set(a) & set(b)) / top for a, b in pairs])
    largest = np.sort(reference_TV.astype(np.float64), axis=1)[:, -2:]
    return LogitsDistance(
        # Rounding can make equal distributions slightly negative.
        kl=np.where(unusable, np.nan, np.maximum(kl, 0.0)),
        top1_equal=(reference_TV.argmax(axis=1) == candidate_TV.argmax(axis=1)) & ~unusable,
        top5_overlap=np.where(unusable, 0.0, overlap),
        margin=largest[:, -1] - largest[:, 0],
    )


def _log_softmax(logits_TV: Float[np.ndarray, "T V"]) -> Float64[np.ndarray, "T V"]:
    shifted = logits_TV.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _top(logits_TV: Float[np.ndarray, "T V"], count: int) -> np.ndarray:
    """Ids of the largest logits; a stable order, so that ties go to the lowest ids."""
    return np.argsort(-logits_TV, axis=1, kind="stable")[:, :count]
