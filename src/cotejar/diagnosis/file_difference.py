"""Two sides of different files: what differs in the files?

In the configuration, in tensors that both have, or in tensors that one alone has. A tensor that
was merely quantised to another type is as far from the other as its type is coarse, and is no
finding. The candidate is then held against the reference's configuration and tensors, by the
same replay and the same search as an engine: what is wrong is the candidate's file, since
somebody has to say which model is meant.

Shape letters: R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

import re
from collections import ChainMap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.observed import Truth, declared_truth
from cotejar.diagnosis.operations import Project, model_operations
from cotejar.diagnosis.products import ROWS_AT_ONCE_BYTES
from cotejar.diagnosis.tensor_causes import Changed
from cotejar.model.inventory import LM_HEAD
from cotejar.model.weights import Weights
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jaxtyping import Float32, Float64

    from cotejar.diagnosis.observed import Observed
    from cotejar.model.config import DecoderConfig
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

_ROW_REACH, _SMALL_ROW = 3.0, 1e-3
"""One row errs by no more than so many times what a tensor may, and by half of its size in
any case; of rows that are not small beside the others."""

_IN_ANY_ORDER = frozenset(BlockType) - {BlockType.APR_Q4, BlockType.APR_Q8}
"""Types whose rows are whole blocks: another order of the rows changes no value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileDifference:
    """What two files of one model do not share."""

    config_keys: tuple[str, ...]
    changed: tuple[str, ...]
    """Tensors that differ by more than their types' rounding, in forward order."""
    requantised: tuple[str, ...]
    """Tensors of another type, within that type's rounding."""
    lost: tuple[str, ...] = ()
    """Tensors that the reference alone has; the LM head is always there, see `changed`."""
    added: tuple[str, ...] = ()
    """Tensors that the candidate alone has."""
    reshaped: tuple[tuple[str, tuple[int, int], tuple[int, int]], ...] = ()
    """Tensors with other shapes, the reference's first."""

    @property
    def is_finding(self) -> bool:
        """Is there anything but another quantisation?"""
        return bool(self.parts)

    @property
    def parts(self) -> tuple[str, ...]:
        """Keys and tensors that differ, by name."""
        return (*self.config_keys, *self.lost, *self.added, *self.changed)


