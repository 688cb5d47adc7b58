"""Blocks read in a way that nobody listed: bits, orders and scales found from the outputs.

A product is linear in every part of a block. So how much each bit of the codes counts, what
is added to every code, and how much the minimum counts are a small system of linear
equations, solved for a few rows and all tokens. A digit (the low four bits, the high ones)
that is read at another place of its block is found by its order: every exchange, reversal
and turn of the place's own bits, and every roll. What explains the sample is multiplied
whole and judged.

Shape letters: T tokens, N blocks, W values and Y bytes of a block, S sub-blocks, R rows
(outputs), C columns (inputs), G groups of I places.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.arithmetic import ROUNDINGS
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.blocks.block_scales import scale_readings
from cotejar.diagnosis.hypotheses.blocks.code_values import code_value_readings
from cotejar.diagnosis.hypotheses.blocks.split_blocks import (
    Sample,
    place_orders,
    shown_order,
    split,
    stored_blocks,
)
from cotejar.diagnosis.hypotheses.numbers import factor_text
from cotejar.diagnosis.hypotheses.product.variant_product import multiply_variant
from cotejar.diagnosis.operations import Project
from cotejar.diagnosis.weight_variants import (
    CENTRE,
    CODE_BITS,
    Rows,
    WeightVariant,
)
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import UNPACKERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float64, Int64, UInt8

    from cotejar.diagnosis.case import Case
    from cotejar.diagnosis.hypotheses.blocks.split_blocks import Change, Reading, Split
    from cotejar.quant.block_matrix import BlockMatrix

_BETTER = 20.0
"""What is worth a whole product leaves so many times less of the sample, at every token."""

_LOW_BITS = {
    BlockType.Q3_K: 2,
    BlockType.Q5_0: 4,
    BlockType.Q5_1: 4,
    BlockType.Q5_K: 4,
    BlockType.Q6_K: 4,
}
"""Types that store the high bits of their codes apart: how many the low part has."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a product with a quantised weight of whole blocks."""
    if not isinstance(case.operation.step, Project) or case.project.softcap is not None:
        return
    matrix = case.matrix
    kind = matrix.block_type
    if kind not in CODE_BITS or matrix.columns % kind.elements_per_block:
        return
    for given in case.givens:
        sample = Sample.of(case, given)
        before = sample.left(sample.split)
        found = _changes(sample, kind)
        for id_, title, numbers, change in found:
            read = partial(_read, kind=kind, change=change)
            after = sample.left(read(sample.raw))
            if not (after * _BETTER <= before).all():
                case.screened.append(title)
                continue
            variant = WeightVariant(id=id_, title=title, rows=_reader(matrix, read))
            yield Alternative(
                id=id_,
                title=title,
                output=case.finish(multiply_variant(variant, given, matrix)),
                parameters=numbers,
            )


def _read(raw_NY: UInt8[np.ndarray, "N Y"], *, kind: BlockType, change: Change) -> Split:
    """Blocks with their bytes in another order, or what they hold read in another way."""
    if isinstance(change, np.ndarray):
        return split(UNPACKERS[kind](np.ascontiguousarray(raw_NY[:, change])), kind)
    return change(split(UNPACKERS[kind](raw_NY), kind))


def _reader(
    matrix: BlockMatrix, read: Callable[[np.ndarray], Split]
) -> Callable[[int, int], Rows]:
    def rows(start: int, stop: int) -> Rows:
        return read(stored_blocks(matrix, start, stop)).rows(stop - start)

    return rows


def _changes(sample: Sample, kind: BlockType) -> Iterator[Reading]:
    yield from _bits(sample, kind)
    yield from _cut_codes(kind)
    yield from _packed_scales(kind)
    yield from _orders(sample, kind)
    yield from _code_bytes(kind)
    yield from scale_readings(sample, kind)
    yield from code_value_readings(sample, kind)


