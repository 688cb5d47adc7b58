"""A norm on the way to a recorded site that multiplies by another norm's weight."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.weight.tensor_swap import name_swap
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Norm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.diagnosis.case import Case
    from cotejar.diagnosis.operations import Operation


def other_norms(case: Case, operation: Operation, step: Norm) -> Iterator[Alternative]:
    """The weight of another norm of the layer, or of this one in the layers beside it."""
    layer, slot = operation.site.layer, operation.site.slot
    for other in case.observed.truth.operations.values():
        there = other.site
        near = there.layer == layer or (
            there.slot == slot and abs((there.layer or 0) - (layer or 0)) == 1
        )
        if near and isinstance(other.step, Norm) and other.step.weight != step.weight:
            id_, title = name_swap(step.weight, other.step.weight)
            changed = replace(operation, step=replace(step, weight=other.step.weight))
            yield Alternative(
                id=id_, title=title, output=replay(changed, case.inputs, case.observed)
            )
