"""RoPE's angles, read off what was recorded: theta, scaling, positions, any table.

A turned pair, taken as a complex number, is the pair before times exp(i angle); summed over
heads the quotient gives every angle that was used, and the angles give positions, theta,
scaling, how many pairs turn and in which direction, without a list of suspects.

Shape letters: T tokens, P pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.numbers import as_known, factor_text, nice, search_number
from cotejar.diagnosis.hypotheses.rotation.position_patterns import pattern_words
from cotejar.diagnosis.hypotheses.rotation.positions_said import position_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.hypotheses.rotation.turning import Turning

_STILL = 1e-6
"""Radians a position below which a pair is taken not to turn."""
_SHOWN = 32
"""Times faster than that ought a pair to turn that is said to stand still."""
_FEWEST_TOKENS = 3
_FEWEST_PAIRS = 2
_FINE_GRID = 8192


def of_angles(turning: Turning) -> Iterator[Alternative]:
    """All that angles say; of a token or two, at which they are known up to whole turns."""
    if len(turning.before) < _FEWEST_TOKENS:
        yield from _searched(turning)
    else:
        yield from _measured(turning)


def _measured(turning: Turning) -> Iterator[Alternative]:
    """Read the angles off; then say what they are."""
    quotient_TP = turning.quotients
    yield from _positions(turning, quotient_TP)
    used_P, off_P, offset = _fit_frequencies(quotient_TP, turning.first_position)
    if not np.isfinite(used_P).all():
        return
    right_P = turning.frequencies
    yield from _theta(turning, used_P, np.abs(quotient_TP).sum(axis=0), round(offset))
    ratio_P = used_P / right_P
    scale = float(np.median(ratio_P)) or _STILL
    for value in dict.fromkeys((nice(scale, 4), 1 / nice(1 / scale, 4), scale)):
        yield Alternative(
            id="rope-scaling",
            title=f"positions are scaled by {factor_text(value)}",
            output=turning.turned(value * right_P),
            parameters=1,
        )
    moving = int((np.abs(used_P) > _STILL).sum())
    shows = (right_P[moving:] > _SHOWN * _STILL).all()
    if shows and 0 < moving < len(used_P) and (np.abs(used_P[:moving]) > _STILL).all():
        turning_P = np.where(np.arange(len(used_P)) < moving, used_P, 0.0)
        yield Alternative(
            id="rope-partial",
            title=f"{2 * moving} of {2 * len(used_P)} values of a head turn, by a table of "
            "their own",
            output=turning.turned(turning_P),
            parameters=moving,
        )
    yield from _theta_by_token(turning)
    yield Alternative(
        id="rope-frequencies",
        title=f"pairs turn by other frequencies{table_words(used_P, right_P, off_P)}",
        output=turning.turned(used_P, turning.positions + offset),
        parameters=len(used_P),
    )


def _theta_by_token(turning: Turning) -> Iterator[Alternative]:
    """A theta of each token's own: one that grows with the text (dynamic NTK)."""
    right_P, tokens = turning.frequencies, len(turning.before)
    index_P = np.arange(len(right_P)) / len(right_P)
    grid = np.geomspace(1 / 8, 64, 1024)
    quotient_TP, factor_T = turning.quotients, np.ones(tokens)

    def apart(values: np.ndarray, token: int) -> np.ndarray:
        angles = turning.positions[token] * right_P * values[:, None] ** -index_P
        result: np.ndarray = -(quotient_TP[token] * np.exp(-1j * angles)).real.sum(axis=1)
        return result

    for token in range(tokens):
        if turning.positions[token] == 0:
            continue
        best = int(apart(grid, token).argmin())
        step = float(np.log(grid[1] / grid[0]))
        value = float(np.log(grid[best]))
        for _ in range(16):
            near = value + step * np.linspace(-1, 1, 17)
            value = float(near[apart(np.exp(near), token).argmin()])
            step /= 6
        factor_T[token] = np.exp(value)
    angles_TP = turning.positions[:, None] * right_P * factor_T[:, None] ** -index_P
    theta_T = turning.theta * factor_T[turning.positions > 0]
    if len(theta_T) and np.ptp(theta_T) > _ALIKE * turning.theta:
        yield Alternative(
            id="rope-theta-by-token",
            title=f"theta changes from token to token, {theta_T.min():,.6g} to "
            f"{theta_T.max():,.6g}, and ought to be {nice(turning.theta, 6):,.6g}: it grows "
            "with the text (dynamic NTK)?",
            output=exact.join_heads(exact.turn(turning.before, angles_TP)),
            parameters=1 + tokens,
        )


_ALIKE = 1e-3
"""Two frequencies that near each other, relatively, are one."""
_DEVIATIONS = 4.0
"""Standard deviations within which a frequency is known."""
_TOLD = 0.25
"""A frequency that is known less well, relatively, is not spoken of."""


