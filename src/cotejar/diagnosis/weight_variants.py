"""A weight's bytes read in another way: the wrong nibble first, the next block's scale, ...

Each variant gives any rows of the misread weight, decoded, so that a few rows tell whether it
is worth to multiply the whole.

Shape letters: N blocks, W values of a block, R rows (outputs), C columns (inputs), B blocks
of a row, S sub-blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.arithmetic import (
    GROUPS,
    ROUNDINGS,
    blocks_in_groups,
    can_round,
    weight_rows,
)
from cotejar.diagnosis.block_headers import HEADERS, neighbours
from cotejar.diagnosis.column_orders import column_orders
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float64, UInt8

    from cotejar.quant.block_matrix import BlockMatrix
    from cotejar.quant.block_parts import BlockParts

NIBBLES = {
    BlockType.Q4_0: (2, 18),
    BlockType.Q4_1: (4, 20),
    BlockType.Q5_0: (6, 22),
    BlockType.Q5_1: (8, 24),
    BlockType.Q4_K: (16, 144),
    BlockType.Q5_K: (48, 176),
    BlockType.Q6_K: (0, 128),
    BlockType.APR_Q4: (2, 18),
}
"""Which bytes of a block hold two 4-bit codes each."""

_SPLITTABLE = frozenset(BlockType) - {
    BlockType.F32,
    BlockType.F16,
    BlockType.BF16,
    BlockType.APR_Q4,
    BlockType.APR_Q8,
}
"""Types whose rows are whole blocks of integers and scales."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Some rows of a weight, decoded."""

    values: Float64[np.ndarray, "R C"]
    offsets: Float64[np.ndarray, "R B"] | None = None
    """What a block adds to each of its weights; where the type has such."""
    in_groups: Callable[[], Float64[np.ndarray, "R C"]] | None = None
    """What `w8a8` makes of the blocks; None where they were decoded first."""

    def rounded(self, how: str) -> Float64[np.ndarray, "R C"]:
        """The values as they are multiplied: see `Arithmetic.weights`."""
        if how == GROUPS and self.in_groups is not None:
            return self.in_groups()
        return ROUNDINGS[how](self.values)


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightVariant:
    """One way to misread."""

    id: str
    title: str
    rows: Callable[[int, int], Rows]


def weight_variants(matrix: BlockMatrix) -> Iterator[WeightVariant]:
    """Every way to misread this weight that its type has."""
    yield from _moved_blocks(matrix)
    if matrix.block_type in NIBBLES:
        yield from _nibbles(matrix)
    if matrix.block_type in HEADERS and _has_whole_rows(matrix):
        yield from _headers(matrix)
        yield from _other_byte_order(matrix)
    if matrix.block_type in _SPLITTABLE:
        yield from _parts(matrix)
    yield from _moved_columns(matrix)
    yield from _rounded(matrix)


def plain_rows(matrix: BlockMatrix, start: int, stop: int) -> Rows:
    """Rows as they are."""
    in_groups = partial(weight_rows, matrix, start, stop, GROUPS)
    if matrix.block_type in {BlockType.Q4_1, BlockType.Q5_1}:
        parts = matrix.unpack_rows(start, stop)
        return replace(_decode(parts, matrix.block_type, stop - start), in_groups=in_groups)
    values_RC = matrix.decode_rows(start, stop).astype(np.float64)
    return Rows(values=values_RC, in_groups=in_groups)


def _decode(parts: BlockParts, kind: BlockType, num_rows: int) -> Rows:
    values = np.empty(parts.codes.shape, np.float32)
    with np.errstate(all="ignore"):
        parts.weights(values)
    offset_RB = None
    if parts.offset is not None and parts.sub_offsets is None:
        offset_RB = parts.offset.astype(np.float64).reshape(num_rows, -1)
    return Rows(
        values=values.astype(np.float64).reshape(num_rows, -1),
        offsets=offset_RB,
        in_groups=partial(blocks_in_groups, parts, kind, num_rows),
    )


