"""A tensor that was rounded to fewer bits than its type has, before it was stored.

A file may call a tensor F32, or Q8_0, that went through a lower type on its way. The reference
written in that type tells which, where one of ours writes it alike; else the values tell how
many bits: in each block they lie on few levels.

Shape letters: R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.weight_variants import CODE_BITS
from cotejar.errors import EncodingError
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import ENCODABLE, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float64

_NO_ROUNDING = frozenset({BlockType.F32, BlockType.APR_Q8, BlockType.APR_Q4})
"""The last two have scales that a few rows do not tell."""
_FLOAT_BITS = 8
"""Types without codes have as many levels as is asked for here, and more."""
_FEW_ROWS = 8
_MOST_APART = 0.7
"""Relative distance from the reference: more is no rounding of it."""
_LEVELS = (
    (16, 4, "Q2_K has 4"),
    (16, 8, "Q3_K has 8"),
    (32, 16, "Q4_K, Q4_1 and Q4_0 have 16"),
)
"""Values of a block, the most levels that they lie on, and which types have so many."""


def find_lower_type(
    name: str,
    a_RC: Float64[np.ndarray, "R C"],
    b_RC: Float64[np.ndarray, "R C"],
    own: BlockType,
    fits: Callable[[np.ndarray, np.ndarray], bool],
) -> tuple[str, str] | None:
    """Id and title, if the candidate's `b_RC` is the reference's `a_RC` in fewer bits.

    Args:
        name: of the tensor.
        a_RC: the reference's values.
        b_RC: the candidate's.
        own: the type of the candidate, in which few levels are nobody's fault.
        fits: are these two arrays the same, but for what the types round?
    """
    if np.linalg.norm(b_RC - a_RC) > _MOST_APART * np.linalg.norm(a_RC):
        return None
    rows = np.unique(np.linspace(0, len(a_RC) - 1, _FEW_ROWS).astype(int))
    for kind in sorted(ENCODABLE, key=lambda kind: kind.label):
        if a_RC.shape[1] % kind.elements_per_block or kind in {own, *_NO_ROUNDING}:
            continue
        try:
            is_so = fits(rounded(a_RC[rows], kind), b_RC[rows]) and fits(
                rounded(a_RC, kind), b_RC
            )
        except EncodingError:  # what the type cannot hold was not written in it
            continue
        if is_so:
            return "weights-rounded", f"{name} was rounded to {kind.label} before it was stored"
    own_bits = CODE_BITS.get(own, _FLOAT_BITS)
    for width, levels, words in (one for one in _LEVELS if one[1] < 1 << own_bits):
        if a_RC.shape[1] % width == 0 and _most_levels(b_RC[rows], width) <= levels:
            if _most_levels(a_RC[rows], width) <= levels:
                return None  # as the reference's own
            return "weights-rounded", (
                f"{name} was rounded to fewer bits before it was stored: each {width} values "
                f"lie on {levels} levels at the most ({words})"
            )
    return None


def rounded(values_RC: Float64[np.ndarray, "R C"], kind: BlockType) -> np.ndarray:
    """Written in that type and read again."""
    flat = values_RC.astype(np.float32).reshape(-1)
    return decode(kind, encode(kind, flat), flat.size).reshape(values_RC.shape)


def _most_levels(values_RC: Float64[np.ndarray, "R C"], width: int) -> int:
    ordered = np.sort(values_RC.reshape(-1, width), axis=1)
    return int((np.diff(ordered, axis=1) > 0).sum(axis=1).max()) + 1
