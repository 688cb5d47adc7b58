"""A weight matrix that stays in its blocks.

Models hold these: the bytes are a view of the mapped file, and only the rows that someone
asks for are ever decoded, so a model larger than memory can be read row by row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cotejar.quant.apr_types import split_apr_q8
from cotejar.quant.block_parts import BlockParts
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import UNPACKERS, check_matrix, check_rows, decode, decode_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float32, UInt8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BlockMatrix:
    """`rows x columns` weights, row-major; a matrix product sums over the columns.

    Raises:
        TensorShapeError: the bytes are not those of such a matrix, or a row is not a whole
            number of blocks (APR_Q4, whose blocks may cross rows, excepted).
    """

    block_type: BlockType
    rows: int
    """Outputs of the matrix product."""
    columns: int
    """Inputs of the matrix product."""
    raw: UInt8[np.ndarray, "Y"]
    """Exactly the matrix's bytes; may be read-only."""

    def __post_init__(self) -> None:
        check_matrix(self.block_type, self.raw, self.rows, self.columns)

    def decode_rows(self, start: int, stop: int) -> Float32[np.ndarray, "R C"]:
        """Rows start..stop as float32, with the bits that ggml's decoder gives.

        Raises:
            TensorShapeError: there are no such rows.
        """
        return decode_rows(self.block_type, self.raw, self.rows, self.columns, start, stop)

    def decode_picked(self, rows: Sequence[int]) -> Float32[np.ndarray, "R C"]:
        """The rows of these numbers, in their order, as `decode_rows` gives each.

        Raises:
            TensorShapeError: there is no such row, or none is asked for.
        """
        crossing = self.columns % self.block_type.elements_per_block
        in_range = len(rows) > 0 and min(rows) >= 0 and max(rows) < self.rows
        if not in_range or crossing or self.block_type is BlockType.APR_Q8:
            first, last = min(rows, default=0), max(rows, default=-1)
            check_rows(self.block_type, self.rows, first, last + 1)
            return np.concatenate([self.decode_rows(row, row + 1) for row in rows])
        picked = self.raw.reshape(self.rows, -1)[np.asarray(rows)].reshape(-1)
        values = decode(self.block_type, picked, len(rows) * self.columns)
        return values.reshape(len(rows), self.columns)

    def unpack_rows(self, start: int, stop: int) -> BlockParts:
        """Rows start..stop as integers and scales, blocks in row order.

        For the quantised types, with rows of whole blocks. APR_Q8 is given as blocks of 32
        that share the tensor's scale.
        """
        if self.block_type is BlockType.APR_Q8:
            scale, codes = split_apr_q8(self.raw)
            codes_NW = codes[start * self.columns : stop * self.columns].reshape(-1, 32)
            return BlockParts(codes=codes_NW, scale=np.full(len(codes_NW), scale))
        row_bytes = self.columns // self.block_type.elements_per_block
        row_bytes *= self.block_type.bytes_per_block
        part = self.raw[start * row_bytes : stop * row_bytes]
        return UNPACKERS[self.block_type](part.reshape(-1, self.block_type.bytes_per_block))
