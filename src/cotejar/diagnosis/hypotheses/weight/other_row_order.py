"""The weights of queries and keys, laid out wrongly in the other order of a head's rows.

A head's rows stand so that halves turn together, or neighbours; a converter changes the one
into the other. What is done to the weight before that, or after it, is done in an order that
this file's bytes do not have: each other layout is tried in that order too.

Shape letters: R rows (outputs), N blocks, Y bytes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.hypotheses.blocks import block_codes, flat_blocks
from cotejar.diagnosis.hypotheses.weight import (
    changed_values,
    columns,
    transposed_bytes,
    weights,
)
from cotejar.diagnosis.operations import Project
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Int

    from cotejar.diagnosis.case import Alternative, Case
    from cotejar.quant.block_matrix import BlockMatrix

_FAMILIES = (
    weights,
    transposed_bytes,
    block_codes,
    flat_blocks,
    changed_values,
    columns,
)
_CROSSING = frozenset({BlockType.APR_Q4, BlockType.APR_Q8})
"""Types whose rows are not whole blocks, and cannot change places as they are."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of q and k."""
    other = in_other_order(case)
    if other is None:
        return
    whose = "halves" if other.project.row_order is None else "neighbours"
    for family in _FAMILIES:
        for one in family.alternatives(other):
            title = f"{one.title}, while its rows stand in the order in which {whose} turn"
            yield replace(one, title=title)


def in_other_order(case: Case) -> Case | None:
    """The same product with the weight's rows in the other order; None of anything else."""
    step, site = case.operation.step, case.operation.site
    if not isinstance(step, Project) or site.slot not in {"q", "k"}:
        return None
    matrix, config = case.matrix, case.observed.truth.config
    if matrix.block_type in _CROSSING or matrix.rows % config.head_dim:
        return None
    if step.row_order is not None:  # from neighbours to halves, as the site has them
        order, new_order = np.array(step.row_order), None
    else:
        halves = exact.half_split_order(config.head_dim, config.rope_of(site.layer or 0).dim)
        starts = np.arange(0, matrix.rows, config.head_dim)[:, None]
        site_order = (starts + halves).reshape(-1)
        order, new_order = np.argsort(site_order), tuple(site_order.tolist())
    held = case.observed.truth.weights
    changes = {step.weight: _reordered(matrix, order)}
    if step.bias is not None:
        changes[step.bias] = _reordered(held[step.bias], order)
    truth = replace(case.observed.truth, weights=held.replaced(changes))
    return replace(
        case,
        operation=replace(case.operation, step=replace(step, row_order=new_order)),
        observed=replace(case.observed, truth=truth, _derived={}),
    )


def _reordered(matrix: BlockMatrix, order: Int[np.ndarray, "R"]) -> BlockMatrix:
    """Its rows, or the values of a vector, in that order."""
    if matrix.rows == 1 and matrix.block_type.elements_per_block > 1:
        values = matrix.decode_rows(0, 1).reshape(-1)[order]
        raw = np.ascontiguousarray(values).view(np.uint8)
        return replace(matrix, block_type=BlockType.F32, raw=raw)
    parts = matrix.raw.reshape(len(order), -1)
    return replace(matrix, raw=np.ascontiguousarray(parts[order]).reshape(-1))
