"""Filters: which tokens may be drawn at all.

Each takes the tokens that are left, as ascending ids with their logits in float64, and
returns those that stay. None ever removes the last one. Where logits are equal the lower
id counts as the likelier, so that a filter's result does not hang on a sort's whims.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int64


@dataclass(frozen=True, eq=False, slots=True)
class Candidates:
    """The tokens that may still be drawn."""

    ids: Int64[np.ndarray, "N"]
    """Ascending."""
    logits: Float64[np.ndarray, "N"]

    @property
    def probabilities(self) -> Float64[np.ndarray, "N"]:
        """Softmax over what is left."""
        # With the maximum off first, a tiny temperature can only reach -inf: probability 0.
        weights_N = np.exp(self.logits - self.logits.max())
        shares_N: np.ndarray = weights_N / weights_N.sum()
        return shares_N

    def keep(self, mask_N: Bool[np.ndarray, "N"]) -> Candidates:
        """Those of the mask."""
        return Candidates(self.ids[mask_N], self.logits[mask_N])

    def first(self, order_N: Int64[np.ndarray, "N"], count: int) -> Candidates:
        """The first `count` of an order, by ascending id again."""
        kept = np.sort(order_N[: max(1, count)])
        return Candidates(self.ids[kept], self.logits[kept])


def top_k(left: Candidates, k: int) -> Candidates:
    """The k likeliest (Fan et al., 2018, arXiv:1805.04833); 0 keeps all."""
    if not 0 < k < left.ids.size:
        return left
    # Only what reaches the k-th logit needs sorting: a vocabulary is large.
    threshold = np.partition(left.logits, -k)[-k]
    reaching = left.keep(left.logits >= threshold)
    return reaching.first(_likeliest_first(reaching), k)


def top_p(left: Candidates, p: float) -> Candidates:
    """The fewest likeliest whose probabilities reach p (Holtzman et al., arXiv:1904.09751)."""
    if p >= 1:
        return left
    order_N = _likeliest_first(left)
    return left.first(order_N, _count_reaching(left.probabilities[order_N], p))


def min_p(left: Candidates, p: float) -> Candidates:
    """Those at least p times as likely as the likeliest (Nguyen et al., arXiv:2407.01082)."""
    if p <= 0:
        return left
    return left.keep(left.logits >= left.logits.max() + np.log(p))


def typical_p(left: Candidates, p: float) -> Candidates:
    """The fewest whose probabilities reach p, nearest to the expected surprise first."""
    if p >= 1:
        return left
    probabilities_N = left.probabilities
    with np.errstate(divide="ignore"):
        surprise_N = -np.log(probabilities_N)
    possible_N = probabilities_N > 0
    entropy = np.sum(probabilities_N[possible_N] * surprise_N[possible_N])
    order_N = np.argsort(np.abs(surprise_N - entropy), kind="stable")
    return left.first(order_N, _count_reaching(probabilities_N[order_N], p))


def heat(left: Candidates, temperature: float) -> Candidates:
    """Logits over the temperature, which is above 0; the largest becomes 0."""
    with np.errstate(over="ignore"):
        return Candidates(left.ids, (left.logits - left.logits.max()) / temperature)


def _likeliest_first(left: Candidates) -> Int64[np.ndarray, "N"]:
    return np.argsort(-left.logits, kind="stable")


def _count_reaching(sorted_N: Float64[np.ndarray, "N"], p: float) -> int:
    return int(np.searchsorted(np.cumsum(sorted_N), p)) + 1
