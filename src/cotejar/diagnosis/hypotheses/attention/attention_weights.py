"""The weights of attention: dropout in them, and what is added to the scores.

A context of E values is a sum over at most E tokens' values, so that its weights can be solved
for: held against the right ones they tell which were dropped. A bias of the scores, by distance
or by key, is fitted to the contexts themselves.

Shape letters: T tokens, H heads, E head size.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.attention.attended import Attended, weigh
from cotejar.diagnosis.hypotheses.numbers import nice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Bool, Float64, Int

    from cotejar.diagnosis.case import Case

    Weights = Float64[np.ndarray, "H T T"]

_INTEGERS = (127, 128, 255, 256, 7, 15)
"""The greatest that a weight between 0 and 1 may be stored as."""
_GREATEST_OF_4_BITS = 15
_FEWEST_TOKENS, _MOST_TOKENS = 4, 48
_CLEARLY_WRONG = 16.0
"""Limits that the right attention leaves at the least: to the rest any bias comes near."""
_NOT_A_SUM = 0.02
"""Of the change of a context: what solved weights may leave of it."""
_DROPPED = 0.1
"""Of its right weight: what a dropped one may have, as far as it is known."""
_LEAST_DROPPED, _MOST_DROPPED = 0.005, 0.95
_SOLVED = 1e-2
"""Of a query's greatest weight: of a smaller one the solution says little."""
_FLIPS = 2
"""Times all keys: so often a query's weights are dropped or kept anew."""
_STEPS = 16
"""Of least squares."""
_NO_NEARER = 1e-3
"""Share of what is left: a step that takes less is the last."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site that is the weighted sum of values."""
    attended = Attended.of(case)
    if attended is None:
        return
    yield from _in_steps(attended)
    if not _FEWEST_TOKENS <= len(attended.q) <= _MOST_TOKENS:
        return
    right = _right_weights(attended)
    found = _solve(attended, right)
    if found is not None:
        yield from _dropped(attended, right, found)
    if attended.ratios.max() >= _CLEARLY_WRONG:
        yield from _biases(attended)


def _in_steps(attended: Attended) -> Iterator[Alternative]:
    """As integers, by one scale for all or by the greatest of a row; the nearest way."""
    sample, values = attended.visible[attended.sample], attended.sampled_values
    right = weigh(np.where(sample, attended.sampled_scores, -np.inf))
    ways: list[tuple[float, int, bool]] = []
    for steps in _INTEGERS:
        for by_row in (False, True):
            context = _to_steps(right, steps=steps, by_row=by_row) @ values
            ways.append((float(attended.distance(context).max()), steps, by_row))
    for _, steps, by_row in sorted(ways)[:2]:
        bits = "int8" if steps > _GREATEST_OF_4_BITS else "int4"
        words = f"steps of 1/{steps}{' of the greatest of each row' if by_row else ''}"
        yield Alternative(
            id=f"softmax-{bits}",
            title=f"the weights of attention are rounded to {words} ({bits})",
            output=attended.output(
                round_weights=partial(_to_steps, steps=steps, by_row=by_row)
            ),
        )


def _to_steps(
    weights: Float64[np.ndarray, "... T"], *, steps: int, by_row: bool
) -> Float64[np.ndarray, "... T"]:
    greatest = weights.max(axis=-1, keepdims=True) if by_row else np.ones(1)
    step = np.maximum(greatest, 1e-300) / steps
    rounded: np.ndarray = np.rint(weights / step) * step
    return rounded


def _scores(attended: Attended) -> Weights:
    scores = np.stack(
        [
            attended.scores(attended.q[:, head], attended.k[:, kv_head])
            for head, kv_head in enumerate(attended.heads)
        ]
    )
    hidden: np.ndarray = np.where(attended.visible, scores, -np.inf)
    return hidden


def _right_weights(attended: Attended) -> Weights:
    return weigh(_scores(attended))


