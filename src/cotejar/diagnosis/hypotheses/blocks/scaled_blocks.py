"""The same block of every row, its scale multiplied by one number.

Shape letters: R rows (outputs), C columns (inputs), B places in a row: blocks, or sub-blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.block_headers import HEADERS
from cotejar.diagnosis.hypotheses.blocks.split_blocks import place_orders, shown_order
from cotejar.diagnosis.hypotheses.blocks.sub_scale_bits import (
    of_other_sub_blocks,
    sub_scale_bits,
)
from cotejar.diagnosis.hypotheses.numbers import factor_text

if TYPE_CHECKING:
    from jaxtyping import Float64

    from cotejar.quant.block_matrix import BlockMatrix
    from cotejar.quant.block_type import BlockType

_PARTS = {
    "scale": "scale",
    "offset": "offset",
    "sub_scales": "sub-scale",
    "sub_offsets": "sub-minimum",
}
_SAME = 1e-3
"""Factors that are nearer are one."""
_MOST_BLOCKS = 4
"""Of a row, that are named one by one: more are no few places."""


def name_scaled_part(a: BlockMatrix, b: BlockMatrix, allowed: float) -> str | None:
    """What of which blocks is multiplied by what, of two tensors of one type and one shape.

    `allowed` is the relative L2 that may be left. None where it is anything else, and where
    every block of a row is: that is a factor of the whole.
    """
    kind = a.block_type
    if b.block_type is not kind or kind not in HEADERS or a.columns % kind.elements_per_block:
        return None
    changed = _changed_parts(a, b)
    misread = _misread_bits(kind, changed)
    if misread is not None or len(changed) != 1:
        return misread
    field, x, y = changed[0]
    x_RB, y_RB = (v.astype(np.float64).reshape(a.rows, -1) for v in (x, y))
    below_B = (x_RB * x_RB).sum(axis=0)
    gain_B = (x_RB * y_RB).sum(axis=0) / np.where(below_B > 0, below_B, 1.0)
    shown = _few(np.where(below_B > 0, gain_B, 1.0))
    if shown is None:
        return None
    places, factor = shown
    x_RB[:, places] *= factor
    if not np.linalg.norm(y_RB - x_RB) <= allowed * np.linalg.norm(y_RB):
        return None
    block = "sub-block" if field.startswith("sub_") else "block"
    return _sentence(_PARTS[field], block, places, factor)


def _misread_bits(
    kind: BlockType, changed: list[tuple[str, np.ndarray, np.ndarray]]
) -> str | None:
    """Which bits of the sub-scales, the sub-minima or both are lost, or read otherwise."""
    if not changed or not {field for field, _, _ in changed} <= {"sub_scales", "sub_offsets"}:
        return None
    ours = [x.astype(np.float64) for _, x, _ in changed]
    theirs = [y.astype(np.float64) for _, _, y in changed]
    names = " and ".join(
        "sub-scales" if one[0] == "sub_scales" else "sub-minima" for one in changed
    )
    readings = [
        *sub_scale_bits(kind, ours[0].shape[1]),
        *(
            (f"have the {part} bits of another sub-block: {shown_order(order)}", change)
            for part, order, change in of_other_sub_blocks(kind, place_orders(ours[0].shape[1]))
        ),
    ]
    for words, change in readings:
        if all(np.array_equal(change(x), y) for x, y in zip(ours, theirs, strict=True)):
            return f"{names} {words}"
    return None


def _changed_parts(a: BlockMatrix, b: BlockMatrix) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Name and both sides' values of what differs; nothing where codes do."""
    ours, theirs = (matrix.unpack_rows(0, matrix.rows) for matrix in (a, b))
    if not np.array_equal(ours.codes, theirs.codes):
        return []
    pairs = ((field, getattr(ours, field), getattr(theirs, field)) for field in _PARTS)
    return [(field, x, y) for field, x, y in pairs if not np.array_equal(x, y)]


def name_scaled_columns(factor_C: Float64[np.ndarray, "C"], kind: BlockType) -> str | None:
    """The same from a factor for each column, of a type whose blocks are scale times code."""
    width = kind.elements_per_block
    if kind not in HEADERS or len(factor_C) % width:
        return None
    by_block = factor_C.reshape(-1, width)
    shown = _few(by_block.mean(axis=1))
    if shown is None or np.ptp(by_block, axis=1).max() > _SAME:
        return None
    return _sentence("scale", "block", *shown)


def _few(gain_B: Float64[np.ndarray, "B"]) -> tuple[list[int], float] | None:
    """Which places have a factor other than 1, if those are few and have the same."""
    places = np.flatnonzero(~(np.abs(gain_B - 1) <= _SAME))
    if not 0 < len(places) <= min(_MOST_BLOCKS, len(gain_B) - 1):
        return None
    factor = float(gain_B[places].mean())
    if not np.ptp(gain_B[places]) <= _SAME * abs(factor):
        return None
    return places.tolist(), factor


def _sentence(part: str, block: str, places: list[int], factor: float) -> str:
    shown = ", ".join(str(place) for place in places)
    many = len(places) > 1
    how = "doubled" if abs(factor - 2) <= _SAME else f"multiplied by {factor_text(factor)}"
    if abs(factor) <= _SAME:
        how = "read as 0"
    return f"the {part} of {block}{'s' if many else ''} {shown} of every row is {how}"