def _cut_codes(kind: BlockType) -> Iterator[Reading]:
    """Every code is moved, and what leaves the range stays at its end."""
    centre, bits = CENTRE.get(kind, 0), CODE_BITS[kind]
    low, high = (-128, 127) if kind is BlockType.Q8_0 else (-centre, (1 << bits) - 1 - centre)
    for number in (1, -1, 2, -2):

        def cut(blocks: Split, number: int = number) -> Split:
            return replace(blocks, codes=np.clip(blocks.codes + number, low, high))

        words = f"codes are {abs(number)} too {'large' if number > 0 else 'small'}"
        yield "code-offset", f"{words}, and cut to their range", 0, cut


_PACKED = {BlockType.Q4_K: 144, BlockType.Q5_K: 176}
"""Types whose bytes 4 to 16 hold sub-scales and sub-minima of 6 bits, and a block's bytes."""


def _packed_scales(kind: BlockType) -> Iterator[Reading]:
    """The packed bytes in another order: in fours, and one by one."""
    if kind not in _PACKED:
        return
    whole = np.arange(_PACKED[kind])
    fours = np.arange(4, 16).reshape(3, 4)
    for order in permutations(range(3)):
        if order != (0, 1, 2):
            moved = whole.copy()
            moved[4:16] = fours[list(order)].reshape(-1)
            shown = " ".join(str(4 + 4 * i) for i in order)
            yield "sub-scales", f"the packed bytes of scales are read from {shown}", 0, moved
    for words, bytes_ in (
        ("backwards", whole[4:16][::-1]),
        ("in fours that are backwards", fours[:, ::-1].reshape(-1)),
        ("one late", np.roll(whole[4:16], 1)),
        ("one early", np.roll(whole[4:16], -1)),
    ):
        moved = whole.copy()
        moved[4:16] = bytes_
        yield "sub-scales", f"the packed bytes of scales are read {words}", 0, moved


_CODE_BYTES = {
    BlockType.Q2_K: (16, 80, 84),
    BlockType.Q3_K: (32, 96, 110),
    BlockType.Q4_K: (16, 144, 144),
    BlockType.Q5_K: (48, 176, 176),
    BlockType.Q6_K: (0, 128, 210),
}
"""Where the bytes of codes begin and end, of the high bits of codes aside; and a block."""


def _code_bytes(kind: BlockType) -> Iterator[Reading]:
    """The bytes of codes in another order, which is none of whole codes in some types."""
    if kind not in _CODE_BYTES:
        return
    first, last, size = _CODE_BYTES[kind]
    stored = np.arange(first, last)
    for words, order in (
        ("backwards", stored[::-1]),
        *((f"backwards in each {n}", _backwards_in(stored, n)) for n in (16, 32, 64)),
        *((f"{n} late", np.roll(stored, n)) for n in (1, 16)),
        *((f"{n} early", np.roll(stored, -n)) for n in (1, 16)),
        *((f"in runs of {n} backwards", _runs_backwards(stored, n)) for n in (16, 32)),
    ):
        moved = np.arange(size)
        moved[first:last] = order
        yield "code-order", f"the bytes of codes are read {words}", 1, moved


def _backwards_in(stored: Int64[np.ndarray, "Y"], size: int) -> Int64[np.ndarray, "Y"]:
    turned: np.ndarray = stored.reshape(-1, size)[:, ::-1].reshape(-1)
    return turned


def _runs_backwards(stored: Int64[np.ndarray, "Y"], size: int) -> Int64[np.ndarray, "Y"]:
    turned: np.ndarray = stored.reshape(-1, size)[::-1].reshape(-1)
    return turned


# --- how much each bit counts ----------------------------------------------------------


def _stored(codes: Float64[np.ndarray, "N W"], kind: BlockType) -> Int64[np.ndarray, "N W"]:
    """Codes as the unsigned numbers that are stored."""
    whole = codes.astype(np.int64) + CENTRE.get(kind, 0)
    result: np.ndarray = whole & ((1 << CODE_BITS[kind]) - 1)
    return result


