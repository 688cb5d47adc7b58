"""Two traces', or two stage files', differences for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.files.diff_traces import SiteStatus
from cotejar.report.metadata_text import describe
from cotejar.report.model_diff_text import measure_texts, nonfinite_text, worst_lines
from cotejar.report.tables import (
    Column,
    heading,
    output_width,
    render_pairs,
    render_table,
    render_text,
    visible,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cotejar.files.diff_stages import StageDiff
    from cotejar.files.diff_traces import SiteDiff, TraceDiff

_SITE_COLUMNS = (
    Column("site"),
    Column("scope"),
    *(Column(t, is_number=True) for t in ("rel L2", "max abs", "cosine", "NMSE", "NaN/Inf")),
    Column("std ratio", is_number=True),
)
_STATS_NOTE = (
    "stats: no elements were captured; the largest difference of min, max, mean, std and rms, "
    "over A's rms"
)


def trace_diff_lines(diff: TraceDiff, *, limit: int) -> Iterator[str]:
    """The text of `apr diff` for two traces."""
    width = output_width()
    yield from render_pairs(
        [("A", visible(str(diff.path_a))), ("B", visible(str(diff.path_b)))], width
    )
    yield ""
    yield heading("Runs")
    differing = [fact for fact in diff.facts if not fact.is_same]
    yield f"  {len(diff.facts) - len(differing)} of {len(diff.facts)} facts are the same"
    if differing:
        rows = [(fact.name, _fact_text(fact.a), _fact_text(fact.b)) for fact in differing]
        yield from render_table((Column("fact"), Column("A"), Column("B")), rows, width)
    for warning in diff.warnings:
        yield from render_text(f"NOTE  {visible(warning)}", width)
    yield ""
    yield heading("Sites")
    yield from _count_lines(diff)
    worst = diff.worst_first
    if worst:
        yield ""
        yield heading("Worst first (A is the reference)")
        yield from render_table(_SITE_COLUMNS, [_site_row(s) for s in worst[:limit]], width)
        if len(worst) > limit:
            yield f"  ... and {len(worst) - limit} more (--limit)"
        if any(site.distance is None for site in worst[:limit]):
            yield from render_text(_STATS_NOTE, width)
        first = next(s for s in diff.sites if s.status is SiteStatus.DIFFERS)
        yield f"  first in forward order: {first.site}"
    yield ""
    yield _summary(diff)


def stage_diff_lines(diff: StageDiff) -> Iterator[str]:
    """The text of `apr diff` for two stage files."""
    distance = diff.distance
    layer = "none" if diff.layer is None else str(diff.layer)
    measures = measure_texts(distance)
    pairs = [
        ("A", visible(str(diff.path_a))),
        ("B", visible(str(diff.path_b))),
        ("layer", layer),
        ("values", f"{distance.num_elements:,}, of which {distance.num_different:,} differ"),
        *zip(("rel L2", "max abs", "cosine", "NMSE"), measures, strict=False),
    ]
    if nonfinite_text(distance):
        pairs.append(
            (
                "NaN/Inf",
                f"{nonfinite_text(distance)} (A/B), {distance.num_unlike:,} of them in places "
                "where the other side has something else",
            )
        )
    yield from render_pairs(pairs, output_width())
    if distance.worst:
        yield ""
        yield heading("Largest differences")
        yield from worst_lines(distance, (distance.num_elements,))
    yield ""
    if diff.exit_code == 0:
        yield "SAME" + ("" if diff.threshold is None else f", within rel L2 {diff.threshold:g}")
    elif diff.is_same:
        yield "NOTHING COMPARED  no value is finite on both sides"
    else:
        yield "THEY DIFFER"


def _fact_text(value: object) -> str:
    return describe(list(value) if isinstance(value, tuple) else value, 60)


def _count_lines(diff: TraceDiff) -> Iterator[str]:
    elementwise = sum(site.distance is not None for site in diff.sites)
    yield from render_text(
        f"{diff.num_compared:>6,}  compared: {elementwise:,} element by element, "
        f"{diff.num_compared - elementwise:,} by statistics alone",
        output_width(),
    )
    sentences = {
        SiteStatus.SAME: "the same",
        SiteStatus.DIFFERS: "differ",
        SiteStatus.SAMPLES_DIFFER: "of unequal samples: no figure would mean anything",
        SiteStatus.CAPTURE_POINTS_DIFFER: "read at different points: no figure",
        SiteStatus.ONLY_IN_A: "only in A",
        SiteStatus.ONLY_IN_B: "only in B",
    }
    for status, sentence in sentences.items():
        sites = [site for site in diff.sites if site.status is status]
        if sites:
            named = "" if status is SiteStatus.SAME else f" (first {sites[0].site})"
            yield from render_text(f"{len(sites):>6,}  {sentence}{named}", output_width())


def _site_row(site: SiteDiff) -> Sequence[str]:
    scope = "" if site.scope is None else site.scope.value
    if site.distance is None:
        measures = [f"stats {site.stats_distance:.2e}", "", "", "", ""]
    else:
        measures = measure_texts(site.distance)
    ratio = site.std_ratio
    return [site.site, scope, *measures, "" if ratio is None else f"{ratio:.4f}"]


def _summary(diff: TraceDiff) -> str:
    if diff.num_compared == 0:
        return "NOTHING COMPARED  no site is a sample of the same thing on both sides"
    if diff.is_same:
        return "SAME" + (
            "" if diff.threshold is None else f", within rel L2 {diff.threshold:g}"
        )
    return "THEY DIFFER  (a list, no judgement: `apr parity` judges)"