def _from_bytes(
    matrix: BlockMatrix, change: Callable[[int, int], UInt8[np.ndarray, "N Y"]]
) -> Callable[[int, int], Rows]:
    """Rows of which `change` gives the blocks' bytes."""

    def rows(start: int, stop: int) -> Rows:
        raw = np.ascontiguousarray(change(start, stop)).reshape(-1)
        part = replace(matrix, rows=stop - start, raw=raw)
        return plain_rows(part, 0, stop - start)

    return rows


def _blocks(matrix: BlockMatrix) -> tuple[UInt8[np.ndarray, "N Y"], int]:
    """All blocks, and how many make a row."""
    per_row = matrix.columns // matrix.block_type.elements_per_block
    return matrix.raw.reshape(-1, matrix.block_type.bytes_per_block), per_row


def _has_whole_rows(matrix: BlockMatrix) -> bool:
    kind = matrix.block_type
    return kind is not BlockType.APR_Q8 and matrix.columns % kind.elements_per_block == 0


def _moved_blocks(matrix: BlockMatrix) -> Iterator[WeightVariant]:
    if not _has_whole_rows(matrix):
        return
    blocks_NY, per_row = _blocks(matrix)
    steps = {
        1: "one block",
        -1: "one block",
        2: "two blocks",
        -2: "two blocks",
        per_row: "one row",
        -per_row: "one row",
    }
    for step, size in steps.items():

        def shifted(start: int, stop: int, step: int = step) -> np.ndarray:
            index = np.arange(start * per_row, stop * per_row) - step
            return blocks_NY[index % len(blocks_NY)]

        def held(start: int, stop: int, step: int = step) -> np.ndarray:
            index = np.arange(start * per_row, stop * per_row) - step
            return blocks_NY[np.clip(index, 0, len(blocks_NY) - 1)]

        late = "late" if step > 0 else "early"
        id_ = "rows-shifted" if size == "one row" else "block-shift"
        title = f"the weight is read {size} {late}"
        yield WeightVariant(id=id_, title=title, rows=_from_bytes(matrix, shifted))
        yield WeightVariant(id=id_, title=title, rows=_from_bytes(matrix, held))
        if abs(step) < per_row:

            def rolled(start: int, stop: int, step: int = step) -> np.ndarray:
                part = blocks_NY[start * per_row : stop * per_row]
                by_row = part.reshape(stop - start, per_row, -1)
                return np.roll(by_row, step, axis=1).reshape(len(part), -1)

            def held_by_row(start: int, stop: int, step: int = step) -> np.ndarray:
                part = blocks_NY[start * per_row : stop * per_row]
                index = np.clip(np.arange(per_row) - step, 0, per_row - 1)
                return part.reshape(stop - start, per_row, -1)[:, index].reshape(len(part), -1)

            for tail, rows in (
                ("", rolled),
                (f", its {'first' if step > 0 else 'last'} twice", held_by_row),
            ):
                yield WeightVariant(
                    id="block-shift",
                    title=f"each row is read {size} {late}{tail}",
                    rows=_from_bytes(matrix, rows),
                )


def _headers(matrix: BlockMatrix) -> Iterator[WeightVariant]:
    """A block with the scale of a neighbour: across rows, and within each row."""
    blocks_NY, per_row = _blocks(matrix)
    parts = HEADERS[matrix.block_type]
    sets = [(name,) for name in parts] + ([tuple(parts)] if len(parts) > 1 else [])
    sets += [("scale", "offset")] if len(parts) > 2 and "offset" in parts else []  # noqa: PLR2004 - else it is all
    for names in sets:
        bytes_ = [
            b for name in names for first, stop in parts[name] for b in range(first, stop)
        ]
        for words, neighbour in neighbours(len(blocks_NY), per_row):

            def changed(
                start: int,
                stop: int,
                bytes_: list[int] = bytes_,
                neighbour: Callable[[np.ndarray], np.ndarray] = neighbour,
            ) -> np.ndarray:
                index = np.arange(start * per_row, stop * per_row)
                part = blocks_NY[index].copy()
                part[:, bytes_] = blocks_NY[neighbour(index)][:, bytes_]
                return part

            yield WeightVariant(
                id="block-scale",
                title=f"each block has the {' and '.join(names)} of {words}",
                rows=_from_bytes(matrix, changed),
            )


