"""A cache whose axes are laid out in one order and read in another, as long as it is then.

Each pass reads the rows that are there: in a buffer that grows with them a wrong order mixes
other rows at every step. A buffer of a fixed length holds zeros behind them.

Shape letters: T tokens, S slots of the buffer, K key/value heads, H heads, E head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.attention.attended import weigh
from cotejar.diagnosis.hypotheses.cache.row_forms import WHICH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.hypotheses.cache.cache_reader import CacheReader

_AXES = ("tokens", "heads", "values")
_LENGTHS = (8, 16, 32, 64, 128, 256, 512, 1024)
"""Slots of a buffer."""
_OFFERED = 3
"""The nearest, which are computed whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    order: tuple[int, ...]
    """Of axes: slots, heads, values."""
    is_read_so: bool
    """Is the buffer read in that order, or written in it? The other order is the right one."""
    length: int | None
    """Slots; None for as many as there are rows."""
    own: bool
    """Does a pass read its own rows as they are?"""

    @property
    def words(self) -> str:
        """How a title ends."""
        right, other = (" x ".join(_AXES[axis] for axis in o) for o in ((0, 1, 2), self.order))
        written, read = (right, other) if self.is_read_so else (other, right)
        long = (
            "as long as the cache is then" if self.length is None else f"of {self.length} slots"
        )
        own = ", but for a step's own" if self.own else ""
        return f"are written as {written} and read as {read}, in a buffer {long}{own}"

    def read(self, rows_TKE: Float64[np.ndarray, "T K E"], start: int) -> np.ndarray:
        """What is found in the slots of these rows, the own ones from `start` on."""
        length = len(rows_TKE) if self.length is None else self.length
        buffer = np.zeros((length, *rows_TKE.shape[1:]))
        buffer[: len(rows_TKE)] = rows_TKE
        if self.is_read_so:
            shape = tuple(buffer.shape[axis] for axis in self.order)
            found = buffer.reshape(shape).transpose(np.argsort(self.order))
        else:
            found = np.ascontiguousarray(buffer.transpose(self.order)).reshape(buffer.shape)
        found = found[: len(rows_TKE)]
        if self.own:
            found = np.concatenate([found[:start], rows_TKE[start:]])
        return found


def layout_alternatives(reader: CacheReader) -> Iterator[Alternative]:
    """The nearest of every two orders, of keys, values and both."""
    attended = reader.attended
    sample = attended.sample[attended.sample >= reader.first]
    ends = dict.fromkeys((int(sample[0]), int(sample[-1]))) if len(sample) else {}
    found: list[tuple[float, int, _Layout, str, str]] = []
    for layout in _layouts(reader) if ends else ():
        for which, rows in WHICH:
            left = max(_left(reader, layout, which, position) for position in ends)
            if np.isfinite(left):
                found.append((left, len(found), layout, which, rows))
    found.sort(key=lambda one: one[:2])
    for _, _, layout, which, rows in found[:_OFFERED]:
        context_THE = reader.without_faults.copy()
        for position in range(reader.first, len(context_THE)):
            context_THE[position] = _context(reader, layout, which, position)
        yield Alternative(
            id="cache-layout",
            title=f"the {rows} that steps read {layout.words}",
            output=exact.join_heads(context_THE),
            parameters=int(layout.length is not None),
        )


def _layouts(reader: CacheReader) -> Iterator[_Layout]:
    tokens = len(reader.attended.q)
    fixed = dict.fromkeys((tokens, *(n for n in _LENGTHS if n > tokens)))
    for length in (None, *fixed):
        for order in permutations(range(3)):
            for is_read_so in (True, False) if order != (0, 1, 2) else ():
                for own in (False, True):
                    yield _Layout(order=order, is_read_so=is_read_so, length=length, own=own)


def _left(reader: CacheReader, layout: _Layout, which: str, position: int) -> float:
    """Relative distance of one query's context."""
    wanted_HE = reader.attended.recorded[position]
    context_HE = _context(reader, layout, which, position)
    off, size = reader.attended.size(np.stack([wanted_HE - context_HE, wanted_HE]))
    return float(off) / max(float(size), 1e-300)


def _context(
    reader: CacheReader, layout: _Layout, which: str, position: int
) -> Float64[np.ndarray, "H E"]:
    attended = reader.attended
    end, start, seen = reader.end(position), reader.start(position), reader.right(position)
    found = {
        name: layout.read(array[:end], start) if name in which else array
        for name, array in (("k", attended.k), ("v", attended.v))
    }
    heads = []
    for head, kv_head in enumerate(attended.heads):
        q = attended.q[position : position + 1, head]
        weights = weigh(attended.scores(q, found["k"][seen, kv_head]))
        heads.append((attended.round_weights(weights) @ found["v"][seen, kv_head])[0])
    return np.stack(heads)
