"""A product of which the weight is read in another way, on a few rows first and then whole.

Shape letters: T tokens, R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.limits import ACCEPTED, divide
from cotejar.diagnosis.observed import cap
from cotejar.diagnosis.products import ROWS_AT_ONCE_BYTES

if TYPE_CHECKING:
    from jaxtyping import Float64

    from cotejar.diagnosis.arithmetic import ProductInput
    from cotejar.diagnosis.case import Case
    from cotejar.diagnosis.weight_variants import (
        Rows,
        WeightVariant,
    )
    from cotejar.quant.block_matrix import BlockMatrix


_SAMPLES, _SAMPLE_ROWS = 6, 8
"""So many runs of so many rows tell whether a variant is worth the whole product."""


def telling_rows(case: Case) -> list[slice]:
    """Runs of rows whose outputs are furthest off, apart from each other."""
    right = case.products[0] if case.bias is None else case.products[0] + case.bias
    off_R = ((case.recorded_rows - right) ** 2).sum(axis=0)
    starts = np.arange(0, len(off_R), _SAMPLE_ROWS)
    by_run = np.add.reduceat(np.nan_to_num(off_R, nan=np.inf), starts)
    worst = starts[np.argsort(-by_run, kind="stable")[:_SAMPLES]]
    # And some from anywhere, so that a variant does not only fit where it is worst.
    spread = np.linspace(0, max(len(off_R) - _SAMPLE_ROWS, 0), _SAMPLES).astype(int)
    begins = dict.fromkeys([*worst.tolist(), *spread.tolist()])
    return [slice(a, min(a + _SAMPLE_ROWS, len(off_R))) for a in begins]


def explains_rows(
    case: Case, variant: WeightVariant, given: ProductInput, samples: list[slice]
) -> bool:
    """Judged like a whole output, but against the sample's own size; one miss is enough."""
    softcap, tokens = case.project.softcap, len(given.values)
    errors: dict[float | None, np.ndarray] = {cap: np.zeros(tokens) for cap in (softcap, None)}
    size_T, spread_T = np.zeros(tokens), np.zeros(tokens)
    unit = case.observed.arithmetic.sum_unit + case.observed.arithmetic.value_unit
    # A sample is a part of the whole: it may err by more than its share.
    share = 8 * ACCEPTED * unit * np.sqrt(given.values.shape[1])
    for rows in samples:
        found = variant.rows(rows.start, rows.stop)
        if found.values.shape[1] != given.values.shape[1]:
            return False
        output_TR = _product(found, given)
        if case.bias is not None:
            output_TR = output_TR + case.bias[rows]
        size_T += (output_TR**2).sum(axis=1)
        spread_T += (given.values**2) @ (found.values**2).sum(axis=0)
        allowed_T = share * (np.sqrt(size_T) + np.sqrt(spread_T))
        for bound in errors:
            off_TR = case.recorded_rows[:, rows] - cap(output_TR, bound)
            errors[bound] += (off_TR**2).sum(axis=1)
        if not any((divide(np.sqrt(e), allowed_T) <= 1).all() for e in errors.values()):
            return False
    return True


def _product(rows: Rows, given: ProductInput) -> Float64[np.ndarray, "T R"]:
    output_TR: np.ndarray = given.values @ rows.rounded(given.weights).T
    if rows.offsets is not None and given.excess is not None:
        output_TR += given.excess @ rows.offsets.T
    return output_TR


def multiply_variant(
    variant: WeightVariant, given: ProductInput, matrix: BlockMatrix
) -> Float64[np.ndarray, "T R"]:
    """The product of a weight read in another way."""
    output_TR = np.empty((len(given.values), matrix.rows))
    at_once = max(1, ROWS_AT_ONCE_BYTES // (8 * matrix.columns))
    for start in range(0, matrix.rows, at_once):
        stop = min(start + at_once, matrix.rows)
        output_TR[:, start:stop] = _product(variant.rows(start, stop), given)
    return output_TR
