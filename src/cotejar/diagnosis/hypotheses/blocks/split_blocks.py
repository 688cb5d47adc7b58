"""Blocks taken apart into numbers that no reading can overflow, and a sample of their rows.

Shape letters: T tokens, N blocks, W values and Y bytes of a block, S sub-blocks, R rows
(outputs), I places.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cotejar.diagnosis.arithmetic import DECODED_GROUPS, blocks_in_groups
from cotejar.diagnosis.weight_variants import Rows
from cotejar.quant.block_parts import BlockParts
from cotejar.quant.codec import UNPACKERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float64, Int64, UInt8

    from cotejar.diagnosis.arithmetic import ProductInput
    from cotejar.diagnosis.case import Case
    from cotejar.quant.block_matrix import BlockMatrix
    from cotejar.quant.block_type import BlockType

_SAMPLE_ROWS, _FEWEST_ROWS = 48, 8
_SAMPLE_VALUES = 48 * 1024
"""Rows, from all over the weight, whose outputs are solved for; of wide rows, fewer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Blocks taken apart, in numbers that no reading can overflow."""

    codes: Float64[np.ndarray, "N W"]
    scale: Float64[np.ndarray, "N 1"]
    sub_scales: Float64[np.ndarray, "N S"]
    offset: Float64[np.ndarray, "N 1"]
    sub_offsets: Float64[np.ndarray, "N S"]
    kind: BlockType
    has_offsets: bool
    """The type has such: else `offset` counts as 0."""
    has_block_sums: bool
    """The type's activations keep a block's sum apart."""

    @property
    def spread(self) -> Float64[np.ndarray, "N W"]:
        """What multiplies each code."""
        return self._to_width(self.scale * self.sub_scales)

    @property
    def added(self) -> Float64[np.ndarray, "N W"]:
        """What is added to each weight."""
        return self._to_width(self.offset * self.sub_offsets)

    def _to_width(self, parts_NS: Float64[np.ndarray, "N S"]) -> Float64[np.ndarray, "N W"]:
        return np.repeat(parts_NS, self.codes.shape[1] // parts_NS.shape[1], axis=1)

    def rows(self, num_rows: int) -> Rows:
        """Decoded."""
        values = self.codes * self.spread + self.added
        offsets = self.offset.reshape(num_rows, -1) if self.has_block_sums else None
        return Rows(
            values=values.reshape(num_rows, -1),
            offsets=offsets,
            in_groups=partial(self._in_groups, num_rows),
        )

    def _in_groups(self, num_rows: int) -> Float64[np.ndarray, "R C"]:
        if not (np.clip(np.rint(self.codes), -128, 127) == self.codes).all():
            return self.rows(num_rows).rounded(DECODED_GROUPS)  # no block holds such codes
        parts = BlockParts(
            codes=self.codes.astype(np.int8),
            scale=self.scale[:, 0].astype(np.float32),
            sub_scales=self.sub_scales,
            offset=self.offset[:, 0].astype(np.float32) if self.has_offsets else None,
            sub_offsets=self.sub_offsets,
        )
        return blocks_in_groups(parts, self.kind, num_rows)


Change: TypeAlias = "Callable[[Split], Split] | Int64[np.ndarray, 'Y']"
"""What is read of blocks taken apart; or the order of a block's bytes."""
Reading: TypeAlias = tuple[str, str, int, Change]
"""Id, title, numbers fitted, and the change."""


def split(parts: BlockParts, kind: BlockType) -> Split:
    """As float64, with ones and zeros for what the type lacks."""
    blocks = len(parts.codes)
    sub = 1 if parts.sub_scales is None else parts.sub_scales.shape[1]

    def wide(array: np.ndarray | None, width: int, missing: float) -> np.ndarray:
        if array is None:
            return np.full((blocks, width), missing)
        return array.astype(np.float64).reshape(blocks, width)

    return Split(
        codes=parts.codes.astype(np.float64),
        scale=wide(parts.scale, 1, 1.0),
        sub_scales=wide(parts.sub_scales, sub, 1.0),
        offset=wide(parts.offset, 1, 0.0),
        sub_offsets=wide(parts.sub_offsets, sub, 1.0),
        kind=kind,
        has_offsets=parts.offset is not None,
        has_block_sums=parts.offset is not None and parts.sub_offsets is None,
    )


def stored_blocks(matrix: BlockMatrix, start: int, stop: int) -> UInt8[np.ndarray, "N Y"]:
    """The bytes of some rows' blocks."""
    kind = matrix.block_type
    per_row = matrix.columns // kind.elements_per_block
    blocks_NY = matrix.raw.reshape(-1, kind.bytes_per_block)
    return blocks_NY[start * per_row : stop * per_row]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A few rows: their blocks, what multiplied them and what was recorded."""

    raw: UInt8[np.ndarray, "N Y"]
    split: Split
    given: ProductInput
    wanted: Float64[np.ndarray, "T R"]
    """What was recorded, without the bias."""

    @classmethod
    def of(cls, case: Case, given: ProductInput) -> Sample:
        """Of the product's own weight, with an input as one numerics rounds it."""
        matrix = case.matrix
        count = min(_SAMPLE_ROWS, max(_FEWEST_ROWS, _SAMPLE_VALUES // matrix.columns))
        rows = np.unique(np.linspace(0, matrix.rows - 1, count).astype(int))
        raw = np.concatenate([stored_blocks(matrix, int(r), int(r) + 1) for r in rows])
        wanted = case.recorded_rows[:, rows]
        if case.bias is not None:
            wanted = wanted - case.bias[rows]
        blocks = split(UNPACKERS[matrix.block_type](raw), matrix.block_type)
        return cls(raw=raw, split=blocks, given=given, wanted=wanted)

    def product(self, weight: np.ndarray) -> Float64[np.ndarray, "T R"]:
        """The input times any N x W numbers of these rows."""
        result: np.ndarray = self.given.values @ weight.reshape(self.wanted.shape[1], -1).T
        return result

    def output(self, changed: Split) -> Float64[np.ndarray, "T R"]:
        """Of blocks read in another way."""
        rows = changed.rows(self.wanted.shape[1])
        output: np.ndarray = self.given.values @ rows.rounded(self.given.weights).T
        if rows.offsets is not None and self.given.excess is not None:
            output = output + self.given.excess @ rows.offsets.T
        return output

    def left(self, changed: Split) -> Float64[np.ndarray, "T"]:
        """Length, token by token, of what that reading does not explain."""
        result: np.ndarray = np.linalg.norm(self.wanted - self.output(changed), axis=1)
        return result


def place_orders(size: int) -> Int64[np.ndarray, "n I"]:
    """Permutations of `size` places: their bits exchanged, turned round; and rolls."""
    bits = size.bit_length() - 1
    index = np.arange(size)
    digits = index[:, None] >> np.arange(bits) & 1
    turned = np.stack(
        [(digits[:, list(p)] << np.arange(bits)).sum(1) for p in permutations(range(bits))]
    )
    found = (turned[:, None, :] ^ index[None, :, None]).reshape(-1, size)
    rolls = (index[None, :] + index[1:, None]) % size
    whole: np.ndarray = np.concatenate([found, rolls])
    moved: np.ndarray = whole[(whole != index).any(axis=1)]
    return moved


def shown_order(order: Int64[np.ndarray, "I"]) -> str:
    """Its first places, for a title."""
    return " ".join(str(i) for i in order[:8]) + (" ..." if len(order) > 8 else "")  # noqa: PLR2004 - those shown
