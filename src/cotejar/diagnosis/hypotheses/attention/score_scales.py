"""Scales of attention scores that programs have for the right one, and what they are.

The scale of scores is told from what a norm of queries or keys would change by the same factor
by nothing that is recorded; of the two it is the simpler.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.numbers import factor_text
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Attend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np

    from cotejar.diagnosis.case import Case


def scale_title(scale: float, right: float) -> str:
    """The sentence, of a scale that is not the right one."""
    title = f"scores are scaled by {scale:.6g}, {factor_text(scale / right)} times the "
    title += f"right {right:.6g}"
    if math.isclose(scale, right * right, rel_tol=1e-4):
        return f"{title}: they are scaled twice"
    if math.isclose(scale * right, 1, rel_tol=1e-4):
        return f"{title}: they are multiplied where they ought to be divided"
    return title


def alternatives(
    case: Case, name: str, carry: Callable[[Mapping[str, np.ndarray]], np.ndarray | None]
) -> Iterator[Alternative]:
    """Of an attention of that name, if it is one: every scale that needs no number.

    Args:
        case: what was recorded behind it.
        name: of the attention's site, or of another.
        carry: what comes out at the recorded site if the attention gives this.
    """
    operation = case.observed.truth.operations.get(name)
    if operation is None or not isinstance(operation.step, Attend):
        return
    inputs, step = replace(case.observed, _derived={}).inputs(operation), operation.step
    if inputs is None:
        return
    width = inputs.arrays[0].shape[1]
    right, e = step.scale, step.head_dim
    for scale in dict.fromkeys(
        (right * right, 1 / e, 1.0, 1 / right, e**-0.5, e**0.5, width**-0.5)
    ):
        if math.isclose(scale, right, rel_tol=1e-9):
            continue
        changed = replace(operation, step=replace(step, scale=scale))
        output = carry({name: replay(changed, inputs.arrays, case.observed)})
        if output is not None:
            title = f"{scale_title(scale, right)}, in {name}"
            yield Alternative(id="attention-scale", title=title, output=output)
