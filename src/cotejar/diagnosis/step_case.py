"""An operation that is wrong in the tokens fed one at a time alone, as a case of those tokens.

A kernel for one token is another program than one for many: what is wrong with it shows in
the steps and in nothing before. A family that fits its numbers to all tokens would find
nothing; so it is given the steps alone, and what it finds is put behind the right rows.

Shape letters: T tokens, S steps, W width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Case
from cotejar.diagnosis.operations import Attend, Embed, Rotate

if TYPE_CHECKING:
    from jaxtyping import Float64

    from cotejar.diagnosis.case import Alternative, Judged

WORDS = "in the tokens fed one at a time"


@dataclass(frozen=True, eq=False)
class StepCase(Case):
    """Attention: a step reads the rows of all tokens before it, so all stay; queries do not."""

    first_row: int = 0
    """Rows before it are right, whatever an alternative makes of them."""

    def judge(self, output_TW: Float64[np.ndarray, "T W"], slack: float = 0.0) -> Judged:
        """Of the steps alone."""
        if output_TW.shape != self.recorded.shape:
            return super().judge(output_TW, slack)
        output_TW = output_TW.copy()
        output_TW[: self.first_row] = self.recorded[: self.first_row]
        return super().judge(output_TW, slack)


def first_row(case: Case) -> int:
    """The first row that a family has to look at."""
    return case.first_row if isinstance(case, StepCase) else 0


def steps_alone(case: Case) -> Case | None:
    """The case of the steps, where those alone are wrong; else None."""
    steps = case.observed.trace.num_steps
    wrong = np.flatnonzero(case.error.ratios > 1)
    first = len(case.recorded) - steps
    is_whole = len(case.recorded) == len(case.observed.trace.token_ids)
    if not steps or not is_whole or not len(wrong) or wrong[0] < first or case.error.derived:
        return None
    step = case.operation.step
    if isinstance(step, Embed):
        return None
    if isinstance(step, Attend):
        return StepCase(
            case.operation, case.observed, case.inputs, case.recorded, case.error,
            first_row=first,
        )  # fmt: skip
    operation = case.operation
    if isinstance(step, Rotate):
        operation = replace(operation, step=replace(step, first_position=first))
    error = replace(
        case.error,
        **{
            name: getattr(case.error, name)[first:]
            for name in ("exact", "left", "limits", "output_norm")
        },
    )
    inputs = tuple(array[first:] for array in case.inputs)
    return Case(operation, case.observed, inputs, case.recorded[first:], error)


def for_all_tokens(case: Case, of_steps: Alternative) -> Alternative:
    """What an alternative of the steps makes of all tokens: before them, what is right."""
    steps = case.observed.trace.num_steps
    output_TW = case.right.copy()
    output_TW[-steps:] = of_steps.output[-steps:]
    title = of_steps.title if WORDS in of_steps.title else f"{of_steps.title}, {WORDS}"
    return replace(of_steps, title=title, output=output_TW)
