"""Where a block's scale, offset and sub-scales lie, and whose a reader may take instead."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEADERS: dict[BlockType, dict[str, tuple[tuple[int, int], ...]]] = {
    BlockType.Q4_0: {"scale": ((0, 2),)},
    BlockType.Q5_0: {"scale": ((0, 2),)},
    BlockType.Q8_0: {"scale": ((0, 2),)},
    BlockType.Q4_1: {"scale": ((0, 2),), "offset": ((2, 4),)},
    BlockType.Q5_1: {"scale": ((0, 2),), "offset": ((2, 4),)},
    BlockType.Q2_K: {"scale": ((80, 82),), "offset": ((82, 84),), "sub-scales": ((0, 16),)},
    BlockType.Q3_K: {"scale": ((108, 110),), "sub-scales": ((96, 108),)},
    BlockType.Q4_K: {"scale": ((0, 2),), "offset": ((2, 4),), "sub-scales": ((4, 16),)},
    BlockType.Q5_K: {"scale": ((0, 2),), "offset": ((2, 4),), "sub-scales": ((4, 16),)},
    BlockType.Q6_K: {"scale": ((208, 210),), "sub-scales": ((192, 208),)},
}
"""Which bytes of a block are its scale, its offset (minimum), its sub-scales."""


def neighbours(
    count: int, per_row: int
) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """Of `count` blocks, the one that stands for each."""
    for step, words in ((1, "the block before"), (-1, "the block after")):
        for within in (count, per_row):
            yield words, partial(_rolled, step=step, within=within)
            yield words, partial(_held, step=step, within=within)
        yield (
            f"{words} in the row above or below",
            partial(_rolled, step=step * per_row, within=count),
        )
    for size in (2, 4, 8):
        yield f"the first of {size} blocks", partial(_first_of, size=size, within=count)
        if size < per_row:  # else it is the row's first
            yield f"the first of {size} blocks", partial(_first_of, size=size, within=per_row)
    yield "its neighbour, exchanged in pairs", lambda i: np.minimum(i ^ 1, count - 1)
    yield "its row's first block", lambda i: i // per_row * per_row
    yield "the tensor's first block", lambda i: i * 0


def _rolled(index: np.ndarray, *, step: int, within: int) -> np.ndarray:
    """The block `step` before, around the end of every `within` blocks."""
    moved: np.ndarray = index // within * within + (index - step) % within
    return moved


def _first_of(index: np.ndarray, *, size: int, within: int) -> np.ndarray:
    """The first of every `size` blocks, of each run of `within`."""
    first = index // within * within
    found: np.ndarray = first + (index - first) // size * size
    return found


def _held(index: np.ndarray, *, step: int, within: int) -> np.ndarray:
    """The same, but the blocks at the end keep their own."""
    first = index // within * within
    held: np.ndarray = np.clip(index - step, first, first + within - 1)
    return held
