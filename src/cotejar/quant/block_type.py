"""The types a tensor's bytes can have: ggml's own numbers, and the two of `.apr`.

A type packs `elements_per_block` neighbouring values of a row into `bytes_per_block`
bytes. Numbers below 64 are ggml's (`enum ggml_type`); 128 and 129 are `.apr`'s own.

`BlockType` has a codec in this room. Of a `ListedType` only the sizes are known: a file with
such tensors can be opened and listed, and they cannot be decoded.
"""

from __future__ import annotations

import enum


class _Blocks(enum.IntEnum):
    """What every type has: a label, and the sizes of its block."""

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


class BlockType(_Blocks):
    """A type that can be decoded. The value is ggml's type id, but for APR_Q4 and APR_Q8."""

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


class ListedType(_Blocks):
    """A type of ggml's without a codec here. The value is ggml's type id."""

    Q8_1 = 9
    Q8_K = 15
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39
    NVFP4 = 40
    Q1_0 = 41
    Q2_0 = 42


_BLOCKS: dict[_Blocks, tuple[int, int]] = {
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
    ListedType.Q8_1: (32, 36),
    ListedType.Q8_K: (256, 292),
    ListedType.IQ2_XXS: (256, 66),
    ListedType.IQ2_XS: (256, 74),
    ListedType.IQ3_XXS: (256, 98),
    ListedType.IQ1_S: (256, 50),
    ListedType.IQ4_NL: (32, 18),
    ListedType.IQ3_S: (256, 110),
    ListedType.IQ2_S: (256, 82),
    ListedType.IQ4_XS: (256, 136),
    ListedType.I8: (1, 1),
    ListedType.I16: (1, 2),
    ListedType.I32: (1, 4),
    ListedType.I64: (1, 8),
    ListedType.F64: (1, 8),
    ListedType.IQ1_M: (256, 56),
    ListedType.TQ1_0: (256, 54),
    ListedType.TQ2_0: (256, 66),
    ListedType.MXFP4: (32, 17),
    ListedType.NVFP4: (64, 36),
    ListedType.Q1_0: (128, 18),
    ListedType.Q2_0: (64, 18),
}
"""(values, bytes) of a block, as ggml's type traits have them."""
