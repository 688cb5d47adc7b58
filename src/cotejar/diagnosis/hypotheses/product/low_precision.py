"""Roundings that no numerics here declares: float8, tf32, integers of many groups, code books.

Shape letters: T tokens, W width.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.arithmetic import ROUNDINGS, can_round

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def _to_tf32(x: np.ndarray) -> np.ndarray:
    """Ten bits behind the point, halves up."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32) + np.uint32(0x1000)
    return (bits & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)


def _to_float8(x: np.ndarray, *, bits: int, least: int, greatest: float) -> np.ndarray:
    """`bits` behind the point, exponents from `least`, what is beyond `greatest` cut to it.

    Source of both formats: Micikevicius et al., 2022, "FP8 formats for deep learning".
    """
    x = np.asarray(x, np.float64)
    size = np.where(x == 0, 1.0, np.abs(x))
    step = 2.0 ** (np.maximum(np.floor(np.log2(size)), least) - bits)
    clipped: np.ndarray = np.clip(np.rint(x / step) * step, -greatest, greatest)
    return clipped


def _to_integers(
    x: np.ndarray, *, width: int | None, levels: int, whole: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Symmetric integers of one scale a group, in float32 as kernels have them.

    `width` 0 is one group for all tokens, None one a row.
    """
    rows = np.ascontiguousarray(x, np.float32)
    rows = rows.reshape(1, -1) if width == 0 else rows.reshape(-1, width or x.shape[-1])
    step = np.abs(rows).max(axis=1, keepdims=True) / np.float32(levels)
    step = np.where(step > 0, step, np.float32(1))
    rounded: np.ndarray = (whole(rows / step) * step).reshape(x.shape).astype(np.float64)
    return rounded


def _asymmetric(
    x: np.ndarray, *, width: int | None, levels: int, keeps_zero: bool = True
) -> np.ndarray:
    """Whole numbers from 0 to `levels`, between the least and the greatest of a group.

    `width` 0 is one group for all tokens, None one a row. With `keeps_zero` 0 is one of the
    numbers: it is among the range, and its code is whole.
    """
    rows = np.ascontiguousarray(x, np.float32)
    rows = rows.reshape(1, -1) if width == 0 else rows.reshape(-1, width or x.shape[-1])
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    if keeps_zero:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    step = (high - low) / np.float32(levels)
    step = np.where(step > 0, step, np.float32(1))
    if not keeps_zero:
        lifted: np.ndarray = (np.rint((rows - low) / step) * step + low).reshape(x.shape)
        return lifted.astype(np.float64)
    zero = np.rint(-low / step)
    codes = np.clip(np.rint(rows / step) + zero, 0, levels)
    result: np.ndarray = ((codes - zero) * step).reshape(x.shape).astype(np.float64)
    return result


_NF4 = (-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0,
        0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684,
        1.0)  # fmt: skip
"""Source: Dettmers et al., 2023 (arXiv:2305.14314), appendix E."""
_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of e2m1; source: OCP Microscaling Formats, 2023."""


def _by_code_book(
    x: np.ndarray, *, book: tuple[float, ...], width: int, power: bool
) -> np.ndarray:
    """The nearest of a table's numbers, over the greatest of a group or a power of two."""
    rows = np.asarray(x, np.float64).reshape(-1, width)
    numbers = np.array(sorted({*book, *(-one for one in book)} if min(book) >= 0 else book))
    greatest = np.abs(rows).max(axis=1, keepdims=True)
    greatest = np.where(greatest > 0, greatest, 1.0)
    scale = greatest / numbers.max()
    if power:  # source: the same, 6.3: the greatest exponent of a block less that of the type
        scale = 2.0 ** (np.floor(np.log2(greatest)) - np.floor(np.log2(numbers.max())))
    middles = (numbers[1:] + numbers[:-1]) / 2
    result: np.ndarray = (numbers[np.searchsorted(middles, rows / scale)] * scale).reshape(
        np.shape(x)
    )
    return result


def _by_channel(x: np.ndarray, *, levels: int) -> np.ndarray:
    """One scale a channel, over all tokens."""
    return _to_integers(x.T, width=None, levels=levels, whole=np.rint).T


def _asymmetric_by_channel(x: np.ndarray, *, levels: int, keeps_zero: bool) -> np.ndarray:
    """Likewise, one scale a channel over all tokens."""
    turned = np.ascontiguousarray(np.asarray(x).T)
    return _asymmetric(turned, width=None, levels=levels, keeps_zero=keeps_zero).T


def group_roundings(width: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Everything that rounds by groups of so many values, for arrays of whole groups."""
    cuts = (("", np.rint), (", cut and not rounded", np.trunc), (", always down", np.floor))
    found: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        f"int8 by {width}{words}": partial(_to_integers, width=width, levels=127, whole=whole)
        for words, whole in cuts
    }
    found |= {
        f"int{bits} by {width}{words}": partial(
            _to_integers, width=width, levels=levels, whole=np.rint
        )
        for bits, words, levels in (
            (4, "", 7),
            (4, " to -8", 8),
            (3, "", 3),
            (3, " to -4", 4),
            (2, "", 1),
        )
    }
    for bits in (8, 4, 3, 2):
        levels = (1 << bits) - 1
        found[f"uint{bits} with a zero point, by {width}"] = partial(
            _asymmetric, width=width, levels=levels
        )
        found[f"uint{bits} between the least and the greatest, by {width}"] = partial(
            _asymmetric, width=width, levels=levels, keeps_zero=False
        )
    found |= {
        f"{name} by {width}": partial(_by_code_book, book=book, width=width, power=power)
        for name, book, power in (
            ("NF4", _NF4, False),
            ("FP4", _FP4, False),
            ("MXFP4", _FP4, True),
        )
    }
    return found


_OF_EVERY_WIDTH = ("int8", "int4")
_COMMON = (32, 64, 128)
_RARE = ("int2", "uint2", "uint3")
"""Tried of weights in groups over rows alone: each is one more cache that is attended to."""


MORE_ROUNDINGS: Mapping[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    "tf32": (1, _to_tf32),
    "float8 e4m3": (1, partial(_to_float8, bits=3, least=-6, greatest=448.0)),
    "float8 e5m2": (1, partial(_to_float8, bits=2, least=-14, greatest=57344.0)),
    "int8 by one scale for all tokens": (
        1,
        partial(_to_integers, width=0, levels=127, whole=np.rint),
    ),
    "int4 by one scale for all tokens": (
        1,
        partial(_to_integers, width=0, levels=7, whole=np.rint),
    ),
    "int8 a row, cut and not rounded": (
        1,
        partial(_to_integers, width=None, levels=127, whole=np.trunc),
    ),
    **{
        how: (width, rounded)
        for width in (8, 16, 32, 64, 128, 256)
        for how, rounded in group_roundings(width).items()
        if how.startswith(_OF_EVERY_WIDTH) or (width in _COMMON and not how.startswith(_RARE))
    },
    "uint8 with a zero point, by one scale": (1, partial(_asymmetric, width=0, levels=255)),
    "uint8 with a zero point, a row": (1, partial(_asymmetric, width=None, levels=255)),
    "uint8 between the least and the greatest, by one scale": (
        1,
        partial(_asymmetric, width=0, levels=255, keeps_zero=False),
    ),
    "uint8 between the least and the greatest, a row": (
        1,
        partial(_asymmetric, width=None, levels=255, keeps_zero=False),
    ),
    **{
        f"uint{bits} {words}, {where}": (1, partial(rounding, levels=(1 << bits) - 1))
        for bits in (8, 4)
        for words, keeps in (
            ("with a zero point", True),
            ("between the least and the greatest", False),
        )
        for where, rounding in (
            ("a row", partial(_asymmetric, width=None, keeps_zero=keeps)),
            ("a channel", partial(_asymmetric_by_channel, keeps_zero=keeps)),
        )
        if (bits, where) != (8, "a row")  # above
    },
    "int8 a channel": (1, partial(_by_channel, levels=127)),
    "int4 a channel": (1, partial(_by_channel, levels=7)),
    "int8 to -128": (1, partial(_to_integers, width=None, levels=128, whole=np.rint)),
}
"""By name: how many values a row must be a multiple of, and the rounding of an array."""

_KNOWN = (
    "f16",
    "bf16",
    "bf16 cut",
    "Q8_0",
    "int8 a row",
    "int8 by 32",
    "int4 a row",
    "int4 by 32",
)


def roundings(width: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Those that `rounding` tries alone and new ones, for rows of that width."""
    found = {name: ROUNDINGS[name] for name in _KNOWN if can_round(name, width)}
    return found | {n: r for n, (block, r) in MORE_ROUNDINGS.items() if width % block == 0}
