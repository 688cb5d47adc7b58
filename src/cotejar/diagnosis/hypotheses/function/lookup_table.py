"""A function read off a table: its input falls to the nearest of equal steps, within bounds.

Where the function is known, what came out tells what went in: the steps lie on a line.

Shape letters: T tokens, F feed-forward width, n values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.function import activation
from cotejar.diagnosis.hypotheses.numbers import nice
from cotejar.diagnosis.operations import Activate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case

_FEWEST_VALUES, _MOST_STEPS = 256, 1 << 16
_REPEATED = 0.5
"""Share of the outputs that equal another one, where they come of a table."""
_STEEP = 0.1
"""Slope at which an entry tells its input."""
_SAME = 1e-6
"""Relative distance of two outputs that are one entry."""
_MIDDLE = 1e-4
"""Of a step: an input so near to where two meet may fall to either, as floats round."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of the activation."""
    step = case.operation.step
    if not isinstance(step, Activate) or case.recorded.size < _FEWEST_VALUES:
        return
    _, function = activation.FUNCTIONS[step.function]
    x_n, y_n = case.inputs[0].reshape(-1), case.recorded.reshape(-1)
    order = np.argsort(x_n)
    x_n, y_n = x_n[order], y_n[order]
    equal = np.abs(np.diff(y_n)) <= _SAME * np.abs(y_n[1:])
    if equal.mean() < _REPEATED:
        return
    starts = np.flatnonzero(np.append(True, ~equal))
    if not 2 < len(starts) < _MOST_STEPS:  # noqa: PLR2004 - two entries are a clamp
        return
    # The entry's own input is where the function gives it, near to those that fell on it.
    entries = np.array([_input_of(function, y_n[a], x_n[a]) for a in starts.tolist()])
    entries = np.unique(entries[np.isfinite(entries)])
    if len(entries) < 3:  # noqa: PLR2004 - of which steps can be told
        return
    # What lies beyond the table falls on its outermost entries, near to which it ends.
    last = int(starts[1]) - 1
    low = _input_of(function, y_n[last], x_n[last], steep=0.0)
    high = _input_of(function, y_n[starts[-1]], x_n[starts[-1]], steep=0.0)
    ends = (low if np.isfinite(low) else -np.inf, high if np.isfinite(high) else np.inf)
    yield from _tables(case, function, entries, ends)


def _input_of(
    function: Callable[[np.ndarray], np.ndarray], y: float, near: float, steep: float = _STEEP
) -> float:
    """Newton steps from an input that fell there; NaN where they lead nowhere."""
    x, slope = near, 0.0
    for _ in range(30):
        at = float(function(np.array([x]))[0])
        slope = (float(function(np.array([x + 1e-6]))[0]) - at) / 1e-6
        if slope == 0:
            break
        x = float(np.clip(x - (at - y) / slope, near - 1, near + 1))
    right = abs(float(function(np.array([x]))[0]) - y) <= 10 * _SAME * max(abs(y), 1e-6)
    # Where the function is level, two inputs give that output.
    return x if right and abs(slope) > steep else np.nan


def _tables(
    case: Case,
    function: Callable[[np.ndarray], np.ndarray],
    entries: Float64[np.ndarray, "n"],
    ends: tuple[float, float],
) -> Iterator[Alternative]:
    """Equal steps between the entries, as far as the two ends."""
    gaps = np.diff(entries)
    smallest = float(np.median(gaps[gaps < 1.5 * gaps[gaps > 0].min()]))
    # Each entry is a whole number of steps from the first.
    index = np.rint((entries - entries[0]) / smallest)
    step, _ = np.polyfit(index, entries, 1)
    x_TF = case.inputs[0]
    for size in dict.fromkeys((nice(float(step), 2), nice(float(step), 4), float(step))):
        start = float(np.median(entries - index * size))
        for words, whole in (("nearest", np.rint), ("lower", np.floor)):
            for shift in (0.0, 0.5) if words == "lower" else (0.0,):
                low, high = (np.rint((e - start) / size) * size + start for e in ends)
                steps = (x_TF - start) / size + shift
                below, above = (
                    function(np.clip(whole(steps + off) * size + start, low, high))
                    for off in (-_MIDDLE, _MIDDLE)
                )
                is_above = np.abs(above - case.recorded) < np.abs(below - case.recorded)
                yield Alternative(
                    id="activation-table",
                    title=f"the gate falls to the {words} of steps of {size:.4g}"
                    f"{_ends_words(x_TF, low, high, size)}: a lookup table",
                    output=np.where(is_above, above, below),
                    parameters=2,
                )


def _ends_words(x_TF: Float64[np.ndarray, "T F"], low: float, high: float, size: float) -> str:
    """The ends that inputs ran into; where none did, a table may reach further."""
    below, above = (x_TF < low - size).any(), (x_TF > high + size).any()
    if below and above:
        return f" between {low:.4g} and {high:.4g}"
    return f" from {low:.4g} up" if below else f" up to {high:.4g}" if above else ""
