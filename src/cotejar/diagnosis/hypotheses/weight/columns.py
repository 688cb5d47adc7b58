"""Every column of a weight times a number of its own: scales that were folded in on one side.

The outputs are linear in those numbers, so that they are solved for: some rows and all tokens
give more equations than there are columns. What explains those rows is multiplied whole.

Shape letters: T tokens, R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.blocks.scaled_blocks import name_scaled_columns
from cotejar.diagnosis.hypotheses.numbers import factor_text
from cotejar.diagnosis.observed import cap
from cotejar.diagnosis.operations import Project
from cotejar.diagnosis.products import multiply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case

_MOST_COLUMNS, _MOST_ROWS = 2048, 32768
_EQUATIONS = 3
"""A column, of those that are solved."""
_LEFT = 1e-3
"""Of the error, what may be left of other rows than those that were solved for."""
_CHECKED_ROWS = 16
_SAME = 1e-3


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a product whose activations are not rounded."""
    if not isinstance(case.operation.step, Project) or case.project.softcap is not None:
        return
    x_TC, matrix = case.inputs[0], case.matrix
    tokens, columns = x_TC.shape
    if columns > _MOST_COLUMNS or matrix.rows > _MOST_ROWS:
        return
    if tokens * matrix.rows < _EQUATIONS * columns:
        return
    count = min(matrix.rows, -(-_EQUATIONS * columns // tokens))
    bias_R = np.zeros(matrix.rows) if case.bias is None else case.bias
    wanted_TR = case.recorded_rows - bias_R
    right_TR = case.products[-1]
    rng = np.random.default_rng(0)
    solved = np.sort(rng.choice(matrix.rows, count, replace=False))
    factor_C = _solve(case, solved, wanted_TR - right_TR)
    if factor_C is None or np.ptp(factor_C) <= _SAME:
        return  # a gain of the whole output is none of the columns'
    others = np.setdiff1d(np.arange(matrix.rows), solved)[
        :: max(1, (matrix.rows - count) // _CHECKED_ROWS)
    ]
    if len(others):
        weight_RC = np.concatenate([matrix.decode_rows(int(r), int(r) + 1) for r in others])
        found_TR = (x_TC * factor_C) @ weight_RC.astype(np.float64).T
        off = np.linalg.norm(wanted_TR[:, others] - found_TR)
        if not off <= _LEFT * np.linalg.norm((wanted_TR - right_TR)[:, others]):
            case.screened.append("columns are scaled")
            return
    blocks = name_scaled_columns(factor_C, matrix.block_type)
    given = case.round_input(x_TC * factor_C)[-1:]
    for product_TR in multiply(matrix, given):
        yield Alternative(
            id="block-scale" if blocks else "columns-scaled",
            title=blocks or _title(factor_C),
            output=case.in_order(cap(product_TR + bias_R, case.project.softcap)),
            parameters=columns,
        )


def _solve(
    case: Case, rows: np.ndarray, error_TR: Float64[np.ndarray, "T R"]
) -> Float64[np.ndarray, "C"] | None:
    """Least squares over some rows: error = sum over columns of (factor - 1) x w."""
    x_TC = case.inputs[0]
    size_T = np.maximum(case.error.output_norm, 1e-300)
    columns = x_TC.shape[1]
    normal_CC, sums_C = np.zeros((columns, columns)), np.zeros(columns)
    weight_RC = np.concatenate(
        [case.matrix.decode_rows(int(r), int(r) + 1) for r in rows]
    ).astype(np.float64)
    gram_CC = weight_RC.T @ weight_RC
    for token, x_C in enumerate(x_TC / size_T[:, None]):
        normal_CC += gram_CC * np.outer(x_C, x_C)
        sums_C += x_C * (weight_RC.T @ (error_TR[token, rows] / size_T[token]))
    try:
        found_C = np.linalg.solve(
            normal_CC + 1e-14 * np.trace(normal_CC) / columns * np.eye(columns), sums_C
        )
    except np.linalg.LinAlgError:
        return None
    factor_C: np.ndarray = 1 + found_C
    return factor_C if np.isfinite(factor_C).all() else None


def _title(factor_C: Float64[np.ndarray, "C"]) -> str:
    wrong = np.flatnonzero(np.abs(factor_C - 1) > _SAME)
    values = factor_C[wrong]
    if len(values) and np.ptp(values) <= _SAME:
        shown = (
            "are read as 0"
            if abs(values.mean()) < _SAME
            else f"count {factor_text(float(values.mean()))} times"
        )
        return f"{len(wrong)} of {len(factor_C)} columns of the weight {shown}"
    low, high = (values.min(), values.max()) if len(values) else (1.0, 1.0)
    return (
        f"{len(wrong)} of {len(factor_C)} columns of the weight are scaled by numbers of their "
        f"own, {low:.3g} to {high:.3g}: scales are folded in on one side alone"
    )
