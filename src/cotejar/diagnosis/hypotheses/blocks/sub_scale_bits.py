"""The bits of K-quants' sub-scales: lost, left in place of others, of another centre or sign.

Shape letters: N blocks, S sub-blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float64, Int64

Changed: TypeAlias = "Callable[[Float64[np.ndarray, 'N S']], Float64[np.ndarray, 'N S']]"
"""Sub-scales to those that another reading of their bits gives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """How a type stores a sub-scale."""

    bits: int
    centre: int = 0
    """That is subtracted from the stored number."""
    signed: bool = False
    """Two's complement."""
    low: int
    """Bits of the part that is stored apart from the rest; of a whole number, half of it."""

    def number(self, sub_NS: Float64[np.ndarray, "N S"]) -> Int64[np.ndarray, "N S"]:
        """The unsigned number that is stored."""
        number: np.ndarray = (sub_NS.astype(np.int64) + self.centre) & ((1 << self.bits) - 1)
        return number

    def value(self, number_NS: Int64[np.ndarray, "N S"]) -> Float64[np.ndarray, "N S"]:
        """What a reader makes of it."""
        half = 1 << (self.bits - 1)
        if self.signed:
            number_NS = np.where(number_NS >= half, number_NS - 2 * half, number_NS)
        result: np.ndarray = (number_NS - self.centre).astype(np.float64)
        return result


STORED: dict[BlockType, Stored] = {
    BlockType.Q2_K: Stored(bits=4, low=2),
    BlockType.Q3_K: Stored(bits=6, centre=32, low=4),
    BlockType.Q4_K: Stored(bits=6, low=4),
    BlockType.Q5_K: Stored(bits=6, low=4),
    BlockType.Q6_K: Stored(bits=8, signed=True, low=4),
}


def sub_scale_bits(kind: BlockType, count: int) -> Iterator[tuple[str, Changed]]:
    """What follows "sub-scales" in a sentence, and the change; `count` to a block."""
    stored = STORED.get(kind)
    if stored is None:
        return
    for first in (0, count // 2):  # the second half may be packed in another way
        where = f"from {first} on " if first else ""
        for bits in range(1, stored.bits):
            low = f"{bits} low bit{'s' if bits > 1 else ''}"
            yield (
                f"{where}keep {low} alone",
                partial(_masked, stored=stored, first=first, mask=(1 << bits) - 1),
            )
            yield (
                f"{where}lose their {low}",
                partial(_masked, stored=stored, first=first, mask=-(1 << bits)),
            )
    yield from _centres(stored)
    if stored.low * 2 == stored.bits:
        yield "have their halves of bits exchanged", partial(_exchanged, stored=stored)


def _centres(stored: Stored) -> Iterator[tuple[str, Changed]]:
    half = 1 << (stored.bits - 1)

    def moved(sub_NS: np.ndarray, by: int) -> np.ndarray:
        return sub_NS + by

    def as_signed(sub_NS: np.ndarray) -> np.ndarray:
        number = stored.number(sub_NS)
        return np.where(number >= half, number - 2 * half, number).astype(np.float64)

    for centre in dict.fromkeys((0, 8, 16, 31, 32, 33, half)):
        if centre != stored.centre and not stored.signed:
            yield (
                f"are less by {centre} than is stored, and ought to be by {stored.centre}",
                partial(moved, by=stored.centre - centre),
            )
    if not stored.signed:
        yield f"are read as signed numbers of {stored.bits} bits", as_signed


def _masked(
    sub_NS: Float64[np.ndarray, "N S"], *, stored: Stored, first: int, mask: int
) -> Float64[np.ndarray, "N S"]:
    kept = stored.value(stored.number(sub_NS) & mask & ((1 << stored.bits) - 1))
    return np.where(np.arange(sub_NS.shape[1]) >= first, kept, sub_NS)


def _exchanged(
    sub_NS: Float64[np.ndarray, "N S"], *, stored: Stored
) -> Float64[np.ndarray, "N S"]:
    number = stored.number(sub_NS)
    low = (1 << stored.low) - 1
    return stored.value((number & low) << stored.low | number >> stored.low)


def of_other_sub_blocks(
    kind: BlockType, orders: Int64[np.ndarray, "n S"]
) -> Iterator[tuple[str, Int64[np.ndarray, "S"], Changed]]:
    """The low or the high bits are those of another sub-block, for types that part them."""
    stored = STORED.get(kind)
    if stored is None or kind is not BlockType.Q3_K:
        return
    for words, is_low in (("low", True), ("high", False)):
        for order in orders:
            yield words, order, partial(_parted, stored=stored, order=order, is_low=is_low)


def _parted(
    sub_NS: Float64[np.ndarray, "N S"],
    *,
    stored: Stored,
    order: Int64[np.ndarray, "S"],
    is_low: bool,
) -> Float64[np.ndarray, "N S"]:
    number = stored.number(sub_NS)
    low = (1 << stored.low) - 1
    moved = number[:, order]
    joined = (moved & low) | (number & ~low) if is_low else (number & low) | (moved & ~low)
    return stored.value(joined)
