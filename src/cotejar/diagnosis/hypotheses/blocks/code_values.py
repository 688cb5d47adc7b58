"""Codes that are read as other numbers, one by one: cut to a range, wrapped around, exchanged.

A product is linear in the number that each code stands for. There are at most 64 of them, but
for 8 bits, and a few rows and all tokens say which. Of 8 bits a list of maps is tried.

Shape letters: T tokens, N blocks, W values of a block, R rows (outputs).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.weight_variants import CENTRE, CODE_BITS
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.hypotheses.blocks.split_blocks import Reading, Sample, Split

    Map = Callable[[np.ndarray], np.ndarray]

_EQUATIONS_EACH = 4
"""Outputs for each number that is solved for, at the least."""
_FEW = 3
"""Codes that a sentence names one by one."""


def code_value_readings(sample: Sample, kind: BlockType) -> Iterator[Reading]:
    """Every reading of single codes that the sample suggests."""
    if kind is BlockType.Q8_0:
        yield from _of_eight_bits(sample)
        return
    blocks, count = sample.split, 1 << CODE_BITS[kind]
    if sample.wanted.size < _EQUATIONS_EACH * count:
        return
    stored = blocks.codes.astype(np.int64) + CENTRE.get(kind, 0)
    spread = blocks.spread
    columns = [sample.product(spread * (stored == code)) for code in range(count)]
    rest = sample.wanted - sample.output(replace(blocks, codes=np.zeros_like(blocks.codes)))
    even = 1 / np.maximum(np.linalg.norm(sample.wanted, axis=1, keepdims=True), 1e-300)
    matrix = np.stack([(column * even).reshape(-1) for column in columns], axis=1)
    found = np.linalg.lstsq(matrix, (rest * even).reshape(-1), rcond=None)[0]
    right = np.arange(count) - CENTRE.get(kind, 0)
    used = np.bincount(stored.reshape(-1), minlength=count) > 0
    # Codes are whole or half numbers, whatever went wrong; of one that is not there, nothing
    # is known.
    read = np.where(used, np.rint(found * 2) / 2, right) + 0.0  # no -0
    if (read == right).all():
        return
    id_, title, numbers = _name(read, right)
    yield id_, title, numbers, partial(_looked_up, read=read, centre=CENTRE.get(kind, 0))


def _looked_up(blocks: Split, *, read: Float64[np.ndarray, "n"], centre: int) -> Split:
    return replace(blocks, codes=read[blocks.codes.astype(np.int64) + centre])


def _name(
    read: Float64[np.ndarray, "n"], right: Float64[np.ndarray, "n"]
) -> tuple[str, str, int]:
    """Id, title and numbers fitted, of what each code is read as."""
    if (read == np.clip(right, read.min(), read.max())).all():
        ends = [
            f"{words} {int(end)}"
            for words, end, last in (
                ("below", read.min(), right[0]),
                ("above", read.max(), right[-1]),
            )
            if end != last
        ]
        return "code-values", f"codes {' and '.join(ends)} are cut to that", len(ends)
    for step in (1, -1, 2, -2):
        if (read == np.roll(right, -step)).all():
            words = "large" if step > 0 else "small"
            return "code-offset", f"codes are {abs(step)} too {words} and wrap around", 1
    wrong = np.flatnonzero(read != right)
    if len(wrong) == 1:
        was, now = float(right[wrong[0]]), float(read[wrong[0]])
        if {was, now} == {float(right[0]), float(right[-1])}:
            return "code-offset", f"codes of {was:g} are read as {now:g}: they wrap around", 1
        return "code-values", f"codes of {was:g} are read as {now:g}", 1
    said = [f"{right[i]:g} is read as {read[i]:g}" for i in wrong[:_FEW]]
    more = f", and {len(wrong) - _FEW} more" if len(wrong) > _FEW else ""
    return "code-values", f"of the codes {', '.join(said)}{more}", len(wrong)


def _of_eight_bits(sample: Sample) -> Iterator[Reading]:
    maps: dict[str, Map] = {
        "lose their sign": np.abs,
        "are read as a sign and a size, and are in two's complement": lambda c: np.where(
            c < 0, -128 - c, c
        ),
        "are read in two's complement, and are a sign and a size": lambda c: np.where(
            c < 0, -(c + 128), c
        ),
        "are read as unsigned numbers": lambda c: np.where(c < 0, c + 256, c),
        "are read as unsigned numbers less 128": lambda c: np.where(c < 0, c + 128, c - 128),
        "of -127 are read as 127": lambda c: np.where(c == -127, 127, c),  # noqa: PLR2004 - the code itself
        "lose their low four bits": lambda c: np.floor(c / 16) * 16,
    }
    maps |= {
        f"are {abs(step)} too {'large' if step > 0 else 'small'} and wrap around": partial(
            _wrapped, step=step
        )
        for step in (1, -1, 2, -2)
    }
    for words, change in maps.items():
        yield "code-values", f"codes {words}", 0, partial(_mapped, change=change)
    ends = [(-c - more, c) for c in range(1, 127) for more in (0, 1)]
    low, high = min(
        ends, key=lambda e: float(sample.left(_cut(sample.split, low=e[0], high=e[1])).sum())
    )
    yield (
        "code-values",
        f"codes above {high} and below {low} are cut to that",
        1,
        partial(_cut, low=low, high=high),
    )


def _wrapped(codes: np.ndarray, *, step: int) -> np.ndarray:
    wrapped: np.ndarray = (codes + step + 128) % 256 - 128
    return wrapped


def _mapped(blocks: Split, *, change: Map) -> Split:
    return replace(blocks, codes=change(blocks.codes))


def _cut(blocks: Split, *, low: int, high: int) -> Split:
    return replace(blocks, codes=np.clip(blocks.codes, low, high))
