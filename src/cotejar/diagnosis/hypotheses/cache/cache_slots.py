"""Slots of a KV cache that hold other rows, found one after the other.

A step reads what the steps before it read, and its own: where one slot more is wrong at each,
every slot and every token that it may hold is tried, and what was found stays.

Shape letters: T tokens, H heads, E head size, S slots read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.cache.cache_reader import ZEROS
from cotejar.diagnosis.hypotheses.cache.row_forms import WHICH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.hypotheses.cache.cache_reader import CacheReader

_MOST_TOKENS, _MOST_WRONG = 128, 24
"""Of a longer text, or of more wrong queries, the search would take too long."""
_EXPLAINED = 1e-2
"""Share of a query's error that may be left of it."""
_SHOWN = 3


@dataclass(slots=True)
class _Held:
    """What slots hold that do not hold their own token's rows."""

    k: dict[int, int] = field(default_factory=dict)
    v: dict[int, int] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    numbers: int = 0


def slots_one_by_one(reader: CacheReader) -> Iterator[Alternative]:
    """Two slots or more, of which each wrong query shows at most one that is new."""
    attended = reader.attended
    wrong = attended.wrong.tolist()
    if len(attended.q) > _MOST_TOKENS or not 1 < len(wrong) <= _MOST_WRONG:
        return
    held = _Held()
    for position in wrong:
        if not _explain(reader, position, held):
            return
    if len(held.said) < 2:  # noqa: PLR2004 - one is searched by itself
        return
    more = len(held.said) - _SHOWN
    shown = ", ".join(held.said[:_SHOWN]) + (f" and {more} more" if more > 0 else "")

    def read_k(position: int) -> list[int]:
        return _found(reader, held.k, position)

    def read_v(position: int) -> list[int]:
        return _found(reader, held.v, position)

    yield Alternative(
        id="cache-slots",
        title=f"slots of the cache hold other rows: {shown}",
        output=reader.output(read_k, read_v),
        parameters=held.numbers,
    )


def _found(reader: CacheReader, held: dict[int, int], position: int) -> list[int]:
    """A token that was held later than this query is not there yet."""
    return [held[s] if s in held and held[s] <= position else s for s in reader.right(position)]


def _explain(reader: CacheReader, position: int, held: _Held) -> bool:
    """Is the query explained by what slots hold, and by one slot more at most?"""
    attended = reader.attended
    rows = reader.right(position)
    scores = np.stack(
        [
            attended.scores(attended.q[position : position + 1, head], attended.k[:, kv])[0]
            for head, kv in enumerate(attended.heads)
        ]
    )
    # One slot more that holds zeros: its score is 0, and so is its value.
    scores = np.concatenate([scores, np.zeros_like(scores[:, :1])], axis=1)
    size = np.exp(scores - scores.max(axis=1, keepdims=True))
    values = attended.v[:, list(attended.heads)].swapaxes(0, 1)
    values = np.concatenate([values, np.zeros_like(values[:, :1])], axis=1)
    keys, vals = (_found(reader, of, position) for of in (held.k, held.v))
    wanted = attended.recorded[position]
    before = float(attended.size((wanted - _context(size, values, rows, rows))[None])[0])
    least = _EXPLAINED * before
    now = _context(size, values, keys, vals)
    if float(attended.size((wanted - now)[None])[0]) <= least:
        return True
    best: tuple[int, int, int] | None = None
    for number, (which, _) in enumerate(WHICH):
        below = size[:, keys].sum(axis=1)
        above = np.einsum("hs,hse->he", size[:, keys], values[:, vals])
        for place in range(len(rows)):
            own = size[:, keys[place], None]
            new = size if "k" in which else np.broadcast_to(own, size.shape)
            value = values[:, vals[place], None]
            put = values if "v" in which else np.broadcast_to(value, values.shape)
            total = (below[:, None] - own + new)[..., None]
            context = (above[:, None] - own[..., None] * value + new[..., None] * put) / total
            off = attended.size((wanted[:, None] - context).swapaxes(0, 1))
            off[position + 1 : -1] = np.inf  # nobody has written those yet
            source = int(off.argmin())
            if off[source] < least:
                best, least = (number, place, source), float(off[source])
    if best is None:
        return False
    _hold(held, rows, len(attended.q), best)
    return True


def _context(
    size: Float64[np.ndarray, "H T"],
    values: Float64[np.ndarray, "H T E"],
    keys: list[int],
    vals: list[int],
) -> Float64[np.ndarray, "H E"]:
    below = size[:, keys].sum(axis=1, keepdims=True)
    above: np.ndarray = np.einsum("hs,hse->he", size[:, keys], values[:, vals])
    context: np.ndarray = above / below
    return context


def _hold(held: _Held, rows: list[int], tokens: int, best: tuple[int, int, int]) -> None:
    number, place, source = best
    which, names = WHICH[number]
    slot, source = rows[place], ZEROS if source == tokens else source
    for name, of in (("k", held.k), ("v", held.v)):
        if name in which:
            of[slot] = source
    what = "zeros" if source == ZEROS else f"those of token {source}"
    held.said.append(f"the {names} of token {slot} are {what}")
    held.numbers += 1 if source == ZEROS else 2
