"""Count, extremes, mean and squared deviations of float32 values, in one pass over memory.

Chunks of 4096 values, across rows, are measured on their own and merged in order (Chan,
Golub and LeVeque, 1979), so that the numbers do not depend on the threads. Within a chunk,
float64 sums of the values and of their squares, which are exact there, run in 16 lanes,
value i in lane i mod 16, lanes folded by halves. A chunk that holds NaN or Inf, or whose
values spread by less than a hundredth of their size, is measured in two passes. The same
bits on every compiled instruction set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cotejar.kernels import _compiled
from cotejar.kernels.instruction_set import NUMPY, chosen_isa

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32


class Moments(NamedTuple):
    """What `measure_moments` counts; all but the counts cover the finite values only."""

    num_values: int
    nan_count: int
    inf_count: int
    zero_count: int
    least: float
    """+inf where there is no finite value."""
    greatest: float
    """-inf where there is no finite value."""
    mean: float
    squared_deviations: float
    """Sum of (value - mean) ** 2."""


RawMoments = tuple[int, int, int, int, float, float, float, float]
RawPair = tuple[RawMoments, RawMoments | None]
MomentsPair = tuple[Moments, Moments]
"""Of all rows, and of the last one by itself; one object where there is one row."""


def measure_moments(
    values_TW: Float32[np.ndarray, "T W"], *, isa: str | None = None
) -> MomentsPair | None:
    """Measure all rows of contiguous values, and the last one by itself.

    None where numpy is chosen, which has no such pass.
    """
    if (isa := isa or chosen_isa()) == NUMPY:
        return None
    return moments_pair(*_compiled.measure(isa, values_TW))


def moments_pair(every: RawMoments, last: RawMoments | None) -> MomentsPair:
    """Name what the compiled kernels return."""
    moments = Moments(*every)
    return moments, moments if last is None else Moments(*last)
