"""Attention by another formula: masks that do not mask, softmax elsewhere, gates, wrong rows.

Shape letters: T tokens, H heads, K key/value heads, E head size, W = H * E.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.attention.attended import Attended, weigh
from cotejar.diagnosis.hypotheses.numbers import nice, search_number
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Rotate
from cotejar.trace.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case

    Scores = Float64[np.ndarray, "H T T"]
    Context = Float64[np.ndarray, "T W"]

_MOST_TOKENS = 256
"""The scores of all heads are held at once."""
_TILES = (1, 2, 4, 8, 16, 32, 64, 128)


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site that is the weighted sum of values."""
    attended = Attended.of(case)
    if attended is None or not 1 < len(attended.q) <= _MOST_TOKENS:
        return
    scores = np.stack(
        [
            attended.scores(attended.q[:, head], attended.k[:, kv_head])
            for head, kv_head in enumerate(attended.heads)
        ]
    )
    yield from _masks(attended, scores)
    yield from _softmaxes(attended, scores)
    yield from _tiles(attended, scores)
    yield from _strongest(attended, scores)
    yield from _by_position(attended, scores)
    yield from _gated(attended, scores)
    yield from _normed(case, attended)
    yield from _other_rows(case, attended)


def _context(attended: Attended, weights: Scores) -> Context:
    return exact.join_heads((weights @ attended.sampled_values).swapaxes(0, 1))


def _left(attended: Attended, weights: Scores) -> float:
    """Relative distance at the sampled queries, all together."""
    return float(
        attended.distance((weights @ attended.sampled_values)[:, attended.sample]).sum()
    )


def _masks(attended: Attended, scores: Scores) -> Iterator[Alternative]:
    """Scores of hidden keys that are lowered, or set to 0, and not to minus infinity."""
    seen = attended.visible

    def lowered(by: float) -> Scores:
        return weigh(np.where(seen, scores, scores - by))

    found = search_number(lambda by: _left(attended, lowered(by)), 1e-2, 1e3)
    for by in dict.fromkeys((nice(found, 1), nice(found, 2), nice(found, 4), found)):
        yield Alternative(
            id="mask-too-weak",
            title=f"the mask takes {by:.4g} from the scores of hidden keys, which stay visible",
            output=_context(attended, lowered(by)),
            parameters=1,
        )
    yield Alternative(
        id="mask-zeroed",
        title="scores of hidden keys are set to 0, not to minus infinity",
        output=_context(attended, weigh(np.where(seen, scores, 0.0))),
    )
    tokens = np.arange(seen.shape[0])
    for words, other in (
        ("is transposed: a token sees itself and those after it", seen.T),
        (
            "is transposed: a token sees itself and those after it",
            tokens[None, :] >= tokens[:, None],
        ),
        ("is turned over: a token sees those after it alone", ~seen),
        (
            "is turned over: a token sees those after it alone, the last one itself",
            ~seen | ((tokens == tokens[-1]) & (tokens[:, None] == tokens[-1])),
        ),
    ):
        hidden = np.where(other, scores, -np.inf)
        hidden[:, ~other.any(axis=1)] = 0.0  # a softmax over nothing weighs all alike
        yield Alternative(
            id="mask-transposed",
            title=f"the mask {words}",
            output=_context(attended, weigh(hidden)),
        )
    weights = np.where(seen, weigh(scores), 0.0)
    yield Alternative(
        id="mask-after-softmax",
        title="the mask comes after the softmax: weights do not sum to 1",
        output=_context(attended, weights),
    )


def _softmaxes(attended: Attended, scores: Scores) -> Iterator[Alternative]:
    seen = np.where(attended.visible, scores, -np.inf)
    hidden = ~attended.visible

    def over(axis: int) -> Scores:
        moved = weigh(np.moveaxis(seen, axis, -1))
        return np.where(hidden, 0.0, np.moveaxis(moved, -1, axis))

    for words, weights in (
        ("over the heads, not over the keys", over(0)),
        ("over the queries, not over the keys", over(1)),
        (
            "over all queries, and the mask comes after it",
            np.where(hidden, 0.0, np.swapaxes(weigh(np.swapaxes(scores, 1, 2)), 1, 2)),
        ),
        (
            "over all heads, and the mask comes after it",
            np.where(hidden, 0.0, np.moveaxis(weigh(np.moveaxis(scores, 0, -1)), -1, 0)),
        ),
        ("left out: scores themselves weigh the values", np.where(hidden, 0.0, scores)),
        ("applied twice", weigh(np.where(hidden, -np.inf, weigh(seen)))),
        ("a sigmoid of each score", np.where(hidden, 0.0, 1 / (1 + np.exp(-scores)))),
        (
            "of base 2, not of base e",
            weigh(seen * np.log(2.0)),
        ),
    ):
        yield Alternative(
            id="softmax-form",
            title=f"the softmax is {words}"
            if words.startswith(("left", "applied", "a ", "of "))
            else f"the softmax is taken {words}",
            output=_context(attended, weights),
        )


