"""Compare two trace files site by site: what `apr diff` does with traces.

A diff judges nothing: `apr parity` says whether two traces may be compared and whether
they agree. This lists what differs. Where the tokens differ it says so above the figures;
where two sites are samples of unequal size, or were read at different points, it says that
and gives no figure.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.errors import NothingMeasuredError
from cotejar.files.elementwise import (
    ElementwiseDistance,
    measure_elements,
    require_threshold,
)
from cotejar.files.name_filter import NameFilter
from cotejar.files.tensor_values import split_array
from cotejar.parity.metrics import std_ratio
from cotejar.trace.forward_trace import Scope
from cotejar.trace.trace_file import read_trace
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np

    from cotejar.trace.forward_trace import ForwardTrace, SiteRecord
    from cotejar.trace.stats import ActivationStats


class SiteStatus(enum.Enum):
    """How one site of two traces compares."""

    SAME = "same"
    DIFFERS = "differs"
    SAMPLES_DIFFER = "samples_differ"
    """No scope in common, other counts or widths: a figure would mean nothing."""
    CAPTURE_POINTS_DIFFER = "capture_points_differ"
    """Read at two different points: a figure would mean nothing."""
    ONLY_IN_A = "only_in_a"
    ONLY_IN_B = "only_in_b"


_UNCOMPARED = (
    SiteStatus.SAMPLES_DIFFER,
    SiteStatus.CAPTURE_POINTS_DIFFER,
    SiteStatus.ONLY_IN_A,
    SiteStatus.ONLY_IN_B,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteDiff:
    """One site of two traces."""

    site: str
    status: SiteStatus
    message: str = ""
    """Why there is no figure, with the figures on both sides."""
    scope: Scope | None = None
    """Which tokens were compared."""
    distance: ElementwiseDistance | None = None
    """Where both sides captured the elements."""
    stats: tuple[ActivationStats, ActivationStats] | None = None
    """Of the same number of values on both sides."""

    @property
    def std_ratio(self) -> float | None:
        """B's standard deviation over A's."""
        return None if self.stats is None else std_ratio(*self.stats)

    @property
    def stats_distance(self) -> float:
        """The largest difference of min, max, mean, std and rms, over A's rms; 0/0 is 0."""
        if self.stats is None:
            return math.nan
        a, b = self.stats
        names = ("min", "max", "mean", "std", "rms")
        pairs = [(getattr(a, name), getattr(b, name)) for name in names]
        if any(math.isnan(value) for pair in pairs for value in pair):
            return math.nan
        largest = max((abs(y - x) for x, y in pairs if x != y), default=0.0)
        return 0.0 if largest == 0 else largest / a.rms if a.rms > 0 else math.inf

    @property
    def severity(self) -> tuple[bool, float]:
        """Sorts the worst last."""
        if self.distance is not None:
            return self.distance.severity
        distance = self.stats_distance
        return (math.isnan(distance), 0.0 if math.isnan(distance) else distance)

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        facts: dict[str, object] = {
            "site": self.site,
            "status": self.status.value,
            "message": self.message,
            "scope": None if self.scope is None else self.scope.value,
            "elementwise": self.distance is not None,
        }
        if self.stats is not None:
            a, b = self.stats
            facts |= {"count": a.count, "std_a": a.std, "std_b": b.std}
            facts |= {"mean_a": a.mean, "mean_b": b.mean, "std_ratio": self.std_ratio}
        if self.distance is not None:
            facts |= self.distance.as_json()
        return facts


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceFact:
    """What the two runs say of themselves."""

    name: str
    a: object
    b: object
    decides: bool
    """Whether two traces that differ here differ; a host or an engine's name does not."""

    @property
    def is_same(self) -> bool:
        """Both sides say the same."""
        return self.a == self.b

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {"fact": self.name, "a": self.a, "b": self.b, "same": self.is_same}


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceDiff:
    """All that differs between two traces."""

    path_a: Path
    path_b: Path
    facts: tuple[TraceFact, ...]
    sites: tuple[SiteDiff, ...]
    """In forward order."""
    threshold: float | None

    @property
    def warnings(self) -> list[str]:
        """What makes figures below hard to compare, a sentence each."""
        found = []
        by_name = {fact.name: fact for fact in self.facts}
        for name, consequence in (
            ("token_ids", "every site saw another input"),
            ("positions", "every site saw other positions"),
            ("ddof", "standard deviations are of two kinds"),
        ):
            fact = by_name[name]
            if not fact.is_same:
                found.append(f"the {name} differ, {_first_unequal(fact)}: {consequence}")
        unfair = [s for s in self.sites if s.status is SiteStatus.SAMPLES_DIFFER]
        if unfair:
            found.append(
                f"the samples differ at {len(unfair)} of {len(self.sites)} sites, "
                f"first at {unfair[0].site}: {unfair[0].message}"
            )
        return found

    @property
    def num_compared(self) -> int:
        """Sites with a figure."""
        return sum(site.status not in _UNCOMPARED for site in self.sites)

    @property
    def worst_first(self) -> list[SiteDiff]:
        """Sites that differ, the worst first, ties in forward order."""
        differing = [site for site in self.sites if site.status is SiteStatus.DIFFERS]
        return sorted(differing, key=lambda s: (not s.severity[0], -s.severity[1]))

    @property
    def is_same(self) -> bool:
        """Every site was compared and is the same, of the same tokens and positions."""
        facts = all(fact.is_same for fact in self.facts if fact.decides)
        return facts and all(site.status is SiteStatus.SAME for site in self.sites)

    @property
    def exit_code(self) -> int:
        """0 for the same, 1 where they differ, 3 where no site has a figure."""
        if self.num_compared == 0:
            return Verdict.INCOMPARABLE.exit_code
        return 0 if self.is_same else 1

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "path_a": self.path_a,
            "path_b": self.path_b,
            "facts": [fact.as_json() for fact in self.facts],
            "warnings": self.warnings,
            "num_compared": self.num_compared,
            "counts": {
                status.value: sum(site.status is status for site in self.sites)
                for status in SiteStatus
            },
            "sites": [site.as_json() for site in self.sites],
            "worst": [site.site for site in self.worst_first],
            "threshold": self.threshold,
            "same": self.is_same,
            "exit_code": self.exit_code,
        }


