"""One attention, held so that many ways to read it cost little.

Every way is tried on a few of the wrong queries; what explains those is computed whole.

Shape letters: T tokens, N sampled queries, H heads, K key/value heads, E head size,
W = H * E.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.arithmetic import ROUNDINGS
from cotejar.diagnosis.observed import cap, rounded_inputs
from cotejar.diagnosis.operations import Attend, key_heads

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Bool, Float64, Int

    from cotejar.diagnosis.case import Case

_QUERIES = 12
"""Wrong queries that are tried."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Attended:
    """What attention was given, rounded as the numerics declares, and what was recorded."""

    step: Attend
    q: Float64[np.ndarray, "T H E"]
    k: Float64[np.ndarray, "T K E"]
    v: Float64[np.ndarray, "T K E"]
    recorded: Float64[np.ndarray, "T H E"]
    heads: tuple[int, ...]
    ratios: Float64[np.ndarray, "T"]
    """Of every query's error to its limit."""
    round_weights: Callable[[np.ndarray], np.ndarray]
    known: Float64[np.ndarray, "W R"] | None
    """Directions in which what was recorded is known; None for all."""

    @classmethod
    def of(cls, case: Case) -> Attended | None:
        """Of a site that is a weighted sum of values; else None."""
        step = case.operation.step
        if not isinstance(step, Attend):
            return None
        given = rounded_inputs(step, case.inputs, case.observed.arithmetic)
        q, k, v = (exact.split_heads(a, step.head_dim) for a in given)
        return cls(
            step=step,
            q=q,
            k=k,
            v=v,
            recorded=exact.split_heads(case.recorded, step.head_dim),
            heads=key_heads(step, q.shape[1]),
            ratios=case.error.ratios,
            round_weights=ROUNDINGS[case.observed.arithmetic.probabilities],
            known=case.known,
        )

    @cached_property
    def visible(self) -> Bool[np.ndarray, "T T"]:
        """As it ought to be."""
        return exact.visible_keys(len(self.q), self.step.window)

    @cached_property
    def wrong(self) -> Int[np.ndarray, "n"]:
        """Queries whose context is wrong."""
        return np.flatnonzero(self.ratios > 1)

    @cached_property
    def sample(self) -> Int[np.ndarray, "N"]:
        """Some of them: the first, the last, and between."""
        if not len(self.wrong):
            return np.arange(len(self.q))[-_QUERIES:]
        at = np.linspace(0, len(self.wrong) - 1, min(_QUERIES, len(self.wrong))).astype(int)
        some: np.ndarray = self.wrong[at]
        return some

    def output(self, **changes: Any) -> Float64[np.ndarray, "T W"]:
        """Whole, with what is named changed."""
        q, k, v = (changes.pop(name, getattr(self, name)) for name in "qkv")
        settings: dict[str, Any] = {
            "scale": self.step.scale,
            "visible_TT": self.visible,
            "key_heads": self.heads,
            "softcap": self.step.softcap,
            "round_weights": self.round_weights,
        }
        return exact.join_heads(exact.attend(q, k, v, **(settings | changes)))

    def scores(
        self, q_NE: Float64[np.ndarray, "N E"], k_TE: Float64[np.ndarray, "T E"]
    ) -> Float64[np.ndarray, "N T"]:
        """Of some queries of one head with every key; nothing is hidden yet."""
        scores_NT: np.ndarray = q_NE @ k_TE.T * self.step.scale
        return cap(scores_NT, self.step.softcap)

    @cached_property
    def sampled_scores(self) -> Float64[np.ndarray, "H N T"]:
        """Of the sampled queries with every key, those that are hidden too."""
        return np.stack(
            [
                self.scores(self.q[self.sample, head], self.k[:, kv_head])
                for head, kv_head in enumerate(self.heads)
            ]
        )

    @cached_property
    def sampled_values(self) -> Float64[np.ndarray, "H T E"]:
        """The values that each head sums."""
        return self.v[:, list(self.heads)].swapaxes(0, 1)

    def left(self, visible_NT: Bool[np.ndarray, "N T"]) -> Float64[np.ndarray, "N"]:
        """Relative distance of each sampled query with these keys visible."""
        scores = np.where(visible_NT, self.sampled_scores, -np.inf)
        return self.distance(weigh(scores) @ self.sampled_values)

    def distance(self, context_HNE: Float64[np.ndarray, "H N E"]) -> Float64[np.ndarray, "N"]:
        """Relative, of each sampled query, from what was recorded."""
        wanted_NHE = self.recorded[self.sample]
        off = self.size(wanted_NHE - context_HNE.swapaxes(0, 1))
        result: np.ndarray = off / np.maximum(self.size(wanted_NHE), 1e-300)
        return result

    def size(self, context_NHE: Float64[np.ndarray, "N H E"]) -> Float64[np.ndarray, "N"]:
        """Length of each, as far as it is known."""
        context_NW = context_NHE.reshape(len(context_NHE), -1)
        if self.known is not None:
            context_NW = context_NW @ self.known
        result: np.ndarray = np.linalg.norm(context_NW, axis=1)
        return result


def weigh(scores: Float64[np.ndarray, "*n T"]) -> Float64[np.ndarray, "*n T"]:
    """Softmax over the last axis; where nothing is seen, zeros."""
    greatest = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isfinite(greatest), greatest, 0.0))
    total = weights.sum(axis=-1, keepdims=True)
    result: np.ndarray = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return result
