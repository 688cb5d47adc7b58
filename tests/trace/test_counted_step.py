"""Statistics of many sites at once have the bits of one site after the other."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cotejar.kernels.moments import measure_raw
from cotejar.trace.counted_step import CountedSite, StatsColumns, StepLayout
from cotejar.trace.site import Site
from cotejar.trace.stats import ActivationStats, measure_stats

COUNTS = st.integers(0, 1 << 40)
NUMBERS = st.floats(allow_nan=False, width=64)


@st.composite
def any_stats(draw: st.DrawFn) -> ActivationStats:
    """Of any values, of none that is finite, and such that overflow when they are merged."""
    finite, nans, infinities = (
        draw(st.sampled_from([0, 1, 4096]) | COUNTS),
        *draw(st.tuples(COUNTS, COUNTS)),
    )
    return ActivationStats(
        count=finite + nans + infinities,
        nan_count=nans,
        inf_count=infinities,
        zero_count=draw(COUNTS),
        min=draw(NUMBERS) if finite else math.inf,
        max=draw(NUMBERS) if finite else -math.inf,
        mean=draw(NUMBERS) if finite else 0.0,
        sum_squared_deviations=abs(draw(NUMBERS)) if finite else 0.0,
    )


@given(st.lists(st.tuples(any_stats(), any_stats()), min_size=1, max_size=4))
def test_sites_are_merged_as_each_alone(
    pairs: list[tuple[ActivationStats, ActivationStats]],
) -> None:
    before, after = zip(*pairs, strict=True)

    merged = StatsColumns.of(before).merged(StatsColumns.of(after)).named()

    assert [repr(one) for one in merged] == [repr(a.merged(b)) for a, b in pairs]


def test_a_layout_names_what_was_counted_and_joins_the_rest() -> None:
    rows = [np.random.default_rng(0).normal(size=(1, n)).astype("f4") for n in (8, 3, 5, 7)]
    # Of one row by itself: half of a pair.
    moments = b"".join((measure_raw(row) or b"")[:64] for row in rows)
    sites = [Site("embed"), Site("q", 4), Site("k", 4), Site("v", 4)]
    counted = [CountedSite(site, row.size) for site, row in zip(sites, rows, strict=True)]

    layout = StepLayout(counted, joined="qkv", of=("q", "k", "v"))
    stats = layout.read(moments).named()

    q, k, v = (measure_stats(row) for row in rows[1:])
    assert layout.sites == (*counted, (Site("qkv", 4), 15))
    assert stats == [measure_stats(rows[0]), q, k, v, q.merged(k).merged(v)]
