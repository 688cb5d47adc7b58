"""One number of a weight is wrong: an element, a block, a column, a few rows.

The error of a product, as an array of tokens by outputs, tells which. An element or a column
that is wrong leaves an error that follows one input from token to token; a block that is
wrong leaves one that follows the block's own share of one output.

Shape letters: T tokens, R rows (outputs), C columns (inputs), B blocks of a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.blocks.split_blocks import split
from cotejar.diagnosis.hypotheses.numbers import factor_text
from cotejar.diagnosis.operations import Project
from cotejar.diagnosis.weight_variants import CODE_BITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64, Int

    from cotejar.diagnosis.arithmetic import ProductInput
    from cotejar.diagnosis.case import Case
    from cotejar.quant.block_matrix import BlockMatrix

_FEWEST_TOKENS = 4
"""From fewer tokens some input or block fits by chance."""

_WRONG = 1e-4
"""Of the greatest error of a row: a row that is further off is wrong."""
_ANY_ROWS, _OF_ROWS = 2, 32
"""Rows that may be anything, of at least so many."""
_MOST_ROWS = 256
"""Rows that may be replaced."""
_FEW_ROWS = 4
"""Rows that are suspected one by one."""

_EXPLAINED = 1e-3
"""Of the error's length: what may be left when one input or block explains it."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site that is a product."""
    if not isinstance(case.operation.step, Project) or case.project.softcap is not None:
        return
    if len(case.recorded) < _FEWEST_TOKENS:
        return
    bias_R = 0.0 if case.bias is None else case.bias
    for given, product_TR in zip(case.givens, case.products, strict=True):
        error_TR = case.recorded_rows - bias_R - product_TR
        size_R = np.linalg.norm(error_TR, axis=0)
        if not size_R.any():
            continue
        yield from _one_input(case, given, product_TR, error_TR)
        wrong = np.flatnonzero(size_R > size_R.max() * 1e-2)
        if len(wrong) <= _FEW_ROWS:
            yield from _one_block(case, given, product_TR, error_TR, wrong)
            yield from _other_rows(case, product_TR, error_TR, wrong)
        yield from _rows_replaced(
            case, product_TR, np.flatnonzero(size_R > _WRONG * size_R.max())
        )


def _other_rows(
    case: Case,
    product_TR: Float64[np.ndarray, "T R"],
    error_TR: Float64[np.ndarray, "T R"],
    wrong: Int[np.ndarray, "n"],
) -> Iterator[Alternative]:
    """One row or two are anything at all, every other is right: a corrupt block, say."""
    if len(wrong) > _ANY_ROWS or product_TR.shape[1] < _OF_ROWS:
        return
    output_TR = product_TR.copy()
    output_TR[:, wrong] += error_TR[:, wrong]
    shown = " and ".join(str(row) for row in wrong)
    yield Alternative(
        id="rows-wrong",
        title=f"row {shown} of the weight is another, and every other row is right: corrupt "
        "bytes?",
        output=case.finish(output_TR),
        parameters=error_TR[:, wrong].size + 1,
    )


def _rows_replaced(
    case: Case, product_TR: Float64[np.ndarray, "T R"], wrong: Int[np.ndarray, "n"]
) -> Iterator[Alternative]:
    """Some rows of the weight are 0, or those of other rows; a bias stays where it is."""
    if not 0 < len(wrong) < min(product_TR.shape[1], _MOST_ROWS):
        return
    shown = f"{wrong[0]}..{wrong[-1]} ({len(wrong)})" if len(wrong) > 1 else f"{wrong[0]}"
    empty_TR = product_TR.copy()
    empty_TR[:, wrong] = 0.0
    if case.bias is not None:  # without one `rows-zero` says so of the outputs
        yield Alternative(
            id="rows-zero",
            title=f"rows {shown} of the weight are 0, and the bias is added",
            output=case.finish(empty_TR),
            parameters=2,
        )
    square_R = (product_TR**2).sum(axis=0)
    for moves_bias in (False, True) if case.bias is not None else (False,):
        bias_R = np.zeros(product_TR.shape[1]) if case.bias is None else case.bias
        wanted_Tn = case.recorded_rows[:, wrong]
        pool_TR = product_TR + bias_R if moves_bias else product_TR
        if moves_bias:
            square_R = (pool_TR**2).sum(axis=0)
        else:
            wanted_Tn = wanted_Tn - bias_R[wrong]
        source = np.argmin(square_R[:, None] - 2 * pool_TR.T @ wanted_Tn, axis=0)
        output_TR = product_TR.copy()
        output_TR[:, wrong] = product_TR[:, source]
        if moves_bias:
            output_TR[:, wrong] += (bias_R[source] - bias_R[wrong])[None]
        first = f"row {wrong[0]} is row {source[0]}"
        yield Alternative(
            id="rows-copied",
            title=f"{len(wrong)} rows of the weight are others': {first}",
            output=case.finish(output_TR),
            parameters=min(2, len(wrong)) if np.ptp(source - wrong) == 0 else len(wrong) + 1,
        )