def diff_traces(
    path_a: Path,
    path_b: Path,
    *,
    name_filter: str | None = None,
    threshold: float | None = None,
    on_site: Callable[[str, int, int], None] = lambda _name, _done, _total: None,
) -> TraceDiff:
    """Compare two trace files.

    Args:
        path_a: the reference.
        path_b: the candidate.
        name_filter: text or glob that a site's name has; None for every site.
        threshold: the relative L2 up to which a site counts as the same; None for 0.
            Where a side has statistics only, it bounds the largest of their differences,
            over A's rms.
        on_site: called before a site is compared, with its name, how many are done and
            how many there are.

    Raises:
        UsageError: a threshold that decides nothing.
        FileError, TraceError: one of them cannot be read.
        NothingMeasuredError: the filter leaves no site.
    """
    require_threshold(threshold)
    a, b = read_trace(path_a), read_trace(path_b)
    names = sorted({**a.sites, **b.sites}, key=lambda name: _order(name, a, b))
    wanted = NameFilter(name_filter)
    chosen = [name for name in names if wanted.matches(name)]
    if not chosen:
        raise NothingMeasuredError(
            "no site is left to compare",
            where=f"{path_a} and {path_b}",
            expected=f"sites like {names[0]!r}" if names else "sites",
            found=f"{name_filter!r}, which none of {len(names)} has" if names else "0 sites",
            hint="a text is looked for anywhere in a site's name: --filter ffn_gate",
        )
    sites = []
    for done, name in enumerate(chosen):
        on_site(name, done, len(chosen))
        sites.append(_compare_site(name, a, b, threshold))
    return TraceDiff(
        path_a=path_a,
        path_b=path_b,
        facts=tuple(_facts(a, b)),
        sites=tuple(sites),
        threshold=threshold,
    )


def _order(name: str, a: ForwardTrace, b: ForwardTrace) -> tuple[int, int]:
    return (a.sites.get(name) or b.sites[name]).site.order


