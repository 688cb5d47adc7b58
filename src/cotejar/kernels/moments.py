"""Count, extremes, mean and squared deviations of float32 values, in one pass over memory.

One row is measured in chunks of 1024 values; several rows in blocks of 64 rows by 16
columns, as products come into being, so that each is measured where it is made. A block's
values are summed in float32, and so are their squares: value i in lane i mod 16, 16 values of
a lane at a time, even and odd ones apart. What the lanes give is summed in float64, block
after block, in an order that depends neither on the threads nor on who measures. A block that
holds NaN or Inf, whose values spread by less than half of their size, or whose squares leave
float32's range is measured in float64 in two passes, and merged (Chan, Golub and LeVeque,
1979). The same bits on every compiled instruction set; `MEAN_ERROR` and `STD_ERROR` say how
near, and `compiled/statistics.h` why.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cotejar.kernels import _compiled
from cotejar.kernels.instruction_set import NUMPY, chosen_isa

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, Int64


MEAN_ERROR = 12 * 2.0**-24
"""Of a mean, at most; in units of the rms of the values."""

STD_ERROR = 49 * 2.0**-24
"""Of a standard deviation, at most; in units of the rms of the values."""


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
