"""A product that nobody recorded, with a wrong bias or weight, carried to what was.

Shape letters: R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.arithmetic import ROUNDINGS, can_round
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.weight.tensor_swap import name_swap
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Project
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cotejar.diagnosis.case import Case

_ROUNDINGS = ("f16", "bf16", "int8 a row", "int4 a row")


def alternatives(
    case: Case,
    name: str,
    carry: Callable[[Mapping[str, np.ndarray]], np.ndarray | None],
) -> Iterator[Alternative]:
    """Ways in which the product of that name can be wrong.

    Args:
        case: what was recorded behind it.
        name: of the product's site.
        carry: what comes out at the recorded site if the product gives this.
    """
    operation = case.observed.truth.operations.get(name)
    if operation is None or not isinstance(operation.step, Project):
        return
    observed = replace(case.observed, _derived={})
    inputs = observed.inputs(operation)
    if inputs is None:
        return
    step, weights = operation.step, observed.truth.weights
    for id_, title, changed, replaced in _changes(step, weights):
        truth = replace(observed.truth, weights=weights.replaced(replaced))
        output = carry(
            {
                name: replay(
                    replace(operation, step=changed),
                    inputs.arrays,
                    replace(observed, truth=truth, _derived={}),
                )
            }
        )
        if output is not None:
            yield Alternative(id=id_, title=f"{title}, in {name}", output=output)


_Change = tuple[str, str, Project, dict[str, BlockMatrix]]


def _changes(step: Project, weights: Mapping[str, BlockMatrix]) -> Iterator[_Change]:
    if step.bias is not None:
        bias_R = weights[step.bias].decode_rows(0, weights[step.bias].rows).reshape(1, -1)
        yield "bias-missing", "the bias is left out", replace(step, bias=None), {}
        for id_, title, factor in (
            ("bias-doubled", "the bias is added twice", 2.0),
            ("bias-sign", "the bias is subtracted", -1.0),
        ):
            yield id_, title, step, {step.bias: _matrix(factor * bias_R)}
    matrix = weights[step.weight]
    part = step.weight.split(".layers.")[-1].partition(".")[0]
    for other, found in weights.items():
        same = (found.rows, found.columns) == (matrix.rows, matrix.columns)
        if same and other != step.weight and f".layers.{part}." in other:
            yield *name_swap(step.weight, other), replace(step, weight=other), {}
    values_RC = matrix.decode_rows(0, matrix.rows)
    turned_RC = values_RC.reshape(values_RC.shape[::-1]).T
    title = f"{step.weight} is read transposed"
    yield "weight-transposed", title, step, {step.weight: _matrix(turned_RC)}
    for how in _ROUNDINGS:
        if can_round(how, matrix.columns):
            rounded_RC = ROUNDINGS[how](values_RC.astype(np.float64))
            title = f"the weight is rounded to {how}"
            yield "weights-rounded", title, step, {step.weight: _matrix(rounded_RC)}


def _matrix(values_RC: np.ndarray) -> BlockMatrix:
    """A matrix of F32."""
    raw = np.ascontiguousarray(values_RC, "<f4").reshape(-1).view(np.uint8)
    rows, columns = values_RC.shape
    return BlockMatrix(block_type=BlockType.F32, rows=rows, columns=columns, raw=raw)
