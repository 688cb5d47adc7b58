"""Keys from one token to another that later queries do not see, though they ought to.

Every range at once: of the softmax's sums, what a range gives is a difference of two sums.

Shape letters: T tokens, N sampled queries, H heads, E head size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.attention.attended import Attended

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.diagnosis.case import Case

_MOST_TOKENS = 64
"""Of a longer text there are too many ranges."""
_FEWEST_QUERIES = 2
"""Wrong queries: of one, its keys are found one by one."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of the attention of a short text: the range of keys that leaves least when hidden."""
    attended = Attended.of(case)
    if attended is None or len(attended.wrong) < _FEWEST_QUERIES:
        return
    wrong, tokens = attended.wrong, len(attended.q)
    first_query, last_query = int(wrong[0]), int(wrong[-1])
    if tokens > _MOST_TOKENS or last_query - first_query >= len(wrong):
        return
    first, last = _nearest_range(attended)
    index = np.arange(tokens)
    queries = (index >= first_query) & (index <= last_query)
    keys = (index >= first) & (index <= last)
    hidden = queries[:, None] & keys[None] & ~np.eye(tokens, dtype=bool)
    ends = last_query < tokens - 1
    who = (
        f"tokens {first_query} to {last_query}" if ends else f"the tokens from {first_query} on"
    )
    what = f"token {first}" if first == last else f"tokens {first} to {last}"
    yield Alternative(
        id="mask-range-hidden",
        title=f"{who} do not see {what}",
        output=attended.output(visible_TT=attended.visible & ~hidden),
        parameters=3 + ends,
    )


def _nearest_range(attended: Attended) -> tuple[int, int]:
    """First and last key of the range that leaves least at the worst sampled query."""
    sample, tokens = attended.sample, len(attended.q)
    visible_NT = attended.visible[sample]
    scores = np.where(visible_NT, attended.sampled_scores, -np.inf)
    size_HNT = np.exp(scores - scores.max(axis=2, keepdims=True))
    own_NT = sample[:, None] == np.arange(tokens)  # a token sees itself all the same
    hides_HNT = np.where(own_NT, 0.0, size_HNT)
    weighed = hides_HNT[..., None] * attended.sampled_values[:, None]
    below = np.concatenate(
        [np.zeros_like(hides_HNT[..., :1]), hides_HNT.cumsum(axis=2)], axis=2
    )
    above = np.concatenate([np.zeros_like(weighed[:, :, :1]), weighed.cumsum(axis=2)], axis=2)
    all_below = size_HNT.sum(axis=2)
    all_above = np.einsum("hnt,hte->hne", size_HNT, attended.sampled_values)
    best, least = (0, 0), np.inf
    for first in range(tokens - 1):
        for last in range(first, tokens - 1):
            under = all_below - (below[..., last + 1] - below[..., first])
            over = all_above - (above[:, :, last + 1] - above[:, :, first])
            context = over / np.maximum(under, 1e-300)[..., None]
            left = float(attended.distance(context).max())
            if left < least:
                best, least = (first, last), left
    return best