def table_words(
    used_P: Float64[np.ndarray, "P"],
    right_P: Float64[np.ndarray, "P"],
    off_P: Float64[np.ndarray, "P"],
) -> str:
    """What a table of frequencies has in common with the right one.

    `off_P` is by how much each may be off: what is not known better is not spoken of.
    """
    with np.errstate(all="ignore"):
        ratio_P = used_P / right_P
        known_P = np.maximum(_DEVIATIONS * off_P / right_P, _ALIKE)
    close = np.isclose(np.sort(used_P), np.sort(right_P), rtol=_ALIKE, atol=_STILL)
    if close.all():
        first = int(np.argmin(np.isclose(ratio_P, 1, rtol=_ALIKE)))
        source = int(np.argmin(np.abs(right_P - used_P[first])))
        return (
            f", the right ones in another order: pair {first} by that of pair {source} "
            "(sections of mrope?)"
        )
    told = known_P < _TOLD
    if not told.any():
        return ""
    last = int(np.flatnonzero(told)[-1])
    is_right = np.abs(ratio_P - 1) <= known_P
    fast = int(np.argmin([*is_right[: last + 1], False]))
    slow_P = np.abs(ratio_P - ratio_P[last]) <= known_P + known_P[last]
    slow = int(np.argmin([*slow_P[last::-1], False]))
    if fast and slow > 1 and fast + slow <= last + 1 and not slow_P[:fast].any():
        slowest = told & (np.arange(len(ratio_P)) > last - slow)
        weights_P = np.where(slowest, known_P**-2.0, 0.0)
        factor = float((weights_P * ratio_P).sum() / weights_P.sum())
        times = _factor_known(factor, float(weights_P.sum() ** -0.5))
        return (
            f": the {fast} fastest are right, the {len(ratio_P) - last - 1 + slow} slowest "
            f"turn {times} times as fast, a scaling by frequency as YaRN or llama3 have it"
        )
    ends = [
        int(i) for i in np.flatnonzero(told)[[ratio_P[told].argmin(), ratio_P[told].argmax()]]
    ]
    low, high = (as_known(float(ratio_P[i]), float(known_P[i])) for i in ends)
    return f", as another scaling or table gives: {low} to {high} times the right ones"


def _factor_known(factor: float, known: float) -> str:
    """`1/8`, if one over a whole number is as near as it is known."""
    divisor = round(1 / factor) if factor > 0 else 0
    if divisor > 1 and abs(factor - 1 / divisor) <= known:
        return f"1/{divisor}"
    return as_known(factor, known)


def _searched(turning: Turning) -> Iterator[Alternative]:
    """Of a token or two, at which angles are known up to whole turns: one number, searched."""
    right_P, theta = turning.frequencies, turning.theta
    index_P = np.arange(len(right_P)) / len(right_P)
    quotient_TP, positions_T = turning.quotients, turning.positions

    def nearest(table: Callable[[float], np.ndarray], low: float, high: float) -> float:
        def apart(value: float) -> float:
            turned_TP = np.exp(-1j * np.outer(positions_T, table(value)))
            return -float((quotient_TP * turned_TP).real.sum())

        grid = np.geomspace(low, high, _FINE_GRID)
        best = float(grid[np.argmin([apart(float(g)) for g in grid])])
        step = float(grid[1] / grid[0])
        return search_number(apart, best / step, best * step)

    def of_theta(value: float) -> np.ndarray:
        return right_P * (value / theta) ** -index_P

    found = nearest(of_theta, theta / 1000, theta * 1000)
    for value in dict.fromkeys(nice(found, digits) for digits in (1, 2, 3, 4, 9)):
        yield Alternative(
            id="rope-theta",
            title=f"theta is {value:,.6g} and ought to be {nice(theta, 6):,.6g}",
            output=turning.turned(of_theta(value)),
            parameters=1,
        )
    scale = nearest(lambda value: value * right_P, 1 / 64, 64.0)
    for value in dict.fromkeys((nice(scale, 4), 1 / nice(1 / scale, 4), scale)):
        yield Alternative(
            id="rope-scaling",
            title=f"positions are scaled by {factor_text(value)}",
            output=turning.turned(value * right_P),
            parameters=1,
        )


