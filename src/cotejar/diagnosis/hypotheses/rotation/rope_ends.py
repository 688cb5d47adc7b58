"""A part of each head turns, and not from its start: the end of it, or the slow pairs alone.

Models with multi-head latent attention put what is not turned first; a reader that expects
that turns the end of heads that are turned whole.

Shape letters: T tokens, N sampled ones, H heads, E head size, P pairs.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Rotate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float64, Int

    from cotejar.diagnosis.case import Case


_SAMPLED, _NEAREST = 8, 3
"""The last tokens, on which every part is tried; and of those the nearest, of all tokens."""

Turn: TypeAlias = "Callable[[np.ndarray, np.ndarray], np.ndarray]"
"""Heads (T, H, E) and positions (T) to heads of which a part is turned."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site that is turned."""
    step = case.operation.step
    if not isinstance(step, Rotate):
        return
    still = replace(step, frequencies=(0.0,) * len(step.frequencies))
    plain_TW = replay(replace(case.operation, step=still), case.inputs, case.observed)
    before_THE = exact.split_heads(plain_TW, step.head_dim)
    positions_T = step.first_position + np.arange(len(before_THE), dtype=np.float64)
    last = slice(-_SAMPLED, None)
    wanted_NHE = exact.split_heads(case.recorded[last], step.head_dim)

    def left(turn: Turn) -> float:
        return float(np.linalg.norm(wanted_NHE - turn(before_THE[last], positions_T[last])))

    ways = list(turned_in_part(step.head_dim, np.array(step.frequencies)))
    for title, turn in sorted(ways, key=lambda way: left(way[1]))[:_NEAREST]:
        output_TW = exact.join_heads(turn(before_THE, positions_T))
        yield Alternative(id="rope-partial", title=title, output=output_TW)


def turned_in_part(
    e: int, frequencies_P: Float64[np.ndarray, "P"]
) -> Iterator[tuple[str, Turn]]:
    """In words, and how: every share, of either pairing, by either table."""
    pairs = len(frequencies_P)
    order = exact.half_split_order(e, 2 * pairs)
    ratio = frequencies_P[1] / frequencies_P[0] if pairs > 1 else 1.0
    for count in range(1, pairs):
        slow_P = np.where(np.arange(pairs) < pairs - count, 0.0, frequencies_P)
        words = f"the first {pairs - count} of {pairs} pairs do not turn"
        yield words, partial(_turned, frequencies_P=slow_P)
        words = f"the last {2 * count} of {e} values of a head turn, the first do not"
        own_P = frequencies_P[0] * ratio ** (np.arange(count) * pairs / count)
        for table_P in (own_P, frequencies_P[:count], frequencies_P[-count:]):
            yield words, partial(_end_turned, frequencies_P=table_P)
            yield words, partial(_stored_end_turned, frequencies_P=table_P, order=order)


def _turned(
    values_THE: Float64[np.ndarray, "T H E"],
    positions_T: Float64[np.ndarray, "T"],
    *,
    frequencies_P: Float64[np.ndarray, "P"],
) -> Float64[np.ndarray, "T H E"]:
    return exact.turn(values_THE, np.outer(positions_T, frequencies_P))


def _end_turned(
    values_THE: Float64[np.ndarray, "T H E"],
    positions_T: Float64[np.ndarray, "T"],
    *,
    frequencies_P: Float64[np.ndarray, "P"],
    neighbours: bool = False,
) -> Float64[np.ndarray, "T H E"]:
    start = values_THE.shape[2] - 2 * len(frequencies_P)
    first, last = values_THE[..., :start], values_THE[..., start:]
    angles_TP = np.outer(positions_T, frequencies_P)
    if neighbours:
        order = exact.half_split_order(last.shape[2], last.shape[2])
        turned = exact.turn(last[..., order], angles_TP)[..., np.argsort(order)]
    else:
        turned = exact.turn(last, angles_TP)
    return np.concatenate([first, turned], axis=-1)


def _stored_end_turned(
    values_THE: Float64[np.ndarray, "T H E"],
    positions_T: Float64[np.ndarray, "T"],
    *,
    frequencies_P: Float64[np.ndarray, "P"],
    order: Int[np.ndarray, "E"],
) -> Float64[np.ndarray, "T H E"]:
    """Of neighbours, in the order in which those are stored."""
    stored_THE = values_THE[..., np.argsort(order)]
    turned_THE = _end_turned(
        stored_THE, positions_T, frequencies_P=frequencies_P, neighbours=True
    )
    return turned_THE[..., order]