def _other_byte_order(matrix: BlockMatrix) -> Iterator[WeightVariant]:
    """The two bytes of each scale, and offset, in the order of the other machines."""
    blocks_NY, per_row = _blocks(matrix)
    ranges = [
        one
        for name, parts in HEADERS[matrix.block_type].items()
        if name != "sub-scales"
        for one in parts
    ]

    def swapped(start: int, stop: int) -> np.ndarray:
        part = blocks_NY[start * per_row : stop * per_row].copy()
        for first, last in ranges:
            part[:, first:last] = part[:, first:last][:, ::-1]
        return part

    yield WeightVariant(
        id="byte-order",
        title="the bytes of each block's scale change places (big-endian for little-endian)",
        rows=_from_bytes(matrix, swapped),
    )


def _nibbles(matrix: BlockMatrix) -> Iterator[WeightVariant]:
    blocks_NY, per_row = _blocks(matrix)
    first, last = NIBBLES[matrix.block_type]

    def swapped(start: int, stop: int) -> np.ndarray:
        part = blocks_NY[start * per_row : stop * per_row].copy()
        part[:, first:last] = part[:, first:last] << 4 | part[:, first:last] >> 4
        return part

    yield WeightVariant(
        id="nibble-order",
        title="the wrong half of each byte is read first",
        rows=_from_bytes(matrix, swapped),
    )


def _parts(matrix: BlockMatrix) -> Iterator[WeightVariant]:
    def variant(
        id_: str, title: str, change: Callable[[BlockParts], BlockParts]
    ) -> WeightVariant:
        def rows(start: int, stop: int) -> Rows:
            parts = change(matrix.unpack_rows(start, stop))
            return _decode(parts, matrix.block_type, stop - start)

        return WeightVariant(id=id_, title=title, rows=rows)

    yield from (variant(*one) for one in _code_changes(matrix.block_type))
    yield from (variant(*one) for one in _scale_changes(matrix.block_type))


CENTRE = {BlockType.Q4_0: 8, BlockType.Q5_0: 16, BlockType.Q3_K: 4, BlockType.Q6_K: 32}
"""What is subtracted from a code."""
CODE_BITS = {
    BlockType.Q2_K: 2,
    BlockType.Q3_K: 3,
    BlockType.Q4_0: 4,
    BlockType.Q4_1: 4,
    BlockType.Q4_K: 4,
    BlockType.Q5_0: 5,
    BlockType.Q5_1: 5,
    BlockType.Q5_K: 5,
    BlockType.Q6_K: 6,
    BlockType.Q8_0: 8,
}

_WITH_MINIMUM = frozenset(
    {BlockType.Q2_K, BlockType.Q4_1, BlockType.Q4_K, BlockType.Q5_1, BlockType.Q5_K}
)

_Change = tuple[str, str, "Callable[[BlockParts], BlockParts]"]


