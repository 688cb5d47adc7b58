"""Count, extremes, mean and squared deviations of float32 values, in one pass over memory.

One row is measured in chunks of 4096 values; several rows in blocks of 64 rows by 16
columns, as products come into being, so that each is measured where it is made. Chunks and
blocks (those of the first columns first) are measured on their own and merged in order (Chan,
Golub and LeVeque, 1979), so that the numbers depend neither on the threads nor on who
measures. Within one, float64 sums of the values and of their squares, which are exact there,
run in 16 lanes, value i in lane i mod 16, lanes folded by halves. One that holds NaN or Inf,
or whose values spread by less than a hundredth of their size, is measured in two passes. The
same bits on every compiled instruction set.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cotejar.kernels import _compiled
from cotejar.kernels.instruction_set import NUMPY, chosen_isa

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, Int64


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


MomentsPair = tuple[Moments, Moments]
"""Of all rows, and of the last one by itself."""

_PAIR = struct.Struct("4q4d4q4d")
_MOMENTS = np.dtype([("counts", "q", 4), ("values", "d", 4)])


def measure_raw(
    values_TW: Float32[np.ndarray, "T W"], *, isa: str | None = None
) -> bytes | None:
    """Measure all rows of contiguous values, and the last one by itself.

    What it gives, `read_pairs` reads; None where numpy is chosen, which has no such pass.
    """
    if (isa := isa or chosen_isa()) == NUMPY:
        return None
    return _compiled.measure(isa, values_TW)


def measure_moments(
    values_TW: Float32[np.ndarray, "T W"], *, isa: str | None = None
) -> MomentsPair | None:
    """What `measure_raw` gives, read."""
    raw = measure_raw(values_TW, isa=isa)
    return None if raw is None else read_pairs(raw)[0]


def read_pairs(raw: bytes) -> list[MomentsPair]:
    """Read the moments of one array or more as the kernels return them."""
    return [(Moments(*pair[:8]), Moments(*pair[8:])) for pair in _PAIR.iter_unpack(raw)]


def read_columns(
    raw: bytes,
) -> tuple[Int64[np.ndarray, "N 4"], Float64[np.ndarray, "N 4"]]:
    """The moments of N rows as a decoder counts them: the integers of `Moments`, the rest."""
    rows = np.frombuffer(raw, _MOMENTS)
    return rows["counts"], rows["values"]
