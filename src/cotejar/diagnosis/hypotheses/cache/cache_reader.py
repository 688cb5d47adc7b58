"""What a step makes of the rows that it finds in a KV cache.

Shape letters: T tokens, N sampled steps, H heads, E head size, L slots read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.hypotheses.attention.attended import weigh

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float64

    from cotejar.diagnosis.hypotheses.attention.attended import Attended

ZEROS = -1
"""Stands for a token in a slot that nobody has written."""
_COMPARED_STEPS = 12
"""At which two ways are told apart."""

Reading: TypeAlias = "Callable[[int], list[int]]"
"""Of a step's position: the tokens whose rows it finds, slot by slot."""


_OTHERS = {"keys": "values", "values": "keys"}
_OF_OTHERS = re.compile(r"(, or( its)?| against the) \{others\}[^,;:]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way to keep or read the cache."""

    id: str
    words: str
    """With `{rows}` for keys, values or both, `{others}` for those that are read rightly."""
    read: Reading
    numbers: int = 0
    """That were fitted."""

    def title(self, rows: str) -> str:
        """Said of `keys`, of `values`, or of both, beside which there are no others."""
        others = _OTHERS.get(rows)
        words = self.words if others else _OF_OTHERS.sub("", self.words)
        return words.format(rows=rows, others=others)


class CacheReader:
    """Computes what steps make of any rows, and keeps what came before them as it is."""

    def __init__(self, attended: Attended, first: int, passes: tuple[int, ...] = ()) -> None:
        """Tokens from `first` on are steps, each a pass of its own if `passes` say no other."""
        self.attended = attended
        self.first = first
        self._ends = np.repeat(np.cumsum(passes, dtype=int), passes)
        self._starts = self._ends - np.repeat(passes, passes)
        scores = attended.sampled_scores
        # One slot more that holds zeros: its score is 0, and so is its value.
        self._scores = np.concatenate([scores, np.zeros_like(scores[..., :1])], axis=2)
        values = attended.sampled_values
        self._values = np.concatenate([values, np.zeros_like(values[:, :1])], axis=1)
        self.without_faults = exact.split_heads(attended.output(), attended.step.head_dim)

    def right(self, position: int) -> list[int]:
        """The tokens that a step ought to see."""
        window = self.attended.step.window
        return list(range(0 if window is None else max(0, position - window + 1), position + 1))

    def end(self, position: int) -> int:
        """Where the rows end that are in the cache when the token of that place is computed."""
        within = position < len(self._ends) and position >= self.first
        return int(self._ends[position]) if within else position + 1

    def start(self, position: int) -> int:
        """The first token of its pass."""
        within = position < len(self._starts) and position >= self.first
        return int(self._starts[position]) if within else position

    def left(self, read_k: Reading, read_v: Reading, *, ends: bool = False) -> float:
        """The greatest relative distance of a sampled step; or of the first and last alone."""
        steps = range(self.first, len(self.attended.q))
        if not ends and any(len(read_k(t)) != len(read_v(t)) for t in steps):
            return np.inf
        places = range(len(self.attended.sample))
        farthest = 0.0
        for place in dict.fromkeys((places[0], places[-1])) if ends else places:
            position = int(self.attended.sample[place])
            keys, values = read_k(position), read_v(position)
            if len(keys) != len(values) or not keys:
                return np.inf
            weights = weigh(self._scores[:, place, keys])
            context_HE = np.einsum("hl,hle->he", weights, self._values[:, values])
            wanted_HE = self.attended.recorded[position]
            off, size = self.attended.size(np.stack([wanted_HE - context_HE, wanted_HE]))
            farthest = max(farthest, float(off) / max(float(size), 1e-300))
        return farthest

    def told_by(self, read_k: Reading, read_v: Reading) -> tuple[object, ...]:
        """What some steps find, in whatever order: ways that agree in it are one."""
        steps = range(self.first, len(self.attended.q))
        at = np.linspace(0, len(steps) - 1, min(_COMPARED_STEPS, len(steps))).astype(int)
        compared = {*(steps[i] for i in at), *self.attended.sample.tolist()}
        return tuple(
            tuple(sorted(zip(read_k(t), read_v(t), strict=False))) for t in sorted(compared)
        )

    def output(self, read_k: Reading, read_v: Reading) -> Float64[np.ndarray, "T W"]:
        """Whole, the steps alone changed."""
        attended = self.attended
        context_THE = self.without_faults.copy()
        for position in range(self.first, len(context_THE)):
            keys, values = read_k(position), read_v(position)
            if keys == values == self.right(position):
                continue
            for head, kv_head in enumerate(attended.heads):
                k = np.concatenate([attended.k[:, kv_head], np.zeros_like(attended.k[:1, 0])])
                v = np.concatenate([attended.v[:, kv_head], np.zeros_like(attended.v[:1, 0])])
                scores = attended.scores(attended.q[position : position + 1, head], k[keys])
                weights = attended.round_weights(weigh(scores))
                context_THE[position, head] = (weights @ v[values])[0]
        return exact.join_heads(context_THE)