def _code_changes(kind: BlockType) -> Iterator[_Change]:
    def moved(order: np.ndarray) -> Callable[[BlockParts], BlockParts]:
        return lambda p: replace(p, codes=np.ascontiguousarray(p.codes[:, order]))

    def added(number: int) -> Callable[[BlockParts], BlockParts]:
        return lambda p: replace(
            p, codes=np.clip(p.codes.astype(np.int16) + number, -128, 127).astype(np.int8)
        )

    width = kind.elements_per_block
    index = np.arange(width)
    for part in dict.fromkeys((width, 64, 32, 16)):
        if part > width:
            continue
        groups = index.reshape(-1, part)
        half = part // 2
        pairs = np.stack([groups[:, :half], groups[:, half:]], axis=2).reshape(-1)
        odd_even = np.concatenate([groups[:, 0::2], groups[:, 1::2]], axis=1).reshape(-1)
        halves = np.concatenate([groups[:, half:], groups[:, :half]], axis=1).reshape(-1)
        yield "nibble-order", f"codes of {part} are read in turn from both halves", moved(pairs)
        yield "nibble-order", f"codes of {part} are read as neighbours", moved(odd_even)
        yield "nibble-order", f"the halves of {part} codes change places", moved(halves)
        yield (
            "code-order",
            f"{part} codes are read backwards",
            moved(groups[:, ::-1].reshape(-1)),
        )
    yield "code-order", "neighbouring codes change places", moved(index ^ 1)
    yield "code-order", "codes are read one late", moved((index - 1) % width)
    yield "code-order", "codes are read one early", moved((index + 1) % width)
    for number in (8, -8, 16, -16, 32, -32, 1, -1):
        title = f"codes are {abs(number)} too {'large' if number > 0 else 'small'}"
        yield "code-offset", title, added(number)
    centre = CENTRE.get(kind, 0)
    bits = CODE_BITS[kind]
    half = 1 << (bits - 1)
    shown: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "are read as signed numbers": lambda n: n - ((n >= half) << bits),
        "have their highest bit turned (signed for unsigned)": lambda n: n ^ half,
        "lose their highest bit": lambda n: n & (half - 1),
        "are centred twice": lambda n: n - 2 * half,
        "are read without their centre": lambda n: n,
        "are centred on half of their range": lambda n: n - half,
        "have every bit turned": lambda n: 2 * half - 1 - n,
    }
    for words, change in shown.items():
        for base in dict.fromkeys((0, centre)):
            yield "code-sign", f"codes {words}", _reread(change, centre, base)
    yield "code-sign", "codes have the other sign", lambda p: replace(p, codes=-p.codes)
    greatest, least = half - 1, -half
    if not centre and kind not in _WITH_MINIMUM:
        yield (
            "code-offset",
            f"codes of {greatest} are read as {least}: they wrap around",
            lambda p: replace(
                p, codes=np.where(p.codes == greatest, np.int8(least), p.codes).astype(np.int8)
            ),
        )


def _reread(
    change: Callable[[np.ndarray], np.ndarray], centre: int, base: int
) -> Callable[[BlockParts], BlockParts]:
    def reread(parts: BlockParts) -> BlockParts:
        codes = change(parts.codes.astype(np.int16) + centre) - base
        return replace(parts, codes=np.clip(codes, -128, 127).astype(np.int8))

    return reread


