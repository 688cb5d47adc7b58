"""What can happen to any operation: nothing came out, the input came through, a gain, a shift.

These say what was done to the output and less of why, so they come last.

Shape letters: T tokens, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.numbers import factor_text, nice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.diagnosis.case import Case

_FEWEST_TOKENS = 3


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of any site."""
    right, recorded = case.right, case.recorded
    yield Alternative(id="output-zero", title="the output is 0", output=np.zeros_like(right))
    for site, array in zip(case.operation.inputs, case.inputs, strict=True):
        if array.shape == right.shape:
            yield Alternative(
                id="operation-skipped",
                title=f"the operation is skipped: {site} came through",
                output=array,
            )
    yield from _gains(case)
    index = np.arange(len(right))
    for step, words in ((1, "before"), (-1, "after")):
        for moved in (np.clip(index - step, 0, len(index) - 1), (index - step) % len(index)):
            yield Alternative(
                id="token-shifted",
                title=f"each token has the output of the one {words}",
                output=right[moved],
            )
    limit = float(np.abs(recorded).max())
    yield Alternative(
        id="output-clipped",
        title=f"the output is clipped to {limit:.4g}",
        output=np.clip(right, -limit, limit),
        parameters=1,
    )
    yield from _some_tokens(case)


def _gains(case: Case) -> Iterator[Alternative]:
    right, recorded = case.right, case.recorded
    # Every token counts the same, however large one's activation is.
    size_T1 = np.maximum(np.linalg.norm(right, axis=1, keepdims=True), 1e-300)
    a, b = right / size_T1, recorded / size_T1
    gain = float((a * b).sum() / (a * a).sum())
    for value in dict.fromkeys((nice(gain, 3), gain)):
        yield Alternative(
            id="output-scaled",
            title=f"the output is multiplied by {factor_text(value)}",
            output=value * right,
            parameters=1,
        )
    gain_T1 = (a * b).sum(axis=1, keepdims=True) / (a * a).sum(axis=1, keepdims=True)
    yield Alternative(
        id="tokens-scaled",
        title=f"each token's output is multiplied by a number of its own, {gain_T1.min():.4g} "
        f"to {gain_T1.max():.4g}",
        output=gain_T1 * right,
        parameters=len(right) + 1,
    )
    if len(right) < _FEWEST_TOKENS:
        return
    added_W = (recorded - right).mean(axis=0)
    yield Alternative(
        id="output-offset",
        title="a constant is added to each channel",
        output=right + added_W,
        parameters=right.shape[1],
    )


def _some_tokens(case: Case) -> Iterator[Alternative]:
    """The tokens that are wrong hold nothing, or what the token before holds."""
    wrong = np.flatnonzero(case.error.ratios > 1)
    if not len(wrong) or len(wrong) == len(case.right):
        return
    output = case.right.copy()
    output[wrong] = 0
    yield Alternative(
        id="tokens-zero",
        title=f"the output of {len(wrong)} tokens is 0, the first {wrong[0]}",
        output=output,
        parameters=1,
    )
