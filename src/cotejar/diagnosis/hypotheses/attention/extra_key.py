"""A key more than there are tokens: padding that every query sees, or a sink of each head.

What one more value v adds to a context c moves it on the line to v: the lines of all queries
that read it meet there. A sink adds to the sum below alone, so that a context only shrinks.

Shape letters: T tokens, H heads, E head size, N lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.attention.attended import Attended, weigh
from cotejar.diagnosis.hypotheses.numbers import nice, search_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case

_FEWEST_TOKENS, _MOST_TOKENS = 4, 256
_TIMES = 4


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site that is the weighted sum of values."""
    attended = Attended.of(case)
    if attended is None or not _FEWEST_TOKENS <= len(attended.q) <= _MOST_TOKENS:
        return
    sums_TH = _sums(attended)
    right_THE = exact.split_heads(attended.output(), attended.step.head_dim)
    yield from _sinks(attended, sums_TH, right_THE)
    yield from _one_more(attended, sums_TH, right_THE)
    yield from _clipped(attended)


def _sums(attended: Attended) -> Float64[np.ndarray, "T H"]:
    """The softmax's sums below."""
    sums = []
    for head, kv_head in enumerate(attended.heads):
        scores = attended.scores(attended.q[:, head], attended.k[:, kv_head])
        sums.append(np.where(attended.visible, np.exp(scores), 0.0).sum(axis=1))
    return np.stack(sums, axis=1)


def _sinks(
    attended: Attended,
    sums_TH: Float64[np.ndarray, "T H"],
    right_THE: Float64[np.ndarray, "T H E"],
) -> Iterator[Alternative]:
    """A number of each head below: of c times r, it is the right sum times 1/r - 1."""
    share_TH = (attended.recorded * right_THE).sum(axis=2) / np.maximum(
        (right_THE**2).sum(axis=2), 1e-300
    )
    with np.errstate(all="ignore"):
        found_H = np.median(np.log(sums_TH * (1 / share_TH - 1)), axis=0)
    if not np.isfinite(found_H).all():
        return
    for digits in (2, 4, 12):
        sink_H = np.array([nice(float(one), digits) for one in found_H])
        left_TH = sums_TH / (sums_TH + np.exp(sink_H))
        yield Alternative(
            id="attention-sink",
            title=f"each head has a sink, {sink_H.min():.4g} to {sink_H.max():.4g}, in the sum "
            "below of its softmax",
            output=exact.join_heads(right_THE * left_TH[..., None]),
            parameters=len(sink_H),
        )


def _one_more(
    attended: Attended,
    sums_TH: Float64[np.ndarray, "T H"],
    right_THE: Float64[np.ndarray, "T H E"],
) -> Iterator[Alternative]:
    """One key and value of each key/value head."""
    output_THE, heads = right_THE.copy(), np.array(attended.heads)
    for kv_head in range(attended.k.shape[1]):
        mine = np.flatnonzero(heads == kv_head)
        from_NE = right_THE[:, mine].reshape(-1, right_THE.shape[2])
        moved_NE = attended.recorded[:, mine].reshape(from_NE.shape) - from_NE
        q_NE = attended.q[:, mine].reshape(from_NE.shape) * attended.step.scale
        below_N = sums_TH[:, mine].reshape(-1)
        value_E = meeting_point(from_NE, moved_NE)
        part_N1 = np.zeros((len(below_N), 1))
        for _ in range(_TIMES):  # the value by the key's weights, the key by the value's
            to_NE = value_E - from_NE
            square_N = np.maximum((to_NE**2).sum(axis=1), 1e-300)
            share_N = (moved_NE * to_NE).sum(axis=1) / square_N
            with np.errstate(all="ignore"):
                score_N = np.log(below_N * share_N / (1 - share_N))
            if not np.isfinite(score_N).all() or len(score_N) <= q_NE.shape[1]:
                return
            # A share near 0 or 1 says little about its score.
            sure_N = share_N * (1 - share_N) * np.sqrt(square_N)
            key_E = np.linalg.lstsq(q_NE * sure_N[:, None], score_N * sure_N, rcond=1e-9)[0]
            extra_N = np.exp(q_NE @ key_E)
            part_N1 = (extra_N / (below_N + extra_N))[:, None]
            wanted_NE = from_NE + moved_NE - (1 - part_N1) * from_NE
            value_E = (part_N1 * wanted_NE).sum(axis=0) / (part_N1**2).sum()
        moved = from_NE + part_N1 * (value_E - from_NE)
        output_THE[:, mine] = moved.reshape(len(right_THE), len(mine), -1)
    yield Alternative(
        id="mask-padding",
        title="every token sees one key and value more than there are tokens: padding in front "
        "that is not masked?",
        output=exact.join_heads(output_THE),
        parameters=2 * attended.k.shape[1] * right_THE.shape[2],
    )


def meeting_point(
    from_NE: Float64[np.ndarray, "N E"], along_NE: Float64[np.ndarray, "N E"]
) -> Float64[np.ndarray, "E"]:
    """The point that is nearest to all lines, each weighed by how far it is known."""
    length_N1 = np.maximum(np.linalg.norm(along_NE, axis=1, keepdims=True), 1e-300)
    unit_NE, size = along_NE / length_N1, np.square(length_N1[:, 0])
    across = size.sum() * np.eye(from_NE.shape[1]) - (unit_NE * size[:, None]).T @ unit_NE
    reached_NE = from_NE - unit_NE * (unit_NE * from_NE).sum(axis=1, keepdims=True)
    found: np.ndarray = np.linalg.lstsq(across, size @ reached_NE, rcond=1e-12)[0]
    return found


def _clipped(attended: Attended) -> Iterator[Alternative]:
    """Scores cut to a range."""
    scores = attended.sampled_scores
    seen = attended.visible[attended.sample]

    def left(bound: float) -> float:
        weights = weigh(np.where(seen, np.clip(scores, -bound, bound), -np.inf))
        return float(attended.distance(weights @ attended.sampled_values).sum())

    found = search_number(left, 1e-2, 1e3)
    for bound in dict.fromkeys((nice(found, 1), nice(found, 2), nice(found, 4), found)):
        whole = [
            weigh(
                np.where(
                    attended.visible,
                    np.clip(
                        attended.scores(attended.q[:, h], attended.k[:, kv]), -bound, bound
                    ),
                    -np.inf,
                )
            )
            @ attended.v[:, kv]
            for h, kv in enumerate(attended.heads)
        ]
        yield Alternative(
            id="scores-clipped",
            title=f"scores are cut to {bound:.4g} on both sides",
            output=exact.join_heads(np.stack(whole, axis=1)),
            parameters=1,
        )