def _scale_changes(kind: BlockType) -> Iterator[_Change]:
    yield ("block-scale", "scales are squared", lambda p: replace(p, scale=p.scale * p.scale))
    yield (
        "sub-scales",
        "sub-scales are left out",
        lambda p: p
        if p.sub_scales is None
        else replace(p, sub_scales=np.ones_like(p.sub_scales)),
    )
    yield (
        "sub-scales",
        "every sub-block takes the first sub-scale",
        lambda p: p
        if p.sub_scales is None
        else replace(
            p, sub_scales=np.repeat(p.sub_scales[:, :1], p.sub_scales.shape[1], axis=1)
        ),
    )
    for bits in (4, 5, 3):
        for both in (False, True):
            for first in (0, 4):  # K-quants pack the last four in another way than the first
                where = f" from {first} on" if first else ""
                yield (
                    "sub-scales",
                    f"sub-scales{where} keep {bits} low bits alone",
                    _masked(bits, first, minima=both),
                )
    for step, which in ((1, "before"), (-1, "after")):

        def turned(p: BlockParts, step: int = step) -> BlockParts:
            return (
                p
                if p.sub_scales is None
                else replace(p, sub_scales=np.roll(p.sub_scales, step, axis=1))
            )

        yield "sub-scales", f"sub-scales are those of the sub-block {which}", turned
    yield (
        "block-offset",
        "the blocks' offset (minimum) is left out",
        lambda p: p if p.offset is None else replace(p, offset=np.zeros_like(p.offset)),
    )
    yield (
        "block-offset",
        "the blocks' offset (minimum) has the other sign",
        lambda p: p if p.offset is None else replace(p, offset=-p.offset),
    )
    yield (
        "block-offset",
        "scale and offset (minimum) change places",
        lambda p: p if p.offset is None else replace(p, scale=p.offset, offset=p.scale),
    )
    yield (
        "block-offset",
        "scale and minimum of each block change places",
        lambda p: p if p.offset is None else replace(p, scale=-p.offset, offset=-p.scale),
    )
    if kind in {BlockType.Q4_1, BlockType.Q5_1}:
        yield (
            "block-offset",
            "the blocks' minimum is read as if codes were centred (a type without minimum)",
            lambda p: replace(p, offset=-np.float32(1 << (CODE_BITS[kind] - 1)) * p.scale),
        )
    yield (
        "block-offset",
        "sub-scales and sub-minima change places",
        lambda p: p
        if p.sub_offsets is None or p.sub_scales is None
        else replace(p, sub_scales=p.sub_offsets, sub_offsets=p.sub_scales),
    )
    if kind in {BlockType.Q5_0, BlockType.Q5_1, BlockType.Q5_K, BlockType.Q6_K}:
        centre = CENTRE.get(kind, 0)
        yield (
            "high-bits",
            "the high bits of codes are left out",
            lambda p: replace(
                p, codes=((p.codes + np.int8(centre)) & np.int8(15)) - np.int8(centre)
            ),
        )


def _masked(bits: int, first: int, *, minima: bool) -> Callable[[BlockParts], BlockParts]:
    def masked(parts: BlockParts) -> BlockParts:
        if parts.sub_scales is None:
            return parts
        mask = np.int8((1 << bits) - 1)
        scales, offsets = parts.sub_scales.copy(), parts.sub_offsets
        scales[:, first:] &= mask
        if minima and offsets is not None:
            offsets = offsets.copy()
            offsets[:, first:] &= mask
        return replace(parts, sub_scales=scales, sub_offsets=offsets)

    return masked


def _moved_columns(matrix: BlockMatrix) -> Iterator[WeightVariant]:
    """Columns in another order, as a wrong tiling or transposition of tiles gives."""
    for name, order in column_orders(matrix.columns).items():

        def rows(start: int, stop: int, order: np.ndarray = order) -> Rows:
            plain = plain_rows(matrix, start, stop)
            offset_RB = plain.offsets
            if offset_RB is not None:
                block = matrix.block_type.elements_per_block
                by_block = order.reshape(-1, block)
                whole = (by_block // block == by_block[:, :1] // block).all()
                offset_RB = offset_RB[:, by_block[:, 0] // block] if whole else None
            return Rows(values=plain.values[:, order], offsets=offset_RB)

        yield WeightVariant(id="mis-tiled", title=f"columns are read {name}", rows=rows)


def _rounded(matrix: BlockMatrix) -> Iterator[WeightVariant]:
    for how in ("f16", "bf16", "int8 a row", "int8 by 32", "int4 a row", "int4 by 32"):
        if can_round(how, matrix.columns):

            def rows(start: int, stop: int, how: str = how) -> Rows:
                values = matrix.decode_rows(start, stop).astype(np.float64)
                return Rows(values=ROUNDINGS[how](values))

            yield WeightVariant(
                id="weights-rounded", title=f"the weight is rounded to {how}", rows=rows
            )
