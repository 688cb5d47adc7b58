"""Scales and sub-scales of blocks read in another way: order, bytes, rounding, sign.

Shape letters: N blocks, S sub-blocks, Y bytes of a block.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cotejar.diagnosis.arithmetic import ROUNDINGS
from cotejar.diagnosis.block_headers import HEADERS
from cotejar.diagnosis.hypotheses.blocks.split_blocks import place_orders, shown_order
from cotejar.diagnosis.hypotheses.blocks.sub_scale_bits import (
    of_other_sub_blocks,
    sub_scale_bits,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jaxtyping import Int64

    from cotejar.diagnosis.hypotheses.blocks.split_blocks import Reading, Sample, Split
    from cotejar.quant.block_type import BlockType


def scale_readings(sample: Sample, kind: BlockType) -> Iterator[Reading]:
    """All of them."""
    yield from _sub_orders(sample)
    yield from _bits_of_sub_scales(sample, kind)
    yield from _scales(sample.split)
    yield from _byte_orders(kind)


def _sub_orders(sample: Sample) -> Iterator[Reading]:
    """Sub-scales, sub-minima or both, of another sub-block."""
    count = sample.split.sub_scales.shape[1]
    if count <= 2:  # noqa: PLR2004 - nothing to exchange
        return
    names = {"sub_scales": "sub-scales", "sub_offsets": "sub-minima"}
    has_minima = bool((sample.split.sub_offsets != 1).any())
    sets = [["sub_scales"]] + ([["sub_offsets"], [*names]] if has_minima else [])
    for fields in sets:
        best, least = None, np.inf
        for order in place_orders(count):
            left = float(sample.left(_moved(sample.split, fields=fields, order=order)).sum())
            if left < least:
                best, least = order, left
        if best is None:
            continue
        what = " and ".join(names[field] for field in fields)
        yield (
            "sub-scales",
            f"{what} are those of another sub-block: {shown_order(best)}",
            1,
            partial(_moved, fields=fields, order=best),
        )


_SUB_PARTS = {
    "sub-scales": ["sub_scales"],
    "sub-minima": ["sub_offsets"],
    "sub-scales and sub-minima": ["sub_scales", "sub_offsets"],
}


def _bits_of_sub_scales(sample: Sample, kind: BlockType) -> Iterator[Reading]:
    """Some of their bits lost or another's; of the second, the order that leaves least."""
    blocks = sample.split
    count = blocks.sub_scales.shape[1]
    has_minima = bool((blocks.sub_offsets != 1).any())
    for what, fields in _SUB_PARTS.items():
        if not has_minima and "sub_offsets" in fields:
            continue
        for words, changed in sub_scale_bits(kind, count):
            change = partial(_changed, fields=fields, by=changed)
            yield "sub-scales", f"{what} {words}", 0, change
    best, least = None, np.inf
    for part, order, changed in of_other_sub_blocks(kind, place_orders(count)):
        change = partial(_changed, fields=["sub_scales"], by=changed)
        left = float(sample.left(change(blocks)).sum())
        if left < least:
            best, least = (part, order, change), left
    if best is not None:
        part, order, change = best
        words = f"the {part} bits of sub-scales are those of another sub-block"
        yield "sub-scales", f"{words}: {shown_order(order)}", 1, change


def _moved(blocks: Split, *, fields: list[str], order: Int64[np.ndarray, "S"]) -> Split:
    return _changed(blocks, fields=fields, by=lambda values_NS: values_NS[:, order])


def _masked(blocks: Split) -> Iterator[Reading]:
    """Sub-minima that lose high bits; of sub-scales, others ask."""
    if not (blocks.sub_offsets != 1).any():
        return
    for bits in (3, 4, 5):
        for first in (0, 4):  # K-quants pack the last four in another way than the first

            def low(sub_NS: np.ndarray, bits: int = bits, first: int = first) -> np.ndarray:
                kept: np.ndarray = sub_NS.astype(np.int64) & ((1 << bits) - 1)
                return np.where(np.arange(sub_NS.shape[1]) >= first, kept, sub_NS)

            where = f" from {first} on" if first else ""
            yield (
                "sub-scales",
                f"sub-minima{where} keep {bits} low bits alone",
                0,
                partial(_changed, fields=["sub_offsets"], by=low),
            )


