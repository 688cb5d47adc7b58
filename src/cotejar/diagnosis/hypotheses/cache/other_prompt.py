"""Rows of the first pass that are other tokens': a prefix that is another prompt's.

In the first layer a row of the cache is a function of its token and its place alone. A context
c is the mean of values v by weights exp(s): the sum of exp(s) (v - c) over all rows is 0, and
each row adds its own part to it. So the token of each slot is the one whose part brings the sum
nearest to 0 with those of the others; one slot after the other is chosen, until none changes.

Shape letters: T tokens, V vocabulary, N sampled queries, Q those of all query heads that share
one key/value head, H heads, K key/value heads, E head size, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.hypotheses.cache.row_forms import Form
from cotejar.diagnosis.observed import embed, replay, rounded_inputs
from cotejar.diagnosis.operations import Attend, Embed, Rotate
from cotejar.trace.site import Site

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case
    from cotejar.diagnosis.hypotheses.attention.attended import Attended
    from cotejar.diagnosis.observed import Observed
    from cotejar.diagnosis.operations import Operation

_MOST_FIRST, _MOST_PRODUCTS, _MOST_SCORES = 32, 2e10, 4e6
"""Tokens of a first pass; multiplications that the table takes; scores held at once."""
_SWEEPS, _ROUNDS, _MOST_TRIED = 12, 60, 4e8
"""Times that all slots are chosen, and chosen anew; scores that may take."""
_NOTHING = 1e-8
"""Of the square of what other rows add: the right tokens leave no more."""
_SHOWN = 6


def rows_of_other_tokens(case: Case, attended: Attended, n: int) -> Form | None:
    """The tokens that the first `n` rows are of, to those behind; None where none are other."""
    chain = _chain(case)
    observed = replace(case.observed, _derived={})
    ids = list(observed.trace.token_ids)
    if chain is None or n > _MOST_FIRST or attended.known is not None:
        return None
    table = observed.truth.weights[chain["embed"].step.weight]  # type: ignore[union-attr]  # it is an Embed
    kv_size = attended.k[0].size
    if 2.0 * table.rows * table.columns * kv_size > _MOST_PRODUCTS:
        return None
    found = _Search.of(attended, chain, observed, n, table.rows).solve(ids[:n])
    others = [p for p in range(n) if found[p] != ids[p]]
    if not others:
        return None
    k_TW, v_TW = _rows(chain, observed, [*found, *ids[n:]])
    rounded = rounded_inputs(attended.step, (case.inputs[0], k_TW, v_TW), observed.arithmetic)
    at = "the first pass"
    if others == list(range(len(others))) and len(others) < n:
        at = f"the first {len(others)} tokens" if len(others) > 1 else "token 0"
    elif len(others) < n:
        at = f"{len(others)} tokens of the first pass"
    shown = ", ".join(str(found[p]) for p in others[:_SHOWN])
    more = " ..." if len(others) > _SHOWN else ""
    return Form(
        id="cache-foreign",
        rows=f"keys and values of {at}",
        words=f"are those of the ids {shown}{more}: another prompt's?",
        k=exact.split_heads(rounded[1], attended.step.head_dim),
        v=exact.split_heads(rounded[2], attended.step.head_dim),
        numbers=len(others),
    )


def _chain(case: Case) -> dict[str, Operation] | None:
    """What makes keys and values of a token's id: of the first layer alone."""
    operations = case.observed.truth.operations
    if case.operation.site.layer != 0 or not isinstance(case.operation.step, Attend):
        return None
    names = ("attn_norm", "k", "k_rope", "v")
    chain = {slot: operations[str(Site(slot, 0))] for slot in names}
    chain["embed"] = operations["embed"]
    usual = isinstance(chain["embed"].step, Embed) and isinstance(chain["k_rope"].step, Rotate)
    return chain if usual and chain["attn_norm"].inputs == (Site("embed"),) else None


