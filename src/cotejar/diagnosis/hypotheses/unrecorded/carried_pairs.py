"""Two faults in an attention of which only the output projection's result was recorded.

What the projection was given is solved for; on that context every two ways to be wrong are
tried, and those that come nearer are carried through the projection.

Shape letters: T tokens, W width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cotejar.diagnosis.hypotheses import pairs
from cotejar.diagnosis.hypotheses.unrecorded.carried_attention import comes_nearer, solved_case
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Attend, Project

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.diagnosis.case import Alternative, Case


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of an output projection that is clearly wrong, and its context was derived."""
    if not isinstance(case.operation.step, Project) or not pairs.is_clearly_wrong(case):
        return
    name = str(case.operation.inputs[0])
    operation = case.observed.truth.operations[name]
    if name not in case.error.derived or not isinstance(operation.step, Attend):
        return
    there = solved_case(case, name)
    if there is None:
        return
    for one in pairs.every_two(there):
        if comes_nearer(there, one.output):
            output_TW = replay(case.operation, [one.output], case.observed)
            yield replace(one, title=f"{one.title}, in {name}", output=output_TW)
