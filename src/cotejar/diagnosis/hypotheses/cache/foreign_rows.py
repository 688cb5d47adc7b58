"""A row in the cache that is no token's: another sequence's, or one that was left there.

What one more value v adds to a context moves it on the line to v. So the lines of all queries
of a key/value head meet there, whatever the row's key is; no two lines of chance meet.

Shape letters: T tokens, H heads, E head size, N lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.attention.attended import weigh
from cotejar.diagnosis.hypotheses.attention.extra_key import meeting_point

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.hypotheses.attention.attended import Attended
    from cotejar.diagnosis.hypotheses.cache.cache_reader import CacheReader

_MOST_TOKENS = 128
_FEWEST_LINES = 2
_FEWEST_VALUES = 8
"""Of a head: lines of fewer may come near each other by chance."""


def foreign_rows(reader: CacheReader) -> Iterator[Alternative]:
    """One row more that all wrong queries see, or one in the place of a token's."""
    attended = reader.attended
    wrong, tokens = attended.wrong, len(attended.q)
    group = len(attended.heads) // attended.k.shape[1]
    if attended.known is not None or attended.step.head_dim < _FEWEST_VALUES:
        return
    if tokens > _MOST_TOKENS or len(wrong) * group < _FEWEST_LINES:
        return
    every = np.flatnonzero(attended.visible[wrong].all(axis=0))
    slots = [None, *(s for s in every.tolist() if s < reader.first)]
    best: tuple[float, int | None, np.ndarray] | None = None
    for slot in slots:
        context = _with_a_row(reader, slot)
        if context is None:
            continue
        off = np.linalg.norm(context[wrong] - attended.recorded[wrong])
        if best is None or off < best[0]:
            best = (float(off), slot, context)
    if best is None:
        return
    where = (
        "one row more, which is no token's"
        if best[1] is None
        else f"a row that is no token's in the slot of token {best[1]}"
    )
    yield Alternative(
        id="cache-foreign",
        title=f"steps read {where}: another sequence's, or one that was left in the cache?",
        output=exact.join_heads(best[2]),
        parameters=attended.k.shape[1] * attended.step.head_dim
        + len(wrong) * len(attended.heads),
    )


def _with_a_row(reader: CacheReader, slot: int | None) -> Float64[np.ndarray, "T H E"] | None:
    attended = reader.attended
    context_THE = reader.without_faults.copy()
    wrong = attended.wrong
    seen = attended.visible[wrong].copy()
    if slot is not None:
        seen[:, slot] = False
    if not seen.any(axis=1).all():
        return None
    heads = np.array(attended.heads)
    for kv in range(attended.k.shape[1]):
        mine = np.flatnonzero(heads == kv)
        from_NE = _contexts(attended, mine.tolist(), kv, seen)
        moved_NE = attended.recorded[wrong][:, mine].reshape(from_NE.shape) - from_NE
        value_E = meeting_point(from_NE, moved_NE)
        to_NE = value_E - from_NE
        square_N = np.maximum((to_NE**2).sum(axis=1), 1e-300)
        share_N = (moved_NE * to_NE).sum(axis=1) / square_N
        if (share_N < 0).any() or (share_N > 1).any():
            return None
        moved = from_NE + share_N[:, None] * to_NE
        context_THE[wrong[:, None], mine] = moved.reshape(len(wrong), len(mine), -1)
    return context_THE


def _contexts(
    attended: Attended, mine: list[int], kv: int, seen: np.ndarray
) -> Float64[np.ndarray, "N E"]:
    """Of every wrong query and each of these heads, in turn."""
    found = []
    for head in mine:
        scores = attended.scores(attended.q[attended.wrong, head], attended.k[:, kv])
        found.append(weigh(np.where(seen, scores, -np.inf)) @ attended.v[:, kv])
    stacked = np.stack(found, axis=1)
    return stacked.reshape(-1, stacked.shape[2])
