"""RoPE: which values turn together, by which angle, from which position.

A turned pair, taken as a complex number, is the pair before times exp(i angle); summed over
heads the quotient gives every angle that was used, and the angles give positions, theta,
scaling, how many pairs turn and in which direction, without a list of suspects.

Shape letters: T tokens, H heads, E head size, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.arithmetic import ROUNDINGS
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.head_norm import other_head_norms
from cotejar.diagnosis.hypotheses.numbers import factor_text, nice
from cotejar.diagnosis.operations import Norm, Rotate, vector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case

_STILL = 1e-6
"""Radians a position below which a pair is taken not to turn."""
_FEWEST_TOKENS = 3
_FEWEST_PAIRS = 2
_WRONG_HEAD = 1e-4
"""Relative distance at which a head is taken to be wrong."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Turning:
    """One rotation to explain: heads before, heads after."""

    before: Float64[np.ndarray, "T H E"]
    after: Float64[np.ndarray, "T H E"]
    frequencies: Float64[np.ndarray, "P"]
    theta: float
    first_position: int
    num_steps: int
    """Tokens, the last ones, that were fed one at a time."""

    @property
    def unscaled(self) -> Float64[np.ndarray, "P"]:
        """Of theta alone, without the scaling that the model declares."""
        return exact.frequencies(self.theta, 2 * len(self.frequencies))

    @property
    def positions(self) -> Float64[np.ndarray, "T"]:
        return self.first_position + np.arange(len(self.before), dtype=np.float64)

    def turned(
        self,
        frequencies_P: Float64[np.ndarray, "P"] | None = None,
        positions_T: Float64[np.ndarray, "T"] | None = None,
    ) -> Float64[np.ndarray, "T W"]:
        """By other frequencies, or from other positions."""
        frequencies_P = self.frequencies if frequencies_P is None else frequencies_P
        positions_T = self.positions if positions_T is None else positions_T
        return exact.join_heads(exact.turn(self.before, np.outer(positions_T, frequencies_P)))


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site that is turned."""
    step = case.operation.step
    if not isinstance(step, Rotate):
        return
    plain_THE = exact.split_heads(case.inputs[0], step.head_dim)
    after_THE = exact.split_heads(case.recorded, step.head_dim)
    frequencies_P = np.array(step.frequencies)
    before_THE = _normed(case, step.norm, plain_THE)
    turning = _Turning(
        before=before_THE,
        after=after_THE,
        frequencies=frequencies_P,
        theta=step.theta,
        first_position=step.first_position,
        num_steps=case.observed.trace.num_steps,
    )
    simple = [*_listed(turning), *_pairings(turning), *_of_other_layers(case, turning)]
    yield from simple
    yield from _of_some_heads(case, turning, simple)
    yield from _partial(turning)
    yield from _measured(turning)
    yield from _low_precision(turning)
    if step.norm is not None:
        yield from other_head_norms(case, step, plain_THE)


def _normed(case: Case, norm: Norm | None, values: np.ndarray) -> np.ndarray:
    if norm is None:
        return values
    return exact.rms_norm(values, vector(case.observed.truth.weights, norm.weight), norm.eps)


def _listed(turning: _Turning) -> Iterator[Alternative]:
    for id_, title, output in (
        ("rope-missing", "RoPE is left out", exact.join_heads(turning.before)),
        ("rope-direction", "pairs turn backwards", turning.turned(-turning.frequencies)),
        ("rope-twice", "RoPE is applied twice", turning.turned(2 * turning.frequencies)),
    ):
        yield Alternative(id=id_, title=title, output=output)
    unscaled_P = turning.unscaled
    if not np.allclose(unscaled_P, turning.frequencies, rtol=1e-6, atol=0):
        yield Alternative(
            id="rope-scaling",
            title="the RoPE scaling that the model declares is left out",
            output=turning.turned(unscaled_P),
            declared=True,
        )
    positions_T = turning.positions
    angles_TP = np.outer(positions_T, turning.frequencies)
    pairs = angles_TP.shape[1]
    first, second = np.split(turning.before[..., : 2 * pairs], 2, axis=-1)
    rest = turning.before[..., 2 * pairs :]
    cos, sin = np.cos(angles_TP)[:, None], np.sin(angles_TP)[:, None]
    for id_, title, a, b in (
        (
            "rope-sine-sign",
            "a sine has the wrong sign",
            first * cos + second * sin,
            second * cos + first * sin,
        ),
        (
            "rope-sine-sign",
            "a sine has the wrong sign",
            first * cos - second * sin,
            second * cos - first * sin,
        ),
        (
            "rope-cos-sin-swapped",
            "cosine and sine change places",
            first * sin - second * cos,
            second * sin + first * cos,
        ),
        (
            "rope-halves-swapped",
            "the halves of a pair change places",
            second * cos + first * sin,
            first * cos - second * sin,
        ),
    ):
        output = exact.join_heads(np.concatenate([a, b, rest], axis=-1))
        yield Alternative(id=id_, title=title, output=output)


def _pairings(turning: _Turning) -> Iterator[Alternative]:
    """Neighbours for halves: in what turns, in its angles alone, or in what comes out."""
    e, pairs = turning.before.shape[2], len(turning.frequencies)
    order = exact.half_split_order(e, 2 * pairs)
    back = np.argsort(order)
    angles_TP = np.outer(turning.positions, turning.frequencies)
    before_THE = turning.before
    for first in (np.arange(e), order, back):
        for last in (np.arange(e), order, back):
            if first is last and (first == np.arange(e)).all():
                continue
            output_THE = exact.turn(before_THE[..., first], angles_TP)[..., last]
            yield Alternative(
                id="rope-pairing",
                title="RoPE turns the wrong pairs (neighbours for halves, or the reverse)",
                output=exact.join_heads(output_THE),
            )
    # Tables laid out for neighbours, each angle twice in a row, on pairs that are halves; and
    # the reverse. Each in the order of what was recorded, and in the other pairing's.
    by_turns = (np.repeat(angles_TP, 2, axis=1), "neighbours and its pairs are halves")
    by_halves = (
        np.concatenate([angles_TP, angles_TP], axis=1),
        "halves and its pairs are neighbours",
    )
    for there in (np.arange(e), back):
        x = before_THE[..., there][..., : 2 * pairs]
        rest = before_THE[..., there][..., 2 * pairs :]
        first, second = np.split(x, 2, axis=-1)
        of_halves = np.concatenate([-second, first], axis=-1)
        of_neighbours = np.stack([-x[..., 1::2], x[..., 0::2]], axis=-1).reshape(x.shape)
        for (table_TE, words), other in ((by_turns, of_halves), (by_halves, of_neighbours)):
            mixed = x * np.cos(table_TE)[:, None] + other * np.sin(table_TE)[:, None]
            output_THE = np.concatenate([mixed, rest], axis=-1)[..., np.argsort(there)]
            yield Alternative(
                id="rope-pairing",
                title=f"RoPE's tables are laid out for {words}",
                output=exact.join_heads(output_THE),
            )


def _of_other_layers(case: Case, turning: _Turning) -> Iterator[Alternative]:
    """By the table of other layers, where the model has more than one: local for global."""
    tried = {tuple(turning.frequencies.tolist())}
    for operation in case.observed.truth.operations.values():
        step = operation.step
        if not isinstance(step, Rotate) or step.frequencies in tried:
            continue
        tried.add(step.frequencies)
        yield Alternative(
            id="rope-other-layer",
            title=f"pairs turn as those of layer {operation.site.layer} do: a local layer is "
            "taken for a global one, or the reverse",
            output=turning.turned(np.array(step.frequencies)),
            declared=True,
        )


def _of_some_heads(
    case: Case, turning: _Turning, simple: list[Alternative]
) -> Iterator[Alternative]:
    """Some heads are right; the others are all wrong in one of the simple ways."""
    e, right_THE = (
        turning.before.shape[2],
        exact.split_heads(case.right, turning.before.shape[2]),
    )
    off_H = np.linalg.norm(turning.after - right_THE, axis=(0, 2))
    size_H = np.maximum(np.linalg.norm(right_THE, axis=(0, 2)), 1e-300)
    wrong = off_H > _WRONG_HEAD * size_H
    if not wrong.any() or wrong.all():
        return
    shown = " ".join(str(h) for h in np.flatnonzero(wrong)[:8])
    for one in simple:
        changed_THE = exact.split_heads(one.output, e)
        output_THE = np.where(wrong[:, None], changed_THE, right_THE)
        yield replace(
            one,
            title=f"{one.title}, in head {shown} alone",
            output=exact.join_heads(output_THE),
            parameters=one.parameters + 1,
            declared=False,
        )


def _partial(turning: _Turning) -> Iterator[Alternative]:
    """Fewer values of each head turn: their pairs and frequencies may be those of either."""
    e, pairs = turning.before.shape[2], len(turning.frequencies)
    right_P = turning.frequencies
    if pairs < _FEWEST_PAIRS:
        return
    order = exact.half_split_order(e, 2 * pairs)
    back = np.argsort(order)
    for count in range(1, pairs):
        own_P = right_P[0] * (right_P[1] / right_P[0]) ** (np.arange(count) * pairs / count)
        for table_P in (right_P[:count], own_P):
            angles_TP = np.outer(turning.positions, table_P)
            among = np.zeros((len(angles_TP), pairs))
            among[:, :count] = angles_TP
            halves = exact.turn(turning.before, angles_TP)
            stored = _neighbours_turned(turning.before[..., back], angles_TP)[..., order]
            for output_THE in (halves, exact.turn(turning.before, among), stored):
                yield Alternative(
                    id="rope-partial",
                    title=f"{2 * count} of {2 * pairs} values of a head turn",
                    output=exact.join_heads(output_THE),
                )


def _neighbours_turned(
    values_THE: Float64[np.ndarray, "T H E"], angles_TP: Float64[np.ndarray, "T P"]
) -> Float64[np.ndarray, "T H E"]:
    """Pairs (2i, 2i + 1) turned, as many as there are angles."""
    e, pairs = values_THE.shape[2], angles_TP.shape[1]
    order = exact.half_split_order(e, 2 * pairs)
    return exact.turn(values_THE[..., order], angles_TP)[..., np.argsort(order)]


def _measured(turning: _Turning) -> Iterator[Alternative]:
    """Read the angles off; then say what they are."""
    if len(turning.before) < _FEWEST_TOKENS:
        return
    quotient_TP = _quotients(turning)
    yield from _positions(turning, quotient_TP)
    used_P, offset = _fit_frequencies(quotient_TP, turning.first_position)
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
    if 0 < moving < len(used_P) and (np.abs(used_P[:moving]) > _STILL).all():
        turning_P = np.where(np.arange(len(used_P)) < moving, used_P, 0.0)
        yield Alternative(
            id="rope-partial",
            title=f"{2 * moving} of {2 * len(used_P)} values of a head turn, by a table of "
            "their own",
            output=turning.turned(turning_P),
            parameters=moving,
        )
    yield Alternative(
        id="rope-frequencies",
        title="pairs turn by other frequencies, as another scaling or table gives: "
        f"{ratio_P.min():.3g} to {ratio_P.max():.3g} times the right ones",
        output=turning.turned(used_P, turning.positions + offset),
        parameters=len(used_P),
    )


def _quotients(turning: _Turning) -> np.ndarray:
    """Summed over heads, after times the conjugate of before: its argument is the angle."""
    pairs = len(turning.frequencies)
    x, y = turning.before, turning.after
    before = x[..., :pairs] + 1j * x[..., pairs : 2 * pairs]
    after = y[..., :pairs] + 1j * y[..., pairs : 2 * pairs]
    quotient_TP: np.ndarray = (after * before.conj()).sum(axis=1)
    return quotient_TP


def _fit_frequencies(quotient_TP: np.ndarray, first: int) -> tuple[np.ndarray, float]:
    """Radians a position of every pair, and how far positions, from `first` on, are off."""
    unit_TP = quotient_TP / np.maximum(np.abs(quotient_TP), 1e-300)
    steps_P = np.angle((unit_TP[1:] * unit_TP[:-1].conj()).sum(axis=0))
    positions_T1 = np.arange(len(unit_TP))[:, None]
    # What is left after the first guess is small, so that it is not wrapped.
    rest_TP = np.angle(unit_TP * np.exp(-1j * positions_T1 * steps_P))
    centred_T1 = positions_T1 - positions_T1.mean()
    slope_P = (centred_T1 * rest_TP).sum(axis=0) / (centred_T1**2).sum()
    used_P = steps_P + slope_P
    at_0 = np.angle((unit_TP * np.exp(-1j * positions_T1 * used_P)).sum(axis=0))
    moving = np.abs(used_P) > _STILL
    # Where the text begins later, the angle there says itself only up to whole turns.
    at_0 = np.angle(np.exp(1j * (at_0 - first * used_P)))
    offset = float(np.median(at_0[moving] / used_P[moving])) if moving.any() else 0.0
    return used_P, offset


def _theta(
    turning: _Turning, used_P: np.ndarray, energy_P: np.ndarray, offset: int
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


def _positions(turning: _Turning, quotient_TP: np.ndarray) -> Iterator[Alternative]:
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
    first_step = tokens - turning.num_steps
    if first_step < tokens and not offsets[:first_step].any():
        words = _step_positions(found_T[first_step:].tolist(), first_step)
        if words:
            title = f"the tokens fed one at a time are turned {words}"
            yield Alternative(id="decode-position", title=title, output=output, parameters=1)
    moved = int((offsets != 0).sum())
    first = int(np.flatnonzero(offsets)[0])
    yield Alternative(
        id="rope-positions",
        title=f"{moved} of {tokens} positions are others; token {first} is turned as if at "
        f"{found_T[first]}",
        output=output,
        parameters=2,
    )


def _step_positions(found: list[int], first_step: int) -> str:
    """What positions have in common that ought to count on from `first_step`."""
    late = found[0] - first_step
    counted = list(range(found[0], found[0] + len(found)))
    if len(found) > 1 and len(set(found)) == 1:
        return f"as if all at {found[0]}: the counter does not move"
    if found == counted and found[0] == 0:
        return "as if from 0 on: the counter begins again"
    if found == counted:
        far = f"{abs(late)} position{'s' if abs(late) > 1 else ''}"
        return f"as if {far} {'later' if late > 0 else 'earlier'}"
    pace = found[1] - found[0]
    if found == [found[0] + pace * i for i in range(len(found))]:
        return f"as if at {found[0]} and {pace} on each time: the counter moves by {pace}"
    return ""


def _low_precision(turning: _Turning) -> Iterator[Alternative]:
    pairs = len(turning.frequencies)
    first, second = np.split(turning.before[..., : 2 * pairs], 2, axis=-1)
    rest = turning.before[..., 2 * pairs :]
    frequencies_P, positions_T = turning.frequencies, turning.positions
    for how in ("f16", "bf16"):
        rounded = ROUNDINGS[how]
        for mask in range(1, 1 << len(_ROUNDED_PARTS)):
            parts = [part for i, part in enumerate(_ROUNDED_PARTS) if mask >> i & 1]
            used_P = (
                rounded(frequencies_P[None])[0] if parts[0] == "frequencies" else frequencies_P
            )
            angles_TP = np.outer(positions_T, used_P)
            angles_TP = rounded(angles_TP) if "angles" in parts else angles_TP
            cos, sin = np.cos(angles_TP)[:, None], np.sin(angles_TP)[:, None]
            if "cosine and sine" in parts:
                cos, sin = rounded(cos), rounded(sin)
            turned = [first * cos - second * sin, second * cos + first * sin, rest]
            yield Alternative(
                id=f"rope-{how}",
                title=f"RoPE runs in {how}: {' and '.join(parts)} are rounded",
                output=exact.join_heads(np.concatenate(turned, axis=-1)),
            )


_ROUNDED_PARTS = ("frequencies", "angles", "cosine and sine")