def _facts(a: ForwardTrace, b: ForwardTrace) -> list[TraceFact]:
    pairs = {
        "engine": (a.engine.name, b.engine.name),
        "build": (a.engine.build, b.engine.build),
        "numerics": (a.engine.numerics, b.engine.numerics),
        "device": (a.engine.device, b.engine.device),
        "model": (a.model.name, b.model.name),
        "format": (a.model.format, b.model.format),
        "architecture": (a.model.architecture, b.model.architecture),
        "fingerprint": (a.model.fingerprint, b.model.fingerprint),
        "config": (dict(a.config), dict(b.config)),
        "token_ids": (a.token_ids, b.token_ids),
        "positions": (a.positions, b.positions),
        "prompt": (a.prompt, b.prompt),
        "passes": (a.passes, b.passes),
        "ddof": (a.ddof, b.ddof),
        "host": (dict(a.host), dict(b.host)),
    }
    deciding = {"token_ids", "positions", "ddof"}
    return [
        TraceFact(name=name, a=one, b=other, decides=name in deciding)
        for name, (one, other) in pairs.items()
    ]


def _first_unequal(fact: TraceFact) -> str:
    a, b = fact.a, fact.b
    if not isinstance(a, tuple) or not isinstance(b, tuple):
        return f"{a} against {b}"
    if len(a) != len(b):
        return f"{len(a)} against {len(b)} of them"
    i = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
    return f"first at index {i}, {a[i]} against {b[i]}"


def _compare_site(
    name: str, a: ForwardTrace, b: ForwardTrace, threshold: float | None
) -> SiteDiff:
    one, other = a.sites.get(name), b.sites.get(name)
    if one is None or other is None:
        status = SiteStatus.ONLY_IN_A if other is None else SiteStatus.ONLY_IN_B
        return SiteDiff(site=name, status=status)
    if one.capture_point != other.capture_point:
        return SiteDiff(
            site=name,
            status=SiteStatus.CAPTURE_POINTS_DIFFER,
            message=f"{one.capture_point!r} against {other.capture_point!r}",
        )
    scope = _common_scope(one, other)
    if scope is None:
        message = f"{_samples(one)} against {_samples(other)}"
        return SiteDiff(site=name, status=SiteStatus.SAMPLES_DIFFER, message=message)
    stats = one.stats[scope], other.stats[scope]
    distance = _measure_arrays(name, scope, (a, b))
    found = SiteDiff(
        site=name, status=SiteStatus.SAME, scope=scope, distance=distance, stats=stats
    )
    if _is_within(found, threshold):
        return found
    return SiteDiff(
        site=name, status=SiteStatus.DIFFERS, scope=scope, distance=distance, stats=stats
    )


def _common_scope(a: SiteRecord, b: SiteRecord) -> Scope | None:
    """The widest scope in which both sides have as many values of the same width."""
    if a.shape[1] != b.shape[1]:
        return None
    for scope in (Scope.ALL, Scope.LAST):
        if scope in a.stats and scope in b.stats and _count(a, scope) == _count(b, scope):
            return scope
    return None


def _count(record: SiteRecord, scope: Scope) -> int:
    return record.stats[scope].count


def _samples(record: SiteRecord) -> str:
    parts = [f"{stats.count:,} values ({scope.value})" for scope, stats in record.stats.items()]
    return f"{' and '.join(parts)} of width {record.shape[1]:,}"


def _measure_arrays(
    name: str, scope: Scope, traces: Sequence[ForwardTrace]
) -> ElementwiseDistance | None:
    if not all(name in trace.arrays for trace in traces):
        return None
    a, b = (_covered(trace.arrays[name], scope) for trace in traces)
    return measure_elements(split_array(a), split_array(b), num_worst=1)


def _covered(array: np.ndarray, scope: Scope) -> np.ndarray:
    return array if scope is Scope.ALL else array[-1:]


def _is_within(site: SiteDiff, threshold: float | None) -> bool:
    if site.distance is not None:
        return site.distance.is_within(threshold)
    assert site.stats is not None
    a, b = site.stats
    if (a.nan_count, a.inf_count) != (b.nan_count, b.inf_count):
        return False
    distance = site.stats_distance
    if threshold is None:
        return distance == 0 and a.zero_count == b.zero_count
    return distance <= threshold
