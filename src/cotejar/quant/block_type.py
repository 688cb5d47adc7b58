"""The types a tensor's bytes can have: ggml's own numbers, and the two of `.apr`.

A type packs `elements_per_block` neighbouring values of a row into `bytes_per_block`
bytes. Numbers below 64 are ggml's (`enum ggml_type`); 128 and 129 are `.apr`'s own.
"""

from __future__ import annotations

import enum


class BlockType(enum.IntEnum):
    """A tensor's type. The value is ggml's type id, except for APR_Q4 and APR_Q8."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    BF16 = 30
    APR_Q4 = 128
    APR_Q8 = 129

    @property
    def elements_per_block(self) -> int:
        """Values that one block holds; for APR_Q8, whose block is the tensor, 1."""
        return _BLOCKS[self][0]

    @property
    def bytes_per_block(self) -> int:
        """Bytes of one block."""
        return _BLOCKS[self][1]

    @property
    def label(self) -> str:
        """The name in reports: `Q4_K`."""
        return self.name

    def num_bytes(self, num_elements: int) -> int:
        """Bytes that a tensor of so many values takes.

        Rounds up to whole blocks; callers that must refuse a part of a block compare
        `num_elements % elements_per_block` first.
        """
        if self is BlockType.APR_Q8:
            return 4 + num_elements
        return -(-num_elements // self.elements_per_block) * self.bytes_per_block


_BLOCKS: dict[BlockType, tuple[int, int]] = {
    BlockType.F32: (1, 4),
    BlockType.F16: (1, 2),
    BlockType.Q4_0: (32, 18),
    BlockType.Q4_1: (32, 20),
    BlockType.Q5_0: (32, 22),
    BlockType.Q5_1: (32, 24),
    BlockType.Q8_0: (32, 34),
    BlockType.Q2_K: (256, 84),
    BlockType.Q3_K: (256, 110),
    BlockType.Q4_K: (256, 144),
    BlockType.Q5_K: (256, 176),
    BlockType.Q6_K: (256, 210),
    BlockType.BF16: (1, 2),
    BlockType.APR_Q4: (32, 18),
    BlockType.APR_Q8: (1, 1),
}