def _fit_frequencies(
    quotient_TP: np.ndarray, first: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Radians a position of every pair, their standard deviations, and an offset.

    The offset is how far positions, from `first` on, are off.
    """
    unit_TP = quotient_TP / np.maximum(np.abs(quotient_TP), 1e-300)
    steps_P = np.angle((unit_TP[1:] * unit_TP[:-1].conj()).sum(axis=0))
    positions_T1 = np.arange(len(unit_TP))[:, None]
    # What is left after the first guess is small, so that it is not wrapped.
    rest_TP = np.angle(unit_TP * np.exp(-1j * positions_T1 * steps_P))
    centred_T1 = positions_T1 - positions_T1.mean()
    slope_P = (centred_T1 * rest_TP).sum(axis=0) / (centred_T1**2).sum()
    used_P = steps_P + slope_P
    left_TP = rest_TP - centred_T1 * slope_P
    spread_P = np.sqrt(np.square(left_TP - left_TP.mean(axis=0)).mean(axis=0))
    off_P = spread_P / np.sqrt((centred_T1**2).sum())
    at_0 = np.angle((unit_TP * np.exp(-1j * positions_T1 * used_P)).sum(axis=0))
    moving = np.abs(used_P) > _STILL
    # Where the text begins later, the angle there says itself only up to whole turns.
    at_0 = np.angle(np.exp(1j * (at_0 - first * used_P)))
    offset = float(np.median(at_0[moving] / used_P[moving])) if moving.any() else 0.0
    return used_P, off_P, offset


def _theta(
    turning: Turning, used_P: np.ndarray, energy_P: np.ndarray, offset: int
) -> Iterator[Alternative]:
    """Log frequency falls along the pairs by ln(theta) / P where there is one theta."""
    right_P = turning.frequencies
    pairs = len(right_P)
    if pairs < _FEWEST_PAIRS or not (used_P > _STILL).any():
        return
    # Where the model scales pairs apart from theta, that part stays as it is.
    index_P = np.arange(pairs)
    usable = used_P > max(_STILL, 1e-4 * float(used_P.max()))
    if usable.sum() < _FEWEST_PAIRS:
        return
    # An angle is known equally well at every pair, its logarithm best where it is large.
    known_P = np.where(usable, np.sqrt(energy_P) * used_P, 0.0)
    ratio_P = np.log(np.where(usable, used_P, right_P) / right_P)
    slope, start = np.polyfit(index_P, ratio_P, 1, w=known_P)
    squares_P = known_P**2 * index_P
    alone = float((squares_P * ratio_P).sum() / (squares_P * index_P).sum())
    scale = float(np.exp(start))
    right_theta = turning.theta
    for digits in (1, 2, 3, 4, 9):
        theta = nice(right_theta * float(np.exp(-alone * pairs)), digits)
        yield Alternative(
            id="rope-theta",
            title=f"theta is {theta:,.6g} and ought to be {nice(right_theta, 6):,.6g}",
            output=turning.turned(right_P * (theta / right_theta) ** (-index_P / pairs)),
            parameters=1,
        )
        if offset:
            table_P = right_P * (theta / right_theta) ** (-index_P / pairs)
            yield Alternative(
                id="rope-theta+rope-position-offset",
                title=f"theta is {theta:,.6g} and ought to be {nice(right_theta, 6):,.6g}; and "
                f"positions start at {offset} and ought to start at 0",
                output=turning.turned(table_P, turning.positions + offset),
                parameters=2,
            )
    theta = nice(right_theta * float(np.exp(-slope * pairs)), 9)
    table_P = right_P * (theta / right_theta) ** (-index_P / pairs)
    yield Alternative(
        id="rope-theta-scaling",
        title=f"theta is {theta:,.6g} and positions are scaled by {factor_text(scale)}",
        output=turning.turned(table_P * scale),
        parameters=2,
    )


def _positions(turning: Turning, quotient_TP: np.ndarray) -> Iterator[Alternative]:
    """The whole position at which each token's angles fit best."""
    tokens = len(quotient_TP)
    start = turning.first_position
    tried = np.arange(-start - tokens - 8, start + 3 * tokens + 9)
    unit_TP = quotient_TP / np.maximum(np.abs(quotient_TP), 1e-300)
    fit_TS = (unit_TP @ np.exp(-1j * np.outer(turning.frequencies, tried))).real
    found_T = tried[fit_TS.argmax(axis=1)]
    offsets = found_T - turning.positions.astype(int)
    if not offsets.any():
        return
    output = turning.turned(None, found_T.astype(np.float64))
    if (offsets == offsets[0]).all():
        title = f"positions start at {found_T[0]} and ought to start at {start}"
        yield Alternative(id="rope-position-offset", title=title, output=output, parameters=1)
        return
    words = position_words(found_T.tolist(), turning.passes)
    if words:
        yield Alternative(id="decode-position", title=words, output=output, parameters=1)
    moved = int((offsets != 0).sum())
    first = int(np.flatnonzero(offsets)[0])
    yield Alternative(
        id="rope-positions",
        title=f"{moved} of {tokens} positions are others; token {first} is turned as if at "
        f"{found_T[first]}{pattern_words(found_T - start)}",
        output=output,
        parameters=2,
    )
