"""A product that is wrong in a run of its outputs alone, as a case of those rows of its weight.

A thread that takes the upper half of a weight's rows, one head, a shard of a tensor: what is
read wrongly there shows in those outputs and nowhere else. A family that looks at the whole
weight finds that most of it is right; so it is given the wrong rows alone.

Shape letters: T tokens, R rows (outputs), N rows that are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Case
from cotejar.diagnosis.operations import Project
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Alternative

_FEWEST, _MOST = 2, 0.9
"""Rows that are a run, and the share of all that is still a part."""
_WRONG = 4.0
"""Limits of one output's share by which a wrong one is off at the least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SomeOutputs:
    """Rows of a product's weight by themselves."""

    case: Case
    start: int
    stop: int
    """In the weight's order."""

    def among_all(self, whole: Case, found: Alternative) -> Alternative:
        """What an alternative of these outputs makes of all: beside them, what is right."""
        output_TR = _in_rows(whole, whole.right).copy()
        output_TR[:, self.start : self.stop] = found.output
        where = f"in rows {self.start}..{self.stop - 1} of the weight alone"
        return replace(
            found,
            title=f"{found.title}, {where}",
            output=whole.in_order(output_TR),
            parameters=found.parameters + 1,
        )


def outputs_alone(case: Case) -> Iterator[SomeOutputs]:
    """The run of rows that holds all wrong outputs, if others are right."""
    if not isinstance(case.operation.step, Project) or case.project.softcap is not None:
        return
    matrix = case.matrix
    whole = matrix.columns % matrix.block_type.elements_per_block == 0
    if not whole or len(case.recorded) != len(case.inputs[0]):
        return
    right_TR = _in_rows(case, case.right)
    off_TR = np.abs(case.recorded_rows - right_TR)
    share_T1 = (case.error.limits * case.error.output_norm)[:, None]
    share_T1 = share_T1 / np.sqrt(right_TR.shape[1])
    wrong = np.flatnonzero((off_TR > _WRONG * share_T1).any(axis=0))
    if not len(wrong):
        return
    start, stop = int(wrong[0]), int(wrong[-1]) + 1
    if _FEWEST <= stop - start <= _MOST * right_TR.shape[1]:
        yield SomeOutputs(case=_of(case, right_TR, start, stop), start=start, stop=stop)


def _in_rows(case: Case, output_TR: Float64[np.ndarray, "T R"]) -> Float64[np.ndarray, "T R"]:
    order = case.project.row_order
    if order is None:
        return output_TR
    rows = np.empty_like(output_TR)
    rows[:, order] = output_TR
    return rows


def _of(case: Case, right_TR: Float64[np.ndarray, "T R"], start: int, stop: int) -> Case:
    matrix, step, truth = case.matrix, case.project, case.observed.truth
    size = len(matrix.raw) // matrix.rows
    changes = {
        step.weight: BlockMatrix(
            block_type=matrix.block_type,
            rows=stop - start,
            columns=matrix.columns,
            raw=matrix.raw[start * size : stop * size],
        )
    }
    if step.bias is not None and case.bias is not None:
        bias = np.ascontiguousarray(case.bias[start:stop], np.float32)
        changes[step.bias] = BlockMatrix(
            block_type=BlockType.F32, rows=1, columns=len(bias), raw=bias.view(np.uint8)
        )
    size_T = np.maximum(np.linalg.norm(right_TR[:, start:stop], axis=1), 1e-300)
    longer_T = case.error.output_norm / size_T
    error = replace(
        case.error,
        exact=case.error.exact * longer_T,
        left=case.error.left * longer_T,
        limits=case.error.limits * longer_T,
        output_norm=size_T,
    )
    held = replace(truth, weights=truth.weights.replaced(changes))
    return Case(
        replace(case.operation, step=replace(step, row_order=None)),
        replace(case.observed, truth=held, _derived={}),
        case.inputs,
        case.recorded_rows[:, start:stop],
        error,
    )