def _solve(attended: Attended, right: Weights) -> Weights | None:
    """Right weights and what has to be added; None where no weights give what was recorded."""
    found = right.copy()
    recorded_HTE = attended.recorded.swapaxes(0, 1)
    for head, kv_head in enumerate(attended.heads):
        values_TE = attended.v[:, kv_head]
        added_TE = recorded_HTE[head] - right[head] @ values_TE
        for query in range(len(right[head])):
            seen = np.flatnonzero(attended.visible[query])
            basis_nE, wanted_E = values_TE[seen], added_TE[query]
            if not wanted_E.any() or len(seen) > attended.step.head_dim:
                continue
            added_n = np.linalg.lstsq(basis_nE.T, wanted_E, rcond=1e-9)[0]
            left = float(np.linalg.norm(wanted_E - added_n @ basis_nE))
            noise = attended.ratios[query] <= 1
            if not noise and left > _NOT_A_SUM * float(np.linalg.norm(wanted_E)):
                return None
            found[head, query, seen] += added_n
    return found


def _context(attended: Attended, weights: Weights) -> Float64[np.ndarray, "T W"]:
    values_HTE = attended.v[:, list(attended.heads)].swapaxes(0, 1)
    return exact.join_heads((weights @ values_HTE).swapaxes(0, 1))


def _dropped(attended: Attended, right: Weights, found: Weights) -> Iterator[Alternative]:
    """Each weight is 0, or the right one over the share that is kept."""
    counted = attended.visible & (right > _SOLVED * right.max(axis=2, keepdims=True))
    counted[:, attended.visible.sum(axis=1) > attended.step.head_dim] = False  # not solved
    if not counted.any():
        return
    ratio = np.divide(found, right, out=np.ones_like(right), where=counted)
    gone = counted & (ratio < _DROPPED * np.median(ratio[counted]))
    if not _LEAST_DROPPED < gone.sum() / max(counted.sum(), 1) < _MOST_DROPPED:
        return
    factor = float(np.median(ratio[counted & ~gone]))
    for value in dict.fromkeys((1.0, nice(1 / (1 - nice(1 - 1 / factor, 1)), 12), factor)):
        kept = _kept(attended, value * right, found)
        share = 1 - float(kept[counted].mean())
        yield Alternative(
            id="dropout",
            title=f"{100 * share:.1f} % of the weights of attention are 0 and the others are "
            f"multiplied by {value:.4g}: dropout is on in attention",
            output=_context(attended, np.where(kept, value * right, 0.0)),
            parameters=2,
        )


def _kept(attended: Attended, weights: Weights, found: Weights) -> Bool[np.ndarray, "H T T"]:
    """Which are there. Where values nearly depend on each other, one by one is tried anew."""
    kept: np.ndarray = np.abs(found) >= np.abs(found - weights)
    kept[:, attended.visible.sum(axis=1) > attended.step.head_dim] = True
    recorded_HTE = attended.recorded.swapaxes(0, 1)
    for head, kv_head in enumerate(attended.heads):
        values_TE = attended.v[:, kv_head]
        square_T = (values_TE**2).sum(axis=1)
        for _ in range(_FLIPS * len(values_TE)):
            left_TE = recorded_HTE[head] - np.where(kept[head], weights[head], 0) @ values_TE
            step_TT = np.where(kept[head], -weights[head], weights[head])
            change_TT = step_TT**2 * square_T - 2 * step_TT * (left_TE @ values_TE.T)
            best_T = change_TT.argmin(axis=1)
            index_T = np.arange(len(best_T))
            enough_T = -_NO_NEARER * (left_TE**2).sum(axis=1)
            better = change_TT[index_T, best_T] < enough_T
            kept[head, index_T[better], best_T[better]] ^= True
            if not better.any() and not _flip_two(
                kept[head], change_TT, step_TT, values_TE @ values_TE.T, enough_T
            ):
                break
    return kept


def _flip_two(
    kept_TT: Bool[np.ndarray, "T T"],
    change_TT: Float64[np.ndarray, "T T"],
    step_TT: Float64[np.ndarray, "T T"],
    product_TT: Float64[np.ndarray, "T T"],
    enough_T: Float64[np.ndarray, "T"],
) -> bool:
    """Two weights of a query at once, where that comes nearer; did any?"""
    flipped = False
    for query in range(len(kept_TT)):
        change, step = change_TT[query], step_TT[query]
        both = change[:, None] + change[None] + 2 * step[:, None] * step[None] * product_TT
        np.fill_diagonal(both, 0.0)
        place = int(both.argmin())
        if both.reshape(-1)[place] < enough_T[query]:
            for key in divmod(place, len(change)):
                kept_TT[query, key] ^= True
            flipped = True
    return flipped


