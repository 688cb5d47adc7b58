"""How far two activations lie apart: float64, error = candidate - reference.

Shape letters: T tokens, W width, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cotejar.formats.mapped_file import release_pages
from cotejar.trace.array_store import row_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float, Float64

    from cotejar.trace.stats import ActivationStats


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ArrayDistance:
    """The distance between two arrays of one shape."""

    num_compared: int
    """Elements compared; never 0."""
    rel_l2: Float64[np.ndarray, "T"]
    """Per token: L2 norm of the error over that of the reference. 0/0 is 0, x/0 infinite.

    NaN where a value of either is NaN or infinite.
    """
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
    def rel_l2_median(self) -> float:
        """Of the median token: a fault moves every token, an ill-conditioned one only itself.

        NaN as soon as one token's is.
        """
        return float(np.median(self.rel_l2))

    @property
    def worst_token(self) -> int:
        """Index into the compared tokens, from 0; a NaN counts as worst."""
        return int(self.rel_l2.argmax())


def measure_distance(
    reference_TW: Float[np.ndarray, "T W"], candidate_TW: Float[np.ndarray, "T W"]
) -> ArrayDistance:
    """Measure two arrays; the caller has checked that the shapes agree and hold something.

    Where either holds NaN or infinity no measure passes a gate: each is NaN or infinite. A
    large array is looked at by rows, and the pages of a mapped one are let go of.
    """
    parts = []
    with np.errstate(all="ignore"):
        for rows in row_parts(reference_TW):
            parts.append(_measure(reference_TW[rows], candidate_TW[rows]))
            release_pages(reference_TW)
            release_pages(candidate_TW)
    return _joined(reference_TW.size, parts)


class _Rows(NamedTuple):
    """What consecutive tokens add to a distance."""

    rel_l2: Float64[np.ndarray, "T"]
    max_abs: float
    cosine_min: float
    error_squares: float
    reference_squares: float
    same_bits: bool


def _joined(num_compared: int, parts: Sequence[_Rows]) -> ArrayDistance:
    rel_l2, max_abs, cosine, errors, squares, same = zip(*parts, strict=True)
    return ArrayDistance(
        num_compared=num_compared,
        rel_l2=np.concatenate(rel_l2),
        max_abs=float(np.max(max_abs)),  # a NaN counts, as it does not in Python's own
        cosine_min=float(np.min(cosine)),
        nmse=divide(sum(errors), sum(squares)),
        bit_identical=all(same),
    )


def _measure(
    reference_TW: Float[np.ndarray, "T W"], candidate_TW: Float[np.ndarray, "T W"]
) -> _Rows:
    reference = reference_TW.astype(np.float64)
    candidate = candidate_TW.astype(np.float64)
    error = candidate - reference
    error_norm = np.linalg.norm(error, axis=1)
    reference_norm = np.linalg.norm(reference, axis=1)
    candidate_norm = np.linalg.norm(candidate, axis=1)
    rel_l2 = np.where(error_norm == 0, 0.0, np.inf)
    np.divide(error_norm, reference_norm, out=rel_l2, where=reference_norm > 0)
    rel_l2[~np.isfinite(error_norm)] = np.nan  # one infinite token would not move a median
    both = reference_norm * candidate_norm
    cosine = np.where((reference_norm == 0) & (candidate_norm == 0), 1.0, 0.0)
    np.divide((reference * candidate).sum(axis=1), both, out=cosine, where=both != 0)
    return _Rows(
        rel_l2=rel_l2,
        max_abs=float(np.abs(error).max()),
        # Equal rows have cosine 1; the quotient of rounded norms may miss it by an ulp.
        cosine_min=float(np.where(error_norm == 0, 1.0, cosine).min()),
        error_squares=float((error**2).sum()),
        reference_squares=float((reference**2).sum()),
        same_bits=same_bits(reference_TW, candidate_TW),
    )


def same_bits(a: Float[np.ndarray, "T W"], b: Float[np.ndarray, "T W"]) -> bool:
    """Equal dtype, shape and bytes; 0.0 and -0.0 differ."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    for rows in row_parts(a):
        ours, theirs = (np.ascontiguousarray(array[rows]).view(np.uint8) for array in (a, b))
        if not np.array_equal(ours, theirs):
            return False
    return True


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