def _bits(sample: Sample, kind: BlockType) -> Iterator[Reading]:
    """Least squares over the bits' worths, a constant, and the minimum's worth."""
    blocks, bits, centre = sample.split, CODE_BITS[kind], CENTRE.get(kind, 0)
    stored, spread = _stored(blocks.codes, kind), blocks.spread
    columns = [sample.product(spread * (stored >> bit & 1)) for bit in range(bits)]
    columns += [sample.product(spread)]
    has_offset = bool(blocks.offset.any())
    if has_offset:
        columns.append(sample.product(blocks.added))
    if sample.wanted.size < 4 * len(columns):
        return
    even = 1 / np.maximum(np.linalg.norm(sample.wanted, axis=1, keepdims=True), 1e-300)
    matrix = np.stack([(column * even).reshape(-1) for column in columns], axis=1)
    found = np.linalg.lstsq(matrix, (sample.wanted * even).reshape(-1), rcond=None)[0]
    worth = 2.0 ** np.arange(bits)
    if kind is BlockType.Q8_0:
        worth[-1] = -worth[-1]  # two's complement
    right = np.array([*worth, -centre, *([1.0] if has_offset else [])])
    # Worths of bits are whole or half numbers, whatever went wrong.
    fitted = np.rint(found * 2) / 2 + 0.0  # no -0
    if (fitted == right).all():
        return
    id_, title, numbers = _name_bits(fitted, right, bits, has_offset=has_offset)

    def change(blocks: Split) -> Split:
        stored = _stored(blocks.codes, kind)
        codes = fitted[bits] + sum(fitted[bit] * (stored >> bit & 1) for bit in range(bits))
        offset = blocks.offset * fitted[bits + 1] if has_offset else blocks.offset
        return replace(blocks, codes=codes, offset=offset)

    yield id_, title, numbers, change
    added = float(fitted[bits] - right[bits])
    if blocks.has_block_sums and added and id_ == "code-offset":
        # A zero point that was folded into the stored minimum, which is a float16.
        yield (
            "block-offset",
            f"minima are {factor_text(added)} scales too large (another zero point)",
            numbers,
            lambda b: replace(b, offset=ROUNDINGS["f16"](b.offset + added * b.scale)),
        )


def _name_bits(
    fitted: Float64[np.ndarray, "n"],
    right: Float64[np.ndarray, "n"],
    bits: int,
    *,
    has_offset: bool,
) -> tuple[str, str, int]:
    wrong = np.flatnonzero(fitted[:bits] != right[:bits])
    added = float(fitted[bits] - right[bits])
    same_offset = not has_offset or fitted[-1] == right[-1]
    gains = fitted[:bits] / right[:bits]
    gain = float(gains[0])
    if len(wrong) == bits and (gains == gain).all() and fitted[bits] == gain * right[bits]:
        also = "" if same_offset else f", the minimum by {fitted[-1]:g}"
        return "block-scale", f"scales are multiplied by {factor_text(gain)}{also}", 1
    inverted = fitted[:bits] == -right[:bits]
    if len(wrong) and inverted[wrong].all() and added == right[wrong].sum() and same_offset:
        which = "bit" if len(wrong) == 1 else "bits"
        names = " and ".join(map(str, wrong))
        return "code-bits", f"{which} {names} of each code inverted", len(wrong)
    said = [
        f"bit {bit} of a code counts {fitted[bit]:g}, not {right[bit]:g}" for bit in wrong[:3]
    ]
    said += [f"and {len(wrong) - 3} more bits"] if len(wrong) > 3 else []  # noqa: PLR2004 - those shown
    if added:
        words = "large" if added > 0 else "small"
        said.append(f"codes are {abs(added):g} too {words} (another zero point)")
    if not same_offset:
        said.append(f"the minimum counts {fitted[-1]:g} times")
    id_ = "code-bits" if len(wrong) else "code-offset" if added else "block-offset"
    return id_, ", ".join(said), len(wrong) + bool(added) + (not same_offset)