def _tiles(attended: Attended, scores: Scores) -> Iterator[Alternative]:
    """An online softmax that forgets to rescale what it has summed when the greatest grows."""
    seen = np.where(attended.visible, scores, -np.inf)
    tokens = seen.shape[2]
    for size in _TILES:
        if size >= tokens:
            break
        starts = range(0, tokens, size)
        greatest = np.maximum.accumulate(
            np.stack([seen[..., s : s + size].max(axis=2) for s in starts], axis=2), axis=2
        )
        then = np.repeat(greatest, size, axis=2)[..., :tokens]
        last = greatest[..., -1:]
        forgotten = np.exp(seen - np.where(np.isfinite(then), then, 0.0))
        rescaled = np.exp(seen - last)
        for words, above, below in (
            ("the sum of values is", forgotten, rescaled),
            ("the sum of weights is", rescaled, forgotten),
            ("neither sum is", forgotten, forgotten),
        ):
            weights = above / np.maximum(below.sum(axis=2, keepdims=True), 1e-300)
            yield Alternative(
                id="softmax-not-rescaled",
                title=f"attention in tiles of {size} keys: {words} rescaled when a greater "
                "score comes"
                if words.startswith("neither")
                else f"attention in tiles of {size} keys: {words} not rescaled when a greater "
                "score comes",
                output=_context(attended, weights),
                parameters=1,
            )


def _strongest(attended: Attended, scores: Scores) -> Iterator[Alternative]:
    """Only the keys of the highest scores."""
    seen = np.where(attended.visible, scores, -np.inf)
    ordered = -np.sort(-seen, axis=2)
    best, least = 1, np.inf
    for count in range(1, seen.shape[2]):
        left = _left(
            attended, weigh(np.where(seen >= ordered[..., count - 1 : count], seen, -np.inf))
        )
        if left < least:
            best, least = count, left
    kept = seen >= ordered[..., best - 1 : best]
    yield Alternative(
        id="attention-top-k",
        title=f"only the {best} highest scores of a query are kept",
        output=_context(attended, weigh(np.where(kept, seen, -np.inf))),
        parameters=1,
    )


def _by_position(attended: Attended, scores: Scores) -> Iterator[Alternative]:
    """Scores times a number of the query's own: a temperature that grows with the position."""
    seen = np.where(attended.visible, scores, -np.inf)
    factor_T = np.ones(seen.shape[1])
    for query in attended.wrong.tolist():
        wanted_HE = attended.recorded[query]

        def left(factor: float, query: int = query, wanted_HE: np.ndarray = wanted_HE) -> float:
            weights = weigh(seen[:, query] * factor)
            context_HE = np.einsum("ht,hte->he", weights, attended.sampled_values)
            return float(np.linalg.norm(wanted_HE - context_HE))

        factor_T[query] = search_number(left, 0.25, 4.0)
    if len(attended.wrong) > 1:
        wrong = factor_T[attended.wrong]
        yield Alternative(
            id="attention-temperature",
            title="scores are scaled by a number of each token's own, "
            f"{wrong.min():.4g} to {wrong.max():.4g}: a temperature by position",
            output=_context(attended, weigh(seen * factor_T[:, None])),
            parameters=1 + len(attended.wrong),
        )


def _gated(attended: Attended, scores: Scores) -> Iterator[Alternative]:
    """The context times a function of the query, channel by channel."""
    context_TW = _context(attended, weigh(np.where(attended.visible, scores, -np.inf)))
    q_TW = exact.join_heads(attended.q)
    sigmoid_TW = 1 / (1 + np.exp(-q_TW))
    for words, gate_TW in (
        ("the sigmoid of the query", sigmoid_TW),
        ("the SiLU of the query", q_TW * sigmoid_TW),
        ("the query", q_TW),
        ("the tanh of the query", np.tanh(q_TW)),
    ):
        yield Alternative(
            id="attention-gated",
            title=f"the context is multiplied by {words}",
            output=context_TW * gate_TW,
        )


def _normed(case: Case, attended: Attended) -> Iterator[Alternative]:
    """Heads of q, k or v that are normed, where no norm belongs."""
    weights, e = case.observed.truth.weights, attended.step.head_dim
    eps = case.observed.truth.config.rms_eps
    gains = {"without a weight": np.ones(e)}
    for part in ("k_norm", "q_norm"):
        name = f"model.layers.{case.operation.site.layer}.self_attn.{part}.weight"
        if name in weights:
            gains[f"with the weight of {part}"] = weights.vector(name).astype(np.float64)
    for names, words in (
        ("v", "values"),
        ("k", "keys"),
        ("q", "queries"),
        ("qk", "queries and keys"),
    ):
        for how, gain_E in gains.items():
            rows = {n: exact.rms_norm(getattr(attended, n), gain_E, eps) for n in names}
            yield Alternative(
                id="head-norm-extra",
                title=f"each head of the {words} is normed (RMS, {how})",
                output=attended.output(**rows),
            )