def _rows(
    chain: dict[str, Operation], observed: Observed, ids: Sequence[int], *, turns: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values of these tokens, each at its place; or keys that are not turned."""
    step = chain["embed"].step
    if not isinstance(step, Embed):
        raise TypeError(step)
    normed = replay(chain["attn_norm"], [embed(step, observed.truth, ids)], observed)
    turn = chain["k_rope"]
    if not turns and isinstance(turn.step, Rotate):
        still = (0.0,) * len(turn.step.frequencies)
        turn = replace(turn, step=replace(turn.step, frequencies=still))
    k = replay(turn, [replay(chain["k"], [normed], observed)], observed)
    return k, replay(chain["v"], [normed], observed)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Search:
    """Of every key/value head: its queries, what they gave, and every token's rows."""

    attended: Attended
    frequencies: Float64[np.ndarray, "P"]
    n: int
    queries: np.ndarray
    """Positions of those that are held against."""
    k: Float64[np.ndarray, "V K E"]
    """Not turned."""
    v: Float64[np.ndarray, "V K E"]
    greatest: Float64[np.ndarray, "N H"]
    """Log of the sum of weights, as it ought to be."""

    @classmethod
    def of(
        cls,
        attended: Attended,
        chain: dict[str, Operation],
        observed: Observed,
        n: int,
        vocabulary: int,
    ) -> _Search:
        e, block = attended.step.head_dim, 4096
        parts = [
            _rows(chain, observed, range(a, min(a + block, vocabulary)), turns=False)
            for a in range(0, vocabulary, block)
        ]
        k, v = (exact.split_heads(np.concatenate(one), e) for one in zip(*parts, strict=True))
        wrong = attended.wrong
        most = max(3, int(_MOST_SCORES / (vocabulary * len(attended.heads))))
        queries = wrong[
            np.unique(np.linspace(0, len(wrong) - 1, min(len(wrong), most, 24)).astype(int))
        ]
        greatest = np.empty((len(queries), len(attended.heads)))
        for head, kv_head in enumerate(attended.heads):
            scores = attended.scores(attended.q[queries, head], attended.k[:, kv_head])
            scores = np.where(attended.visible[queries], scores, -np.inf)
            greatest[:, head] = np.logaddexp.reduce(scores, axis=1)
        step = chain["k_rope"].step
        angles = np.array(step.frequencies if isinstance(step, Rotate) else ())
        return cls(
            attended=attended, frequencies=angles, n=n, queries=queries, k=k, v=v,
            greatest=greatest,
        )  # fmt: skip

    def solve(self, ids: Sequence[int]) -> list[int]:
        """Tokens of the first rows: from none, the nearest first; then in turn again.

        Where that ends short of 0, some are taken out by chance and chosen anew.
        """
        others = self._of_others()
        least = _NOTHING * float((others**2).sum())
        found, left = self._filled({}, others, range(self.n))
        size = len(self.k) * self.greatest.size
        rounds = min(_ROUNDS, int(_MOST_TRIED / (size * _SWEEPS * self.n)))
        chance = np.random.default_rng(0)
        for _ in range(rounds):
            if (left**2).sum() <= least:
                break
            order = chance.permutation(self.n).tolist()
            out = order[: int(chance.integers(2, max(3, self.n)))]
            kept = {p: t for p, t in found.items() if p not in out}
            again, less = self._filled(kept, self._with(kept, others), out)
            if (less**2).sum() < (left**2).sum():
                found, left = again, less
        return [found[place] for place in range(len(ids))]

    def _with(self, found: Mapping[int, int], left: np.ndarray) -> Float64[np.ndarray, "N H E"]:
        for place, token in found.items():
            left = left + self._part(place, token)
        return left

    def _filled(
        self, found: Mapping[int, int], left: np.ndarray, order: Sequence[int]
    ) -> tuple[dict[int, int], Float64[np.ndarray, "N H E"]]:
        """The other slots in that order, and then all in turn until none changes."""
        tokens = dict(found)
        for place in order:
            tokens[place] = self._best(place, left)[1]
            left = left + self._part(place, tokens[place])
        for _ in range(_SWEEPS):
            before = dict(tokens)
            for place in range(self.n):
                left = left - self._part(place, tokens[place])
                tokens[place] = self._best(place, left)[1]
                left = left + self._part(place, tokens[place])
            if tokens == before:
                break
        return tokens, left

    def _of_others(self) -> Float64[np.ndarray, "N H E"]:
        """What the rows behind the first pass add."""
        attended = self.attended
        left = np.empty((len(self.queries), len(attended.heads), attended.step.head_dim))
        seen = attended.visible[self.queries] & (np.arange(len(attended.q)) >= self.n)
        for head, kv_head in enumerate(attended.heads):
            scores = attended.scores(attended.q[self.queries, head], attended.k[:, kv_head])
            weights = np.exp(scores - self.greatest[:, head, None]) * seen
            context = attended.recorded[self.queries, head]
            left[:, head] = (
                weights @ attended.v[:, kv_head] - weights.sum(axis=1)[:, None] * context
            )
        return left

    def _weights(self, place: int, head: int, k_VE: np.ndarray) -> np.ndarray:
        """Of any token's row in that slot, to every query of one head."""
        q = self.attended.q[self.queries][:, head : head + 1]
        back = np.tile(-place * self.frequencies, (len(q), 1))
        scores = self.attended.scores(exact.turn(q, back)[:, 0], k_VE)
        seen = self.attended.visible[self.queries, place][:, None]
        weights: np.ndarray = np.exp(scores - self.greatest[:, head, None]) * seen
        return weights

    def _part(self, place: int, token: int) -> Float64[np.ndarray, "N H E"]:
        """What the row of one token adds there."""
        part = np.empty((len(self.queries), len(self.attended.heads), self.v.shape[2]))
        for head, kv_head in enumerate(self.attended.heads):
            weights = self._weights(place, head, self.k[token : token + 1, kv_head])
            away = self.v[token, kv_head] - self.attended.recorded[self.queries, head]
            part[:, head] = weights * away
        return part

    def _best(self, place: int, left_NHE: Float64[np.ndarray, "N H E"]) -> tuple[float, int]:
        """The square of what is left, with the best token there."""
        total_V = np.zeros(len(self.k))
        for head, kv_head in enumerate(self.attended.heads):
            v, left = self.v[:, kv_head], left_NHE[:, head]
            context = self.attended.recorded[self.queries, head]
            weights = self._weights(place, head, self.k[:, kv_head])
            along = left @ v.T - (left * context).sum(axis=1)[:, None]
            square = (v * v).sum(axis=1) - 2 * context @ v.T
            square = square + (context * context).sum(axis=1)[:, None]
            total_V += (2 * weights * along + weights**2 * square).sum(axis=0)
        token = int(total_V.argmin())
        return float(total_V[token] + (left_NHE**2).sum()), token
