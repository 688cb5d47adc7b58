"""The tokens of two traces that were fed one at a time, by themselves.

A pass over many tokens is another program than a step over the KV cache. Where a comparison is
about decoding, its measures are over the steps alone: a median over the whole prompt would
hide a few wrong ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.trace.forward_trace import Scope
from cotejar.trace.stats import measure_rows

if TYPE_CHECKING:
    from cotejar.trace.forward_trace import ForwardTrace, SiteRecord


class _LastRows(Mapping[str, np.ndarray]):
    """The last rows of arrays that are read when they are asked for."""

    def __init__(
        self, arrays: Mapping[str, np.ndarray], names: set[str], num_rows: int
    ) -> None:
        self._arrays, self._names, self._num_rows = arrays, names, num_rows

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._arrays[name]
        return array[-self._num_rows :] if name in self._names else array

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def count_steps(reference: ForwardTrace, candidate: ForwardTrace, asked: int) -> int:
    """How many tokens, the last ones, either side was fed one at a time.

    Args:
        reference: one side.
        candidate: the other.
        asked: at most so many; 0 for all.
    """
    steps = max(reference.num_steps, candidate.num_steps)
    return min(steps, asked) if asked else steps


def steps_alone(
    reference: ForwardTrace, candidate: ForwardTrace, num_steps: int
) -> tuple[ForwardTrace, ForwardTrace]:
    """Both traces with the rows and the statistics of their last `num_steps` tokens.

    Ids and positions stay whole: what a step attends to is of the tokens before it. So does a
    site of which either side lacks the elements: its statistics cannot be taken apart.
    """
    both = {
        name
        for name, record in reference.sites.items()
        if name in reference.arrays
        and name in candidate.arrays
        and Scope.ALL in record.stats
        and Scope.ALL in candidate.sites[name].stats
    }
    return _last_rows(reference, both, num_steps), _last_rows(candidate, both, num_steps)


def _last_rows(trace: ForwardTrace, names: set[str], num_rows: int) -> ForwardTrace:
    sites = {
        name: _of_rows(record, trace.arrays[name][-num_rows:]) if name in names else record
        for name, record in trace.sites.items()
    }
    return replace(trace, sites=sites, arrays=_LastRows(trace.arrays, names, num_rows))


def _of_rows(record: SiteRecord, rows_TW: np.ndarray) -> SiteRecord:
    every, last = measure_rows(rows_TW)
    stats = {scope: last if scope is Scope.LAST else every for scope in record.stats}
    return replace(record, shape=rows_TW.shape, stats=stats)