def _other_rows(case: Case, attended: Attended) -> Iterator[Alternative]:
    """Values turned, keys unturned: what stands where it ought not to."""
    layer, e = case.operation.site.layer, attended.step.head_dim
    operations = case.observed.truth.operations
    turn = operations.get(str(Site("k_rope", layer)))
    k_TW = case.recorded_at(Site("k", layer))
    if turn is None or not isinstance(turn.step, Rotate) or k_TW is None:
        return
    if k_TW.size != attended.k.size:
        return
    plain_TKE = exact.split_heads(k_TW, e)
    v_TW = exact.join_heads(attended.v)
    angles_TP = np.outer(np.arange(len(v_TW)), turn.step.frequencies)
    turned_TKE = exact.turn(attended.v, angles_TP)
    again_TW = replay(turn, [exact.join_heads(attended.k)], case.observed)
    for id_, title, rows in (
        (
            "key-for-value",
            "keys from before RoPE are summed in place of values",
            {"v": plain_TKE},
        ),
        ("rope-on-values", "values are turned as keys are", {"v": turned_TKE}),
        *(
            (
                "rope-on-values",
                f"values of key/value head {head} are turned as keys are",
                {"v": _one_head(attended.v, turned_TKE, head)},
            )
            for head in range(attended.v.shape[1])
        ),
        (
            "value-for-key",
            "values, turned as keys are, are scored in place of keys",
            {"k": turned_TKE},
        ),
        (
            "key-value-swapped",
            "keys from before RoPE and values change places",
            {"k": attended.v, "v": plain_TKE},
        ),
        ("rope-twice", "keys are turned twice", {"k": exact.split_heads(again_TW, e)}),
    ):
        yield Alternative(id=id_, title=title, output=attended.output(**rows))
    yield from _unturned_cache(attended, plain_TKE)


def _one_head(
    right_TKE: Float64[np.ndarray, "T K E"], other_TKE: Float64[np.ndarray, "T K E"], head: int
) -> Float64[np.ndarray, "T K E"]:
    mixed = right_TKE.copy()
    mixed[:, head] = other_TKE[:, head]
    return mixed


def _unturned_cache(
    attended: Attended, plain_TKE: Float64[np.ndarray, "T K E"]
) -> Iterator[Alternative]:
    """Wrong queries read keys of earlier tokens from before RoPE, and later ones turned.

    Those before the query itself, or of any first tokens: a prompt's, say.
    """
    wrong = attended.wrong
    if not len(wrong):
        return
    tokens = len(attended.q)
    count = len(wrong)
    which = "every query" if count == tokens else f"{count} of {tokens} queries"
    own = np.array([_as_before_rope(attended, plain_TKE, int(t), int(t)) for t in wrong])
    found = [(_distance(attended, own), "tokens before them", own, 0)]
    for first in range(1, min(tokens, _MOST_FIRST)):
        some = np.array([_as_before_rope(attended, plain_TKE, int(t), first) for t in wrong])
        words = f"the first {first} tokens"
        found.append((_distance(attended, some), words, some, int(first != wrong[0])))
    nearest = min(found, key=lambda one: one[0])
    for _, words, context_NHE, numbers in (found[0], nearest):
        output_THE = exact.split_heads(attended.output(), attended.step.head_dim).copy()
        output_THE[wrong] = context_NHE
        yield Alternative(
            id="rope-unused",
            title=f"{which} read the keys of {words} as they were before RoPE, the first "
            f"{wrong[0]}",
            output=exact.join_heads(output_THE),
            parameters=numbers,
        )


_MOST_FIRST = 64
"""First tokens of which every number is tried."""


def _distance(attended: Attended, context_NHE: Float64[np.ndarray, "N H E"]) -> float:
    return float(np.linalg.norm(attended.recorded[attended.wrong] - context_NHE))


def _as_before_rope(
    attended: Attended, plain_TKE: Float64[np.ndarray, "T K E"], query: int, first: int
) -> Float64[np.ndarray, "H E"]:
    """The context of a query that reads the keys of the `first` tokens from before RoPE."""
    k = attended.k.copy()
    k[:first] = plain_TKE[:first]
    visible = attended.visible[query]
    rows = []
    for head, kv_head in enumerate(attended.heads):
        scores = attended.scores(attended.q[query : query + 1, head], k[:, kv_head])
        weights = weigh(np.where(visible, scores, -np.inf))
        rows.append((weights @ attended.v[:, kv_head])[0])
    return np.stack(rows)