def _biases(attended: Attended) -> Iterator[Alternative]:
    """What was added to the scores: a number a distance or a key, of each head or of all."""
    heads, tokens = len(attended.heads), len(attended.q)
    index = np.arange(tokens)
    scores = _scores(attended)
    for words, places_TT in (
        ("distance", np.clip(index[:, None] - index[None, :], 0, None)),
        ("key", np.broadcast_to(index[None, :], (tokens, tokens))),
    ):

        def output(bias: np.ndarray, places_TT: np.ndarray = places_TT) -> np.ndarray:
            return _context(attended, weigh(scores + bias[:, places_TT]))

        together = _fit(attended, scores, places_TT, list(range(heads)))
        yield from _biased(words, together[None], output)
        each = np.stack([_fit(attended, scores, places_TT, [head]) for head in range(heads)])
        yield from _biased(f"{words}, another in each head", each, output)


def _biased(
    words: str,
    bias: Float64[np.ndarray, "H T"],
    output: Callable[[np.ndarray], np.ndarray],
) -> Iterator[Alternative]:
    """One place alone; slopes, where they are straight lines; and whatever they are."""
    index = np.arange(bias.shape[1])
    bias = bias - np.median(bias, axis=1, keepdims=True)
    place = int(np.abs(bias).max(axis=0).argmax())
    if len(bias) == 1:
        value = nice(float(bias[0, place]), 3)
        yield Alternative(
            id="position-bias",
            title=f"scores have {value:.4g} added at {words} {place} alone",
            output=output(np.where(index == place, value, 0.0)[None]),
            parameters=2,
        )
    if words.startswith("distance"):  # by key it is the same line
        centred = index - index.mean()
        slope_H = bias @ centred / (centred @ centred)
        yield Alternative(
            id="position-bias",
            title=f"scores have a bias by {words}, of slope {slope_H.min():.4g} to "
            f"{slope_H.max():.4g}",
            output=output(slope_H[:, None] * index),
            parameters=len(slope_H),
        )
    yield Alternative(
        id="position-bias",
        title=f"scores have a bias by {words}, {bias.min():.4g} to {bias.max():.4g} (a table "
        "of relative positions?)",
        output=output(bias),
        parameters=bias.size,
    )


def _fit(
    attended: Attended, scores: Weights, places_TT: Int[np.ndarray, "T T"], heads: list[int]
) -> Float64[np.ndarray, "T"]:
    """A number a place, the same for these heads, by damped least squares on the contexts.

    A context c changes by w_s (v_s - c) with the score of key s.
    """
    tokens = len(places_TT)
    bias_T, damping = np.zeros(tokens), 1e-3
    least = _left(attended, scores, bias_T[places_TT], heads)
    for _ in range(_STEPS):
        normal_TT, sums_T = np.zeros((tokens, tokens)), np.zeros(tokens)
        for head in heads:
            values_TE = attended.v[:, attended.heads[head]]
            weights_TT = weigh(scores[head] + bias_T[places_TT])
            context_TE = weights_TT @ values_TE
            off_TE = attended.recorded[:, head] - context_TE
            for query in range(tokens):
                slopes_TE = weights_TT[query][:, None] * (values_TE - context_TE[query])
                by_place_TE = np.zeros_like(slopes_TE)
                np.add.at(by_place_TE, places_TT[query], slopes_TE)
                normal_TT += by_place_TE @ by_place_TE.T
                sums_T += by_place_TE @ off_TE[query]
        small = 1e-12 * float(np.trace(normal_TT)) + 1e-300
        held = np.diag(damping * np.diag(normal_TT) + small)
        tried_T = bias_T + np.clip(np.linalg.solve(normal_TT + held, sums_T), -4, 4)
        left = _left(attended, scores, tried_T[places_TT], heads)
        if left < least:
            enough = left > (1 - _NO_NEARER) * least
            bias_T, least, damping = tried_T, left, damping / 8
            if enough:
                break
        else:
            damping *= 8
    result: np.ndarray = bias_T - bias_T[0]
    return result


def _left(
    attended: Attended, scores: Weights, bias_TT: Float64[np.ndarray, "T T"], heads: list[int]
) -> float:
    total = 0.0
    for head in heads:
        context_TE = weigh(scores[head] + bias_TT) @ attended.v[:, attended.heads[head]]
        total += float(np.square(attended.recorded[:, head] - context_TE).sum())
    return total