def compare_files(reference: Truth, candidate: Truth) -> FileDifference:
    """Compare configuration and tensors.

    An LM head that one file stores and the other ties is compared with the embedding table.
    """
    changed, requantised, reshaped = [], [], []
    rows_of = _row_orders(reference), _row_orders(_configured(candidate, reference))
    names = [*reference.weights]
    if LM_HEAD in candidate.weights and LM_HEAD not in reference.weights:
        names.append(LM_HEAD)
    for name in names:
        if name != LM_HEAD and name not in candidate.weights:
            continue
        a, b = (_tensor(truth, name) for truth in (reference, candidate))
        if (a.rows, a.columns) != (b.rows, b.columns):
            reshaped.append((name, (a.rows, a.columns), (b.rows, b.columns)))
            continue
        found = _judge(a, b, (rows_of[0].get(name), rows_of[1].get(name)))
        if found == "changed":
            changed.append(name)
        elif found == "requantised" and name in reference.weights:
            requantised.append(name)
    ours, theirs = ({*truth.weights} - {LM_HEAD} for truth in (reference, candidate))
    a_config, b_config = reference.config.comparable(), candidate.config.comparable()
    keys = [
        key
        for key in sorted({*a_config, *b_config})
        if not _same(a_config.get(key), b_config.get(key))
    ]
    return FileDifference(
        config_keys=tuple(keys),
        changed=tuple(changed),
        requantised=tuple(requantised),
        lost=tuple(name for name in reference.weights if name in ours - theirs),
        added=tuple(name for name in candidate.weights if name in theirs - ours),
        reshaped=tuple(reshaped),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """How far a tensor of one file is from the other's."""

    wrong_rows: int
    rows: int
    distance: float
    """Relative L2."""
    is_unrelated: bool
    """Is what they share no more than chance?"""


def measure_change(name: str, reference: Truth, candidate: Truth) -> Change:
    """Compare a tensor of both files, row by row."""
    rows_of = _row_orders(reference), _row_orders(_configured(candidate, reference))
    orders = rows_of[0].get(name), rows_of[1].get(name)
    a, b = (_tensor(truth, name) for truth in (reference, candidate))
    error_R, size_R = _row_squares(a, b, orders)
    other = float(_row_squares(b, a, orders[::-1])[1].sum())
    error, size = float(error_R.sum()), float(size_R.sum())
    # From the three sides of a triangle, the cosine of the angle at zero.
    product = (size + other - error) / 2
    chance = _SURE / np.sqrt(a.rows * a.columns)
    return Change(
        wrong_rows=int((error_R > 0).sum()),
        rows=a.rows,
        distance=float(np.sqrt(error / size)) if size else np.inf,
        is_unrelated=a.rows > 1 and abs(product) < chance * np.sqrt(size * other),
    )


def is_any(truth: Truth, name: str) -> bool:
    """Is any value of a tensor other than zero?"""
    return any(rows.any() for rows in _parts(_tensor(truth, name), None, whole=False))


_SURE = 5.0
"""Standard deviations of a correlation of that many numbers that are still chance."""


def change_of(name: str, reference: Truth, candidate: Truth) -> Changed | None:
    """A tensor with what explains it; None where the two files order its rows differently."""
    rows_of = _row_orders(reference), _row_orders(_configured(candidate, reference))
    if rows_of[0].get(name) != rows_of[1].get(name):
        return None
    a, b = (_tensor(truth, name) for truth in (reference, candidate))
    layer = _LAYER.match(name)
    siblings = {name: a}
    for other, matrix in reference.weights.items():
        is_near = layer is not None and (
            other.startswith(layer[0]) or other.endswith(name.removeprefix(layer[0]))
        )
        if is_near and matrix.columns == a.columns and matrix.rows > 1 < a.rows:
            siblings.setdefault(other, matrix)
    return Changed(
        name=name,
        reference=a,
        candidate=b,
        allowed=_allowed(a.block_type) + _allowed(b.block_type),
        siblings=siblings,
    )


_LAYER = re.compile(r"model\.layers\.\d+\.")


def _tensor(truth: Truth, name: str) -> BlockMatrix:
    return truth.weights.lm_head if name == LM_HEAD else truth.weights[name]


def _judge(a: BlockMatrix, b: BlockMatrix, orders: tuple[tuple[int, ...] | None, ...]) -> str:
    """`same`, `changed`, or `requantised`."""
    is_same_type = a.block_type is b.block_type
    if is_same_type and orders[0] == orders[1]:
        return "same" if np.array_equal(a.raw, b.raw) else "changed"
    error_R, size_R = _row_squares(a, b, orders)
    if is_same_type and a.block_type in _IN_ANY_ORDER:
        return "same" if error_R.sum() == 0 else "changed"
    allowed = _allowed(a.block_type) + _allowed(b.block_type)
    size = float(size_R.sum())
    distance = np.sqrt(error_R.sum() / size) if size else float(error_R.sum() > 0)
    if not distance <= allowed:
        return "changed"
    if BlockType.APR_Q8 not in {a.block_type, b.block_type}:
        large = size_R > _SMALL_ROW**2 * size / len(size_R)
        most = max(_ROW_REACH * allowed, 0.5)
        if (error_R[large] > most**2 * size_R[large]).any():
            return "changed"
    return "same" if is_same_type and distance == 0 else "requantised"


def _same(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, (int, float)):
        return bool(np.isclose(a, b, rtol=2.0**-23, atol=0))
    return a == b


def _configured(candidate: Truth, reference: Truth) -> Truth:
    """The candidate's weights under the reference's configuration, rows as they are stored."""
    return declared_truth(_mixed_config(reference, candidate), candidate.weights)


def _mixed_config(reference: Truth, candidate: Truth) -> DecoderConfig:
    pairing = candidate.config.rope.pairing
    local = reference.config.local_rope
    return replace(
        reference.config,
        rope=replace(reference.config.rope, pairing=pairing),
        local_rope=None if local is None else replace(local, pairing=pairing),
        tied_embeddings=candidate.config.tied_embeddings,
    )


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


def _row_squares(
    a: BlockMatrix, b: BlockMatrix, orders: tuple[tuple[int, ...] | None, ...]
) -> tuple[Float64[np.ndarray, "R"], Float64[np.ndarray, "R"]]:
    """Of each row the squared difference and the squared size, rows in half-split order."""
    errors, sizes = [], []
    whole = orders != (None, None)
    parts = (_parts(m, order, whole=whole) for m, order in zip((a, b), orders, strict=True))
    for rows_a, rows_b in zip(*parts, strict=True):
        off = rows_a.astype(np.float64) - rows_b
        errors.append((off * off).sum(axis=1))
        sizes.append(np.square(rows_a, dtype=np.float64).sum(axis=1))
    return np.concatenate(errors), np.concatenate(sizes)


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
    """The candidate's file with the reference's configuration and what differs in tensors.

    What was requantised stays the candidate's: each engine multiplies what its file holds.
    """
    replaced = {
        name: _tensor(reference, name) for name in (*difference.changed, *difference.lost)
    }
    kept = {n: m for n, m in candidate.weights.items() if n not in difference.added}
    mixed = declared_truth(_mixed_config(reference, candidate), Weights({**kept, **replaced}))
    operations = dict(mixed.operations)
    for name, operation in reference.operations.items():
        step = operation.step
        if isinstance(step, Project) and {step.weight, step.bias} & replaced.keys():
            operations[name] = operation  # its rows are in the reference's order
    return replace(mixed, operations=operations)


def held_against(side: Observed, truth: Truth, reference: Truth) -> Observed:
    """The candidate with another truth; q and k in the order in which that has them.

    Which values of a head are a pair depends on how many of them turn.
    """
    own = side.truth.operations
    meant = model_operations(_mixed_config(reference, side.truth), side.truth.weights)
    moved: dict[str, np.ndarray] = {}
    for layer in range(side.truth.config.num_layers):
        orders = {}
        for which in "qk":
            steps = [o[f"layer.{layer}.{which}"].step for o in (own, meant)]
            ours, theirs = (s.row_order if isinstance(s, Project) else None for s in steps)
            if ours is not None and theirs is not None and ours != theirs:
                orders[which] = np.argsort(ours)[list(theirs)]
        moved |= _reordered(side.trace.arrays, layer, orders)
    if not moved:
        return replace(side, truth=truth, _derived={})
    trace = replace(side.trace, arrays=_overlaid(moved, side.trace.arrays))
    return replace(side, truth=truth, trace=trace, _derived={})


def _overlaid(
    moved: dict[str, np.ndarray], arrays: Mapping[str, np.ndarray]
) -> Mapping[str, np.ndarray]:
    """Some arrays in place of others, which stay in their file until they are read."""
    return ChainMap(moved, arrays)  # type: ignore[arg-type]  # nobody writes to it


def _reordered(
    arrays: Mapping[str, np.ndarray], layer: int, orders: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The arrays of q and k of one layer, their columns in another order."""
    moved = {}
    for which, order in orders.items():
        for slot in (which, f"{which}_rope"):
            name = f"layer.{layer}.{slot}"
            if name in arrays:
                moved[name] = arrays[name][:, order]
    name = f"layer.{layer}.qkv"
    if orders and name in arrays:
        whole = arrays[name].copy()
        size = len(orders["q"])
        whole[:, :size] = whole[:, orders["q"]]
        whole[:, size : size + len(orders["k"])] = whole[:, size + orders["k"]]
        moved[name] = whole
    return moved
