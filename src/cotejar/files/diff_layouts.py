"""Is a tensor that differs the same one in another layout?

Two ways in which converters store one weight, and in which they go wrong:

- *transposed*: `(rows, columns)` here is `(columns, rows)` there;
- *q and k rows permuted*: a GGUF of architecture llama stores the rows of a head so that
  RoPE's pairs are neighbours, everyone else so that they lie half a head apart. Row
  `2 i + s` of a head there is row `s E/2 + i` here (E head size, s 0 or 1); llama.cpp's
  converter calls that `permute`.

Nothing here holds more than a few million values, whatever the tensor's size.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from cotejar.files.elementwise import ElementwiseDistance, ElementwiseMeasure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float32

    from cotejar.files.tensor_values import TensorValues
    from cotejar.model.architecture_summary import ArchitectureSummary
    from cotejar.model.config import RopePairing

LayoutName = Literal["transposed", "rows adjacent -> halves", "rows halves -> adjacent"]

_BLOCK_VALUES = 1 << 24
"""64 MiB of float32: what is held of A while B is decoded past it."""
_STEP_VALUES = 1 << 16
_CLEARLY = 0.25
_UNRELATED = math.sqrt(2)
_MATRIX_DIMS = 2
QK_NAME = re.compile(r".*\.self_attn\.[qk]_proj\.(weight|bias)")
"""Canonical names of the tensors whose rows RoPE's pairing orders."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A layout under which B is A, or is nearest to it."""

    name: LayoutName
    distance: ElementwiseDistance
    is_declared: bool
    """The two files themselves say that they order the rows so."""


def find_layout(
    name: str,
    a: TensorValues,
    b: TensorValues,
    summaries: tuple[ArchitectureSummary, ArchitectureSummary],
    *,
    plain: ElementwiseDistance | None,
    num_worst: int = 0,
) -> Layout | None:
    """The layout under which B lies nearest to A, if it is clearly that one.

    Clearly means: the relative L2 under it is at most a quarter of the plain one, or of
    sqrt(2) where shapes differ. That is how far apart two unrelated weights of one size
    lie, whatever the layout, and the noise of even 3-bit types stays below a quarter of it.

    Args:
        name: the tensor's canonical name.
        a: the reference.
        b: the candidate.
        summaries: what the two files say; they give the head size and the pairing.
        plain: the distance without any change of layout; None where shapes differ.
        num_worst: how many of the largest differences are kept.
    """
    found: list[Layout] = []
    if len(a.shape) == _MATRIX_DIMS and a.shape == b.shape[::-1]:
        distance = _measure_transposed(a, b, num_worst)
        found.append(Layout(name="transposed", distance=distance, is_declared=False))
    if QK_NAME.fullmatch(name) and a.shape == b.shape:
        found += _measure_permuted(a, b, summaries, num_worst)
    best = min(found, key=lambda layout: layout.distance.severity, default=None)
    apart = _UNRELATED if plain is None else plain.rel_l2
    if best is None or not best.distance.rel_l2 <= _CLEARLY * apart:
        return None
    return best


def to_adjacent(values: Float32[np.ndarray, "R C"], head_dim: int) -> np.ndarray:
    """Reorder whole heads of rows from halves to adjacent pairs."""
    split = values.reshape(-1, 2, head_dim // 2, values.shape[-1])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(values.shape)


def to_halves(values: Float32[np.ndarray, "R C"], head_dim: int) -> np.ndarray:
    """Reorder whole heads of rows from adjacent pairs to halves."""
    split = values.reshape(-1, head_dim // 2, 2, values.shape[-1])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(values.shape)


def _measure_transposed(
    a: TensorValues, b: TensorValues, num_worst: int
) -> ElementwiseDistance:
    """Against B's transpose: a block of that is held at a time, and B decoded past it."""
    rows, columns = a.shape
    measure = ElementwiseMeasure(num_worst)
    step = max(1, _STEP_VALUES // columns)
    for start, stop in _steps(rows, max(1, _BLOCK_VALUES // columns)):
        block_RC = np.empty((stop - start, columns), np.float32)
        for first, last in _steps(columns, max(1, _STEP_VALUES // rows)):
            block_RC[:, first:last] = b.rows(first, last)[:, start:stop].T
        for first, last in _steps(stop - start, step):
            part_a = a.rows(start + first, start + last)
            measure.add(part_a.reshape(-1), block_RC[first:last].reshape(-1))
    return measure.result()


def _steps(size: int, step: int) -> Iterator[tuple[int, int]]:
    """Cut 0..size into parts of `step`."""
    return ((start, min(start + step, size)) for start in range(0, size, step))


def _measure_permuted(
    a: TensorValues,
    b: TensorValues,
    summaries: tuple[ArchitectureSummary, ArchitectureSummary],
    num_worst: int,
) -> list[Layout]:
    """B's rows in A's order, both ways, for every head size that a file says."""
    pairings = tuple(summary.rope_pairing for summary in summaries)
    head_dims = {s.head_dim for s in summaries if s.head_dim and s.head_dim % 2 == 0}
    found = []
    for head_dim in sorted(head_dims):
        if a.shape[0] % head_dim:
            continue
        for order in _ORDERS:
            measure = ElementwiseMeasure(num_worst)
            step = head_dim * max(1, _STEP_VALUES // (head_dim * _columns(a)))
            for start, stop in _steps(a.shape[0], step):
                block_b = order.reorder_b(_rows(b, start, stop), head_dim)
                measure.add(_rows(a, start, stop).reshape(-1), block_b.reshape(-1))
            is_declared = pairings == (order.pairing_a, order.pairing_b)
            found.append(
                Layout(name=order.name, distance=measure.result(), is_declared=is_declared)
            )
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Order:
    name: LayoutName
    pairing_a: RopePairing
    pairing_b: RopePairing
    reorder_b: Callable[[np.ndarray, int], np.ndarray]
    """B's rows to A's order."""


_ORDERS = (
    _Order(
        name="rows adjacent -> halves",
        pairing_a="adjacent",
        pairing_b="halves",
        reorder_b=to_adjacent,
    ),
    _Order(
        name="rows halves -> adjacent",
        pairing_a="halves",
        pairing_b="adjacent",
        reorder_b=to_halves,
    ),
)


def _columns(values: TensorValues) -> int:
    return values.num_elements // values.shape[0]


def _rows(values: TensorValues, start: int, stop: int) -> np.ndarray:
    """Rows of the first dimension; of a bias, its values in a column."""
    if len(values.shape) == 1:
        return values.rows(0, 1).reshape(-1, 1)[start:stop]
    return values.rows(start, stop)
