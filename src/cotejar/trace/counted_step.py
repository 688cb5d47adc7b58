"""A pass of one token as a kernel counted it: statistics of all its sites at once, in numpy.

A decoder's step counts hundreds of sites. Made to objects and merged site by site, they would
take as long as the step; here a column holds one number of every site. The formulas are those
of `stats`, number by number, so that the bits are theirs too.

Shape letter: N sites.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cotejar.kernels.moments import read_columns
from cotejar.trace.site import Site
from cotejar.trace.stats import ActivationStats

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jaxtyping import Float64, Int64


class CountedSite(NamedTuple):
    """A site of which a kernel counts one row."""

    site: Site
    width: int


class StepLayout:
    """Which sites a kernel counts in a step, and which others are some of them side by side."""

    def __init__(
        self, counted: Sequence[CountedSite], *, joined: str, of: Sequence[str]
    ) -> None:
        """Take the counted sites, in the kernel's order.

        Args:
            counted: the sites.
            joined: a slot of every layer.
            of: the slots that it is made of, in order; of every layer, or of none.
        """
        index_of = {one.site: index for index, one in enumerate(counted)}
        layers = dict.fromkeys(one.site.layer for one in counted if one.site.slot == of[0])
        self._parts = [[index_of[Site(slot, layer)] for layer in layers] for slot in of]
        widths = (
            sum(counted[i].width for i in parts) for parts in zip(*self._parts, strict=True)
        )
        self.sites = (
            *counted,
            *(
                CountedSite(Site(joined, layer), width)
                for layer, width in zip(layers, widths, strict=True)
            ),
        )
        """All of them, those that are joined last."""

    def read(self, moments: bytes) -> StatsColumns:
        """The statistics of one step's token, a row a site of `sites`."""
        counts_N4, values_N4 = read_columns(moments)
        counted = StatsColumns(*counts_N4.T, *values_N4.T)
        first, *rest = (counted.rows(part) for part in self._parts)
        for part in rest:
            first = first.merged(part)
        return counted.followed_by(first)


class CountedStep(NamedTuple):
    """A pass of one token as a kernel counted it."""

    layout: StepLayout
    moments: bytes


@dataclass(frozen=True, slots=True, eq=False)
class StatsColumns:
    """`ActivationStats` of many sites, field by field."""

    count: Int64[np.ndarray, "N"]
    nan_count: Int64[np.ndarray, "N"]
    inf_count: Int64[np.ndarray, "N"]
    zero_count: Int64[np.ndarray, "N"]
    min: Float64[np.ndarray, "N"]
    max: Float64[np.ndarray, "N"]
    mean: Float64[np.ndarray, "N"]
    sum_squared_deviations: Float64[np.ndarray, "N"]

    @staticmethod
    def of(stats: Iterable[ActivationStats]) -> StatsColumns:
        """The columns of some statistics."""
        rows = [[getattr(one, name) for name in _FIELDS] for one in stats]
        return StatsColumns(*(np.array(column) for column in zip(*rows, strict=True)))

    def rows(self, indices: Sequence[int]) -> StatsColumns:
        """Those of some sites."""
        return StatsColumns(*(getattr(self, name)[indices] for name in _FIELDS))

    def followed_by(self, other: StatsColumns) -> StatsColumns:
        """The sites of both, one after the other."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in _FIELDS)
        return StatsColumns(*(np.concatenate(pair) for pair in pairs))

    def merged(self, other: StatsColumns) -> StatsColumns:
        """Site by site as `ActivationStats.merged`, with its bits."""
        n_a, n_b = self._finite_count(), other._finite_count()
        n = n_a + n_b
        with np.errstate(all="ignore"):  # means may overflow, as they may there
            delta = other.mean - self.mean
            share = np.divide(n_b, n, out=np.zeros_like(delta), where=n > 0)
            between = np.where((n_a > 0) & (n_b > 0), delta * delta * n_a * share, 0.0)
            mean = self.mean + delta * share
            squares = self.sum_squared_deviations + other.sum_squared_deviations + between
        return StatsColumns(
            self.count + other.count,
            self.nan_count + other.nan_count,
            self.inf_count + other.inf_count,
            self.zero_count + other.zero_count,
            np.where(other.min < self.min, other.min, self.min),
            np.where(other.max > self.max, other.max, self.max),
            mean,
            squares,
        )

    def named(self) -> list[ActivationStats]:
        """An object a site."""
        columns = (getattr(self, name).tolist() for name in _FIELDS)
        rows = (dict(zip(_FIELDS, row, strict=True)) for row in zip(*columns, strict=True))
        return [ActivationStats(**row) for row in rows]

    def _finite_count(self) -> Float64[np.ndarray, "N"]:
        finite: np.ndarray = self.count - self.nan_count - self.inf_count
        return finite.astype(np.float64)


_FIELDS = tuple(field.name for field in fields(StatsColumns))