def distance_from_1(ratio: float) -> float:
    """|log ratio|: 2 and 1/2 are equally far; infinite where it is no positive number."""
    return abs(math.log(ratio)) if ratio > 0 and math.isfinite(ratio) else math.inf


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LogitsDistance:
    """The distance between two models' next-token distributions, per token."""

    kl: Float64[np.ndarray, "T"]
    """KL(reference || candidate), in nats; NaN where a logit is NaN or +inf."""
    top1_equal: Bool[np.ndarray, "T"]
    """The same most likely token; of equals, the lowest id."""
    top5_overlap: Float64[np.ndarray, "T"]
    """Share of the reference's five most likely tokens among the candidate's five."""
    margin: Float64[np.ndarray, "T"]
    """The reference's largest logit less its second: how near a tie it is."""

    @property
    def flip_margin(self) -> float:
        """The reference's largest margin where the two choose differently; 0 if nowhere.

        A flip at a near tie is noise; one against a clear lead is not. NaN where a logit of
        either side is NaN or +inf: such a token has no choice to compare.
        """
        if np.isnan(self.kl).any():
            return math.nan
        return float(self.margin[~self.top1_equal].max(initial=0.0))

    @property
    def last(self) -> LogitsDistance:
        """Of the last token alone."""
        return LogitsDistance(
            kl=self.kl[-1:],
            top1_equal=self.top1_equal[-1:],
            top5_overlap=self.top5_overlap[-1:],
            margin=self.margin[-1:],
        )


def measure_logits(
    reference_TV: Float[np.ndarray, "T V"], candidate_TV: Float[np.ndarray, "T V"]
) -> LogitsDistance:
    """Measure logits of one shape; a token with a NaN is equal to none.

    One token at a time, so that memory does not grow with their number.
    """
    rows = []
    with np.errstate(all="ignore"):
        for part in row_parts(reference_TV):
            pairs = zip(reference_TV[part], candidate_TV[part], strict=True)
            rows += [
                _measure_logits_row(a.astype(np.float64), b.astype(np.float64))
                for a, b in pairs
            ]
            release_pages(reference_TV)
            release_pages(candidate_TV)
    kl, equal, overlap, margin = zip(*rows, strict=True)
    return LogitsDistance(
        kl=np.array(kl),
        top1_equal=np.array(equal, bool),
        top5_overlap=np.array(overlap),
        margin=np.array(margin),
    )


def _measure_logits_row(
    reference_V: Float64[np.ndarray, "V"], candidate_V: Float64[np.ndarray, "V"]
) -> tuple[float, bool, float, float]:
    """KL, same top-1, top-5 overlap, the reference's margin."""
    log_p, log_q = _log_softmax(reference_V), _log_softmax(candidate_V)
    top = _top(reference_V)
    margin = float(reference_V[top[0]] - reference_V[top[min(1, len(top) - 1)]])
    if np.isnan(log_p).any() or np.isnan(log_q).any():
        return np.nan, False, 0.0, margin
    p = np.exp(log_p)
    kl = float(np.where(p == 0, 0.0, p * (log_p - log_q)).sum())
    other = _top(candidate_V)
    overlap = len(set(top) & set(other)) / len(top)
    # Rounding can make equal distributions slightly negative.
    return max(kl, 0.0), top[0] == other[0], overlap, margin


def _log_softmax(logits_V: Float64[np.ndarray, "V"]) -> Float64[np.ndarray, "V"]:
    shifted = logits_V - logits_V.max()
    normed: np.ndarray = shifted - np.log(np.exp(shifted).sum())
    return normed


def _top(logits_V: Float64[np.ndarray, "V"], count: int = 5) -> list[int]:
    """Ids of the largest logits, largest first; of equals, the lowest ids; NaN last."""
    values = np.where(np.isnan(logits_V), -np.inf, logits_V)
    count = min(count, len(values))
    least = np.partition(values, len(values) - count)[len(values) - count]
    ids = np.flatnonzero(values >= least)
    return [int(i) for i in ids[np.argsort(-values[ids], kind="stable")][:count]]