def _changed(
    blocks: Split, *, fields: list[str], by: Callable[[np.ndarray], np.ndarray]
) -> Split:
    changes: dict[str, Any] = {field: by(getattr(blocks, field)) for field in fields}
    return replace(blocks, **changes)


def _byte_orders(kind: BlockType) -> Iterator[Reading]:
    """Bytes of scales and packed sub-scales, in every word of two or four bytes."""
    for name, ranges in HEADERS.get(kind, {}).items():
        for first, last in ranges:
            width = 4 if (last - first) % 4 == 0 else 2
            words = [slice(a, a + width) for a in range(first, last, width)]
            sets = [[word] for word in words] + ([words] if len(words) > 1 else [])
            for chosen in sets:
                for order in place_orders(width):
                    places = np.arange(kind.bytes_per_block)
                    for word in chosen:
                        places[word] = places[word][order]
                    where = f"{chosen[0].start}..{chosen[-1].stop}"
                    yield (
                        "sub-scales" if name == "sub-scales" else "block-scale",
                        f"bytes {where} of each block ({name}) are read in the order "
                        f"{shown_order(order)} of every {width}",
                        1,
                        places,
                    )


# --- scales ------------------------------------------------------------------------------


def _power_of_2(x: np.ndarray) -> np.ndarray:
    size = np.where(x == 0, 1.0, np.abs(x))
    result: np.ndarray = np.sign(x) * 2.0 ** np.rint(np.log2(size))
    return result


def _as_bf16_bits(x: np.ndarray) -> np.ndarray:
    bits = x.astype(np.float16).view(np.uint16).astype(np.uint32) << np.uint32(16)
    return bits.view(np.float32).astype(np.float64)


_OF_SUB_SCALES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "lose their sign": np.abs,
    "lose their sign, -128 becoming 127": lambda s: np.minimum(np.abs(s), 127.0),
    "are 0 where negative": lambda s: np.maximum(s, 0.0),
    "are read as unsigned bytes": lambda s: np.where(s < 0, s + 256, s),
    "have their highest bit left out": lambda s: np.where(s < 0, s + 128, s),
    "have the other sign": np.negative,
    "are one too large": lambda s: s + 1,
    "are one too small": lambda s: s - 1,
}
"""How signed sub-scales may be misread, by name."""


def _scales(blocks: Split) -> Iterator[Reading]:
    """Block scales in a coarser type, sub-scales whose sign is misread."""
    roundings: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "to bf16": ROUNDINGS["bf16"],
        "to bf16 by cutting": ROUNDINGS["bf16 cut"],
        "to a power of 2": _power_of_2,
    }
    has_offset = bool(blocks.offset.any())
    for words, rounded in roundings.items():
        for fields in (
            (["scale"], ["offset"], ["scale", "offset"]) if has_offset else (["scale"],)
        ):
            names = " and ".join("minima" if f == "offset" else "scales" for f in fields)
            yield (
                "scale-rounded",
                f"the blocks' {names} are rounded {words}",
                0,
                partial(_changed, fields=fields, by=rounded),
            )
    if blocks.sub_scales.shape[1] > 1:
        for words, changed in _OF_SUB_SCALES.items():
            yield (
                "sub-scales",
                f"sub-scales {words}",
                0,
                partial(_changed, fields=["sub_scales"], by=changed),
            )
    yield from _masked(blocks)
    yield (
        "block-scale",
        "the bits of scales, a float16, are read as bf16",
        0,
        partial(_changed, fields=["scale"], by=_as_bf16_bits),
    )
    yield (
        "block-scale",
        "scales lose their sign",
        0,
        partial(_changed, fields=["scale"], by=np.abs),
    )