def _one_input(
    case: Case,
    given: ProductInput,
    product_TR: Float64[np.ndarray, "T R"],
    error_TR: Float64[np.ndarray, "T R"],
) -> Iterator[Alternative]:
    """The whole error follows input `column`: how much, is the change of each weight there."""
    x_TC = given.values
    # The first singular vector over tokens is what every wrong output follows.
    _, vectors = np.linalg.eigh(error_TR @ error_TR.T)
    length_C = np.maximum(np.linalg.norm(x_TC, axis=0), 1e-300)
    column = int(np.abs(vectors[:, -1] @ x_TC / length_C).argmax())
    x_T = x_TC[:, column]
    if not x_T.any():
        return
    change_R = x_T @ error_TR / (x_T @ x_T)
    left = np.linalg.norm(error_TR - np.outer(x_T, change_R))
    if left > 100 * _EXPLAINED * np.linalg.norm(error_TR):
        return
    weight_R = _column(case.matrix, column)
    gain = float((change_R * weight_R).sum() / max((weight_R**2).sum(), 1e-300))
    lost = -gain if abs(gain + 1) > 1e-3 else 1.0  # noqa: PLR2004 - above rounding
    words = "is left out" if lost == 1 else f"counts {factor_text(1 - lost)} times"
    yield Alternative(
        id="column-zero" if lost == 1 else "column-scaled",
        title=f"column {column} of the weight (input {column}) {words}",
        output=case.finish(product_TR - lost * np.outer(x_T, weight_R)),
        parameters=1 if lost == 1 else 2,
    )
    row = int(np.abs(change_R).argmax())
    only_R = np.where(np.arange(len(change_R)) == row, change_R, 0.0)
    yield Alternative(
        id="element-wrong",
        title=f"one element of the weight, row {row} column {column}, is "
        f"{weight_R[row] + change_R[row]:.4g} and ought to be {weight_R[row]:.4g}",
        output=case.finish(product_TR + np.outer(x_T, only_R)),
        parameters=3,
    )
    yield Alternative(
        id="column-wrong",
        title=f"column {column} of the weight is another",
        output=case.finish(product_TR + np.outer(x_T, change_R)),
        parameters=len(change_R),
    )


def _column(matrix: BlockMatrix, column: int) -> Float64[np.ndarray, "R"]:
    """Decoded some thousand rows at a time."""
    parts = [
        matrix.decode_rows(start, min(start + 4096, matrix.rows))[:, column]
        for start in range(0, matrix.rows, 4096)
    ]
    return np.concatenate(parts).astype(np.float64)


def _one_block(
    case: Case,
    given: ProductInput,
    product_TR: Float64[np.ndarray, "T R"],
    error_TR: Float64[np.ndarray, "T R"],
    rows: Int[np.ndarray, "n"],
) -> Iterator[Alternative]:
    """In each of few wrong rows one block counts another number of times."""
    kind = case.matrix.block_type
    width = kind.elements_per_block
    if kind not in CODE_BITS or case.matrix.columns % width:
        return
    output_TR, said = product_TR.copy(), []
    for row in rows.tolist():
        blocks = split(case.matrix.unpack_rows(row, row + 1), kind)
        shares = {"": blocks.codes * blocks.spread + blocks.added}
        if blocks.offset.any():
            shares["the scale of "] = blocks.codes * blocks.spread
            shares["the minimum of "] = blocks.added
        # What the rounding of a block's sum adds goes with the minimum.
        excess_TB = np.zeros((len(product_TR), len(blocks.codes)))
        if given.excess is not None and blocks.has_block_sums:
            excess_TB = given.excess * blocks.offset.reshape(-1)
        found = [
            (
                *_block_gain(
                    error_TR[:, row],
                    given.values * share.reshape(-1),
                    0.0 if part == "the scale of " else excess_TB,
                    width,
                ),
                part,
            )
            for part, share in shares.items()
        ]
        _, block, gain, added_T, part = min(found, key=lambda one: one[0])
        output_TR[:, row] += added_T
        words = "is read as 0" if gain == -1 else f"counts {factor_text(1 + gain)} times"
        said.append(f"{part}block {block} of row {row} {words}")
    yield Alternative(
        id="block-wrong",
        title=", ".join(said),
        output=case.finish(output_TR),
        parameters=2 + len(said),
    )


def _block_gain(
    error_T: Float64[np.ndarray, "T"],
    terms_TC: Float64[np.ndarray, "T C"],
    excess_TB: Float64[np.ndarray, "T B"] | float,
    width: int,
) -> tuple[float, int, float, Float64[np.ndarray, "T"]]:
    """What is left, the block, how much more of it there is, and that part of the output."""
    share_TB = terms_TC.reshape(len(error_T), -1, width).sum(axis=2) + excess_TB
    gain_B = error_T @ share_TB / np.maximum((share_TB**2).sum(axis=0), 1e-300)
    left_B = np.linalg.norm(error_T[:, None] - gain_B * share_TB, axis=0)
    block = int(left_B.argmin())
    gain = float(gain_B[block])
    gain = round(gain) if abs(gain - round(gain)) < 10 * _EXPLAINED else gain
    return float(left_B[block]), block, gain, gain * share_TB[:, block]