# --- which place each digit is read from -------------------------------------------------


def _digits(
    blocks: Split, kind: BlockType
) -> Iterator[tuple[str, Float64[np.ndarray, "N W"], Float64[np.ndarray, "N W"]]]:
    """Its name, the digit, and the rest of each code."""
    yield "codes", blocks.codes, np.zeros_like(blocks.codes)
    low_bits = _LOW_BITS.get(kind)
    if low_bits is None:
        return
    stored, centre = _stored(blocks.codes, kind), CENTRE.get(kind, 0)
    low = (stored & ((1 << low_bits) - 1)).astype(np.float64)
    high = stored - low
    yield f"the low {low_bits} bits of codes", low, high - centre
    yield "the high bits of codes", high, low - centre


def _orders(sample: Sample, kind: BlockType) -> Iterator[Reading]:
    width = kind.elements_per_block
    cuts = [(width // 32, 32), *((width // size, size) for size in (16, 8))]
    for number, (what, digit, rest) in enumerate(_digits(sample.split, kind)):
        unexplained = sample.wanted - sample.output(replace(sample.split, codes=rest))
        for groups, size in cuts:
            # Places within groups; or whole groups, each with its places as they were.
            shapes = ((groups, size, True), (groups, size, False))
            for count, inner, within in shapes:
                moving = inner if within else count
                if not 2 < moving <= 32:  # noqa: PLR2004 - 5! turns of 5 bits are few
                    continue
                order = _best_order(sample, digit, unexplained, (count, inner), within=within)
                index = np.arange(width).reshape(count, inner)
                places = (index[:, order] if within else index[order]).reshape(-1)
                where = f"within each {inner}" if within else f"in groups of {inner}"
                yield (
                    "code-order",
                    f"{what} are read in another order {where}: {shown_order(order)}",
                    1,
                    _reordered(kind, number, places),
                )


def _reordered(
    kind: BlockType, number: int, places: Int64[np.ndarray, "W"]
) -> Callable[[Split], Split]:
    def change(blocks: Split) -> Split:
        _, digit, rest = list(_digits(blocks, kind))[number]
        return replace(blocks, codes=digit[:, places] + rest)

    return change


_EQUATIONS = 96
"""Outputs that tell one order from another."""


def _best_order(
    sample: Sample,
    digit: Float64[np.ndarray, "N W"],
    unexplained: Float64[np.ndarray, "T R"],
    shape: tuple[int, int],
    *,
    within: bool,
) -> Int64[np.ndarray, "I"]:
    """The order whose outputs are nearest to those that the rest leaves unexplained."""
    tokens, rows = sample.wanted.shape
    picked = np.linspace(0, rows - 1, max(1, min(rows, _EQUATIONS // tokens))).astype(int)
    x = sample.given.values.reshape(tokens, -1, *shape)
    spread = sample.split.spread.reshape(rows, -1, *shape)
    digits = digit.reshape(rows, -1, *shape)
    letters = "tngi,ngi,ngj->tji" if within else "tngi,ngi,nhi->thg"
    pairs = np.stack(
        [np.einsum(letters, x, spread[r], digits[r], optimize=True) for r in picked], axis=1
    )
    size = pairs.shape[-1]
    flat = pairs.reshape(-1, size, size)
    orders = place_orders(size)
    wanted = unexplained[:, picked].reshape(-1)
    length = np.maximum(np.linalg.norm(unexplained, axis=1), 1e-300)
    even = np.repeat(1 / length, len(picked))
    left = np.zeros(len(orders))
    for equation, value, weight in zip(flat, wanted, even, strict=True):
        outputs = equation[orders, np.arange(size)].sum(axis=1)
        left += (weight * (outputs - value)) ** 2
    best: np.ndarray = orders[int(left.argmin())]
    return best
