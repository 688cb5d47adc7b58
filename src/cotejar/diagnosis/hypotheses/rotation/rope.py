"""RoPE: which values turn together, in which way, with which gain, in which heads.

What angles say is in `rope_angles`, and what the norm of each head before it is in
`head_norm`.

Shape letters: T tokens, H heads, E head size, P pairs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.arithmetic import ROUNDINGS
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.numbers import factor_text
from cotejar.diagnosis.hypotheses.rotation.head_norm import other_head_norms
from cotejar.diagnosis.hypotheses.rotation.rope_angles import of_angles
from cotejar.diagnosis.hypotheses.rotation.turning import Turning, wrong_scalings
from cotejar.diagnosis.operations import Norm, Rotate, vector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case

_FEWEST_PAIRS = 2
_WRONG_HEAD = 1e-4
"""Relative distance at which a head is taken to be wrong."""
_ONE_GAIN = 1e-4
"""So little do tokens and heads differ in length where all are multiplied by one number."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site that is turned."""
    step = case.operation.step
    if not isinstance(step, Rotate):
        return
    plain_THE = exact.split_heads(case.inputs[0], step.head_dim)
    after_THE = exact.split_heads(case.recorded, step.head_dim)
    frequencies_P = np.array(step.frequencies)
    before_THE = _normed(case, step.norm, plain_THE)
    turning = Turning(
        before=before_THE,
        after=after_THE,
        frequencies=frequencies_P,
        theta=step.theta,
        first_position=step.first_position,
        passes=case.observed.trace.passes,
    )
    simple = [*_listed(turning), *_pairings(turning), *_of_other_layers(case, turning)]
    yield from simple
    yield from _of_some_heads(case, turning, simple)
    yield from _partial(turning)
    yield from of_angles(turning)
    yield from _low_precision(turning)
    yield from _with_gain(turning)
    yield from other_head_norms(case, step, plain_THE)


def _normed(case: Case, norm: Norm | None, values: np.ndarray) -> np.ndarray:
    if norm is None:
        return values
    return exact.rms_norm(values, vector(case.observed.truth.weights, norm.weight), norm.eps)


def _listed(turning: Turning) -> Iterator[Alternative]:
    for id_, title, output in (
        ("rope-missing", "RoPE is left out", exact.join_heads(turning.before)),
        ("rope-direction", "pairs turn backwards", turning.turned(-turning.frequencies)),
        ("rope-twice", "RoPE is applied twice", turning.turned(2 * turning.frequencies)),
    ):
        yield Alternative(id=id_, title=title, output=output)
    heads = turning.before.shape[1]
    by_head_H = exact.turn(
        turning.before.swapaxes(0, 1), np.outer(np.arange(heads), turning.frequencies)
    )
    yield Alternative(
        id="rope-positions",
        title="each head is turned by its own number as if it were the position: heads and "
        "tokens change places",
        output=exact.join_heads(by_head_H.swapaxes(0, 1)),
    )
    for title, frequencies_P in wrong_scalings(turning.frequencies, turning.theta):
        yield Alternative(
            id="rope-scaling",
            title=title,
            output=turning.turned(frequencies_P),
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


def _pairings(turning: Turning) -> Iterator[Alternative]:
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


def _of_other_layers(case: Case, turning: Turning) -> Iterator[Alternative]:
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
    case: Case, turning: Turning, simple: list[Alternative]
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


def _with_gain(turning: Turning) -> Iterator[Alternative]:
    """Turned in any way and made longer: YaRN multiplies its cosines and sines by a number."""
    size_TH = np.linalg.norm(turning.before, axis=2)
    with np.errstate(all="ignore"):
        gain_TH = np.linalg.norm(turning.after, axis=2) / size_TH
    gain = float(np.median(gain_TH[size_TH > 0])) if size_TH.any() else 1.0
    off = np.abs(gain_TH[size_TH > 0] - gain)
    if not 0 < gain < np.inf or abs(gain - 1) < _ONE_GAIN or not (off < _ONE_GAIN * gain).all():
        return
    longer = replace(turning, before=gain * turning.before)
    turned_TW = longer.turned()
    by = f"multiplied by {factor_text(gain)}: an attention factor of YaRN?"
    yield Alternative(
        id="rope-gain",
        title=f"values are turned rightly and {by}",
        output=turned_TW,
        parameters=1,
    )
    for family in (_listed(longer), _pairings(longer), of_angles(longer)):
        for one in family:
            if np.allclose(one.output, turned_TW, rtol=1e-9, atol=0):
                continue
            yield replace(
                one,
                id=f"{one.id}+rope-gain",
                title=f"{one.title}; and values are {by}",
                parameters=one.parameters + 1,
            )


def _partial(turning: Turning) -> Iterator[Alternative]:
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


def _low_precision(turning: Turning) -> Iterator[Alternative]:
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
