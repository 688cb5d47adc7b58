"""A bias of queries or keys that is added after RoPE, and not before.

Where it ought to be added it is missing; what was recorded behind RoPE shows that it is there.

Shape letters: T tokens, W width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Project, Rotate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.diagnosis.case import Case
    from cotejar.diagnosis.operations import Operation

_CLEARLY = 16.0
"""So many times less does a later bias leave at a site behind it."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a product with a bias whose outputs are turned."""
    if not isinstance(case.operation.step, Project) or case.bias is None:
        return
    operations = case.observed.truth.operations.values()
    turning = next(
        (
            one
            for one in operations
            if isinstance(one.step, Rotate) and one.inputs == (case.operation.site,)
        ),
        None,
    )
    if turning is None:
        return
    bias_1W = case.in_order(case.bias[None])
    if _borne_out(case, turning, bias_1W):
        yield Alternative(
            id="bias-after-rope",
            title=f"the bias {case.project.bias} is added after RoPE, and ought to be before",
            output=case.right - bias_1W,
            also=1,
        )


def _borne_out(case: Case, turning: Operation, bias_1W: np.ndarray) -> bool:
    """Does the first recorded site behind it agree with a later bias alone?

    Of a case of some rows the others stay as they were recorded: keys are read by all.
    """
    whole_TW = case.observed.recorded(case.operation.site)
    if whole_TW is None:
        return False
    turned_TW = replay(turning, [whole_TW], case.observed)
    late_TW = turned_TW.copy()
    late_TW[slice(None) if case.rows is None else case.rows] += bias_1W
    behind = [turning, *_readers(case, turning)]
    for operation in behind:
        recorded_TW = case.observed.recorded(operation.site)
        if recorded_TW is None or not np.isfinite(recorded_TW).all():
            continue
        left = []
        for found_TW in (late_TW, turned_TW):
            held = replace(case.observed, _derived={turning.name: (found_TW, ())})
            given = held.inputs(operation)
            if operation is turning:
                output_TW = found_TW
            elif given is None:
                return False
            else:
                output_TW = replay(operation, given.arrays, held)
            if output_TW.shape != recorded_TW.shape:
                return False
            left.append(float(np.linalg.norm(recorded_TW - output_TW)))
        return _CLEARLY * left[0] <= left[1]
    return False


def _readers(case: Case, turning: Operation) -> Iterator[Operation]:
    """Of its layer, those behind it on the way to the output projection."""
    for operation in case.observed.truth.operations.values():
        near = operation.site.layer == turning.site.layer
        if near and operation.site.slot in {"attn_context", "attn_out"}:
            yield operation
