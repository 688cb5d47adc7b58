"""The bytes of a weight's transpose under the weight's own shape: what a converter forgot.

The other way round than a weight that is read transposed: there the flat weight is taken for
(C, R), here the flat (C, R) for the weight. Of a square weight the two are one.

Shape letters: T tokens, R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.hypotheses.product.rounded_products import products
from cotejar.diagnosis.operations import Project

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Alternative, Case
    from cotejar.quant.block_matrix import BlockMatrix

_SAMPLE_ROWS = 2
_BYTES_AT_ONCE = 8 << 20
_DECODED_AT_ONCE = 4096
_BETTER = 5.0
"""What is worth a whole product leaves so many times less of the sample, at every token."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a product whose weight is not square."""
    if not isinstance(case.operation.step, Project):
        return
    matrix = case.matrix
    if matrix.rows == matrix.columns:
        return
    title = f"{case.project.weight} holds the bytes of its transpose"
    x_TC = case.inputs[0]
    bias_R = np.zeros(matrix.rows) if case.bias is None else case.bias
    rows = np.unique(np.linspace(0, matrix.rows - 1, _SAMPLE_ROWS).astype(int))
    sampled_RC = _rows_of_flat_transpose(matrix, rows)
    if case.project.softcap is None:
        wanted_TR = case.recorded_rows[:, rows] - bias_R[rows]
        before = np.linalg.norm(wanted_TR - case.products[-1][:, rows], axis=1)
        after = np.linalg.norm(wanted_TR - x_TC @ sampled_RC.T, axis=1)
        if not (after * _BETTER <= before).all():
            case.screened.append(title)
            return
    yield from products(
        case, "weight-transposed", title, lambda given: _multiply(matrix, given.values)
    )


def _rows_of_flat_transpose(
    matrix: BlockMatrix, rows: np.ndarray
) -> Float64[np.ndarray, "n C"]:
    """Place r C + c of the flat transpose is column place // R and row place % R."""
    found = np.empty((len(rows), matrix.columns))
    for number, row in enumerate(rows.tolist()):
        places = row * matrix.columns + np.arange(matrix.columns)
        column, source = np.divmod(places, matrix.rows)
        for index in range(matrix.columns):
            values = matrix.decode_rows(int(source[index]), int(source[index]) + 1)
            found[number, index] = values[0, column[index]]
    return found


def _multiply(
    matrix: BlockMatrix, x_TC: Float64[np.ndarray, "T C"]
) -> Float64[np.ndarray, "T R"]:
    """Some columns of the weight at a time: together they are a run of the flat transpose."""
    rows, columns = matrix.rows, matrix.columns
    output_TR = np.zeros((len(x_TC), rows))
    at_once = max(1, _BYTES_AT_ONCE // (4 * rows))
    for start in range(0, columns, at_once):
        stop = min(start + at_once, columns)
        part_nR = np.empty((stop - start, rows), np.float32)
        for first in range(0, rows, _DECODED_AT_ONCE):
            last = min(first + _DECODED_AT_ONCE, rows)
            part_nR[:, first:last] = matrix.decode_rows(first, last)[:, start:stop].T
        _add_run(output_TR, x_TC, part_nR.reshape(-1), start * rows)
    return output_TR


def _add_run(
    output_TR: Float64[np.ndarray, "T R"],
    x_TC: Float64[np.ndarray, "T C"],
    flat: np.ndarray,
    first: int,
) -> None:
    """The share of places `first` and on of the flat weight in the product."""
    columns, end = x_TC.shape[1], first + len(flat)
    position = first
    while position < end:
        row, column = divmod(position, columns)
        if column == 0 and end - position >= columns:
            count = (end - position) // columns
            whole = flat[position - first :][: count * columns].reshape(count, columns)
            output_TR[:, row : row + count] += x_TC @ whole.T.astype(np.float64)
            position += count * columns
            continue
        length = min(columns - column, end - position)
        part = flat[position - first :][:length].astype(np.float64)
        output_TR[:, row] += x_TC[:, column : column + length] @ part
        position += length
