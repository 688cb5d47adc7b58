"""Two sides of different files: what differs in the files, and does it explain the rest?

Where both engines are right about their own file, a difference lies in the files: in the
configuration, or in tensors. A tensor that was merely quantised to another type is as far
from the other as its type is coarse, and is no finding. The candidate is then held against
the reference's configuration and tensors, by the same replay and the same search as an
engine: what is wrong is the candidate's file, since somebody has to say which model is meant.

Shape letters: R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.observed import Truth, declared_truth
from cotejar.diagnosis.operations import Project
from cotejar.diagnosis.products import ROWS_AT_ONCE_BYTES
from cotejar.model.inventory import LM_HEAD
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float32

    from cotejar.quant.block_matrix import BlockMatrix

_BITS = {
    BlockType.F32: 24,
    BlockType.F16: 11,
    BlockType.BF16: 8,
    BlockType.Q8_0: 8,
    BlockType.APR_Q8: 8,
    BlockType.Q6_K: 6,
    BlockType.Q5_K: 5,
    BlockType.Q5_0: 5,
    BlockType.Q5_1: 5,
    BlockType.Q4_K: 4,
    BlockType.Q4_0: 4,
    BlockType.Q4_1: 4,
    BlockType.APR_Q4: 4,
    BlockType.Q3_K: 3,
    BlockType.Q2_K: 2,
}
"""Significant bits of a weight."""

_REACH = 4.0
"""A block's largest weight over its root mean square, as trained weights have it: with b bits
a step is 2 * reach / 2^b root mean squares, and rounding errs by 1 / sqrt(12) of a step."""

_TENSOR_REACH = 64.0
"""The same where one scale serves a whole tensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileDifference:
    """What two files of one model do not share."""

    config_keys: tuple[str, ...]
    changed: tuple[str, ...]
    """Tensors that differ by more than their types' rounding, in forward order."""
    requantised: tuple[str, ...]
    """Tensors of another type, within that type's rounding."""

    @property
    def is_finding(self) -> bool:
        """Is there anything but another quantisation?"""
        return bool(self.config_keys or self.changed)


def compare_files(reference: Truth, candidate: Truth) -> FileDifference | None:
    """Compare configuration and tensors; None where the two have not the same shapes."""
    if {*reference.weights} - {LM_HEAD} != {*candidate.weights} - {LM_HEAD}:
        return None
    changed, requantised = [], []
    rows_of = _row_orders(reference), _row_orders(candidate)
    for name, a in reference.weights.items():
        b = candidate.weights.lm_head if name == LM_HEAD else candidate.weights[name]
        if (a.rows, a.columns) != (b.rows, b.columns):
            return None
        orders = rows_of[0].get(name), rows_of[1].get(name)
        if a.block_type is b.block_type and orders[0] == orders[1]:
            if not np.array_equal(a.raw, b.raw):
                changed.append(name)
            continue
        distance = _distance(a, b, orders)
        if not distance <= _allowed(a.block_type) + _allowed(b.block_type):
            changed.append(name)
        elif distance > 0:
            requantised.append(name)
    a_config, b_config = reference.config.comparable(), candidate.config.comparable()
    keys = [
        key
        for key in sorted({*a_config, *b_config})
        if not _same(a_config.get(key), b_config.get(key))
    ]
    return FileDifference(
        config_keys=tuple(keys), changed=tuple(changed), requantised=tuple(requantised)
    )


def _same(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, (int, float)):
        return bool(np.isclose(a, b, rtol=2.0**-23, atol=0))
    return a == b


def _row_orders(truth: Truth) -> dict[str, tuple[int, ...] | None]:
    """Of each q and k weight, and bias: how its rows are stored."""
    orders: dict[str, tuple[int, ...] | None] = {}
    for operation in truth.operations.values():
        step = operation.step
        if isinstance(step, Project) and step.row_order is not None:
            orders[step.weight] = step.row_order
            if step.bias is not None:
                orders[step.bias] = step.row_order
    return orders


def _allowed(kind: BlockType) -> float:
    reach = _TENSOR_REACH if kind is BlockType.APR_Q8 else _REACH
    if kind in {BlockType.F32, BlockType.F16, BlockType.BF16}:
        return float(2.0 ** -_BITS[kind])
    return float(2 * reach / 2 ** _BITS[kind] / np.sqrt(12))


def _distance(
    a: BlockMatrix, b: BlockMatrix, orders: tuple[tuple[int, ...] | None, ...]
) -> float:
    """Relative L2 of two weights, rows in half-split order."""
    error = size = 0.0
    whole = orders != (None, None)
    parts = (_parts(m, order, whole=whole) for m, order in zip((a, b), orders, strict=True))
    for rows_a, rows_b in zip(*parts, strict=True):
        off = rows_a.astype(np.float64) - rows_b
        error += float((off * off).sum())
        size += float(np.square(rows_a, dtype=np.float64).sum())
    return float(np.sqrt(error / size)) if size else float(error > 0)


def _parts(
    matrix: BlockMatrix, order: tuple[int, ...] | None, *, whole: bool
) -> Iterator[Float32[np.ndarray, "R C"]]:
    """Runs of rows; q and k, which are small, whole and in half-split order."""
    if whole:
        values = matrix.decode_rows(0, matrix.rows)
        index = list(order) if order is not None else slice(None)
        yield values[:, index] if matrix.rows == 1 else values[index]
        return
    at_once = max(1, ROWS_AT_ONCE_BYTES // (8 * matrix.columns))
    for start in range(0, matrix.rows, at_once):
        yield matrix.decode_rows(start, min(start + at_once, matrix.rows))


def as_reference(reference: Truth, candidate: Truth, difference: FileDifference) -> Truth:
    """The candidate's file with the reference's configuration and changed tensors.

    What was requantised stays the candidate's: each engine multiplies what its file holds.
    """
    replaced = {name: reference.weights[name] for name in difference.changed}
    config = replace(
        reference.config,
        rope=replace(reference.config.rope, pairing=candidate.config.rope.pairing),
        tied_embeddings=candidate.config.tied_embeddings,
    )
    mixed = declared_truth(config, candidate.weights.replaced(replaced))
    operations = dict(mixed.operations)
    for name, operation in reference.operations.items():
        step = operation.step
        if isinstance(step, Project) and {step.weight, step.bias} & replaced.keys():
            operations[name] = operation  # its rows are in the reference's order
    return replace(mixed, operations=operations)
