"""How far a weight may move when it is encoded anew, block by block.

A is a block's largest magnitude before. After encoding and decoding, a weight's error is at
most `error * A + floor`, and the root mean square of a block's errors at most
`rms * A + floor`. The floor is what a float16 scale below 2**-14, whose least step is
2**-24, adds. Whatever the weights are:

    Q8_0   32   step A/127. Half a step for the code; 127 codes of a scale rounded by
                2**-11: 0.5 + 0.063 steps. Floor 127 x 2**-25.
    Q4_0   32   step A/8. A whole step where code 16 is clamped to 15; 8 codes of a rounded
                scale: 1 + 0.004 steps. Floor 8 x 2**-25.
    Q6_K  256   the search leaves a sub-block's step within A/32.9 x 0.98 .. A/31 x 1.08
                (the width it tries, and least squares over codes that are half a step off
                at most). What lies beyond code 31 is clamped: 1 - 31 x 0.98/32.9 = 0.077.
                Sub-scales have steps of 1/128 of the greatest, and +128 is clamped to 127:
                0.0087; float16 0.0005. Floor 128 x 32 x 2**-25.
    Q4_K  256   the search begins with step R/15 of the range R <= 2A, and keeps what has a
                smaller sum of w e^2, where w = sqrt(mean square) + |x|. So
                sum w e^2 <= (R/30)^2 sum w. As w >= sqrt(mean square), and sum w <= 64 of
                it, a sub-block's mean e^2 <= 2 (R/30)^2: 0.094 A; and no e is beyond
                8 R/30: 0.53 A. Six bits for scale and minimum add half of 1/63 each, over
                15 codes of a step below 2A/15 x 1.5, and 1.5 A: 0.036.
                Floor 63 x 16 x 2**-25.

A tensor in another's place, a block that was moved, a scale with the wrong sign: each is far
beyond these. Shape letters: N blocks, W weights of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from cotejar.files.tensor_values import TensorValues


@dataclass(frozen=True, slots=True)
class Bound:
    """What encoding may do to a block; see the module."""

    error: float
    """Of one weight, in units of the block's largest magnitude."""
    rms: float
    """Of a block's weights, likewise."""
    floor: float
    """In the weight's own unit."""


BOUNDS = {
    BlockType.Q8_0: Bound(0.564 / 127, 0.564 / 127, 127 * 2.0**-25),
    BlockType.Q4_0: Bound(1.005 / 8, 1.005 / 8, 8 * 2.0**-25),
    BlockType.Q6_K: Bound(0.09, 0.09, 128 * 32 * 2.0**-25),
    BlockType.Q4_K: Bound(0.57, 0.13, 63 * 16 * 2.0**-25),
}
"""Of every type that an import encodes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Excess:
    """The first block that moved too far."""

    block_index: int
    """From 0, in the tensor's order."""
    magnitude: float
    """The largest in the block, before."""
    error: float
    """The largest in the block."""
    rms: float
    limit: float
    """Of `error`."""
    rms_limit: float

    @property
    def sentence(self) -> str:
        """For people."""
        return (
            f"block {self.block_index} of magnitude {self.magnitude:.3g} is off by "
            f"{self.error:.3g}, rms {self.rms:.3g}"
        )


def find_excess(before: TensorValues, after: TensorValues) -> Excess | None:
    """The first block of `after` that is no encoding of `before`'s; None if all are.

    Both have one shape, and `after` a type of `BOUNDS`. A NaN on either side is an excess.
    """
    bound, width = BOUNDS[after.block_type], after.block_type.elements_per_block
    first = 0
    for a, b in zip(before.chunks(), after.chunks(), strict=True):
        a_NW = a.reshape(-1, width).astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            error_NW = np.abs(b.reshape(-1, width) - a_NW)
            largest_N, error_N = np.abs(a_NW).max(axis=1), error_NW.max(axis=1)
            rms_N = np.sqrt(np.mean(error_NW**2, axis=1))
            limit_N = bound.error * largest_N + bound.floor
            rms_limit_N = bound.rms * largest_N + bound.floor
        is_within_N = (error_N <= limit_N) & (rms_N <= rms_limit_N)
        if not is_within_N.all():
            i = int(is_within_N.argmin())
            return Excess(
                block_index=first + i,
                magnitude=float(largest_N[i]),
                error=float(error_N[i]),
                rms=float(rms_N[i]),
                limit=float(limit_N[i]),
                rms_limit=float(rms_limit_N[i]),
            )
        first += len(a_NW)
    return None
