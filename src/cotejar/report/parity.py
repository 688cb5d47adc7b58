"""A parity report for people: the verdict, why, and where, on one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.report.tables import Column, output_width, render_table, visible
from cotejar.trace.site import CAPTURE_POINTS
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cotejar.parity.report import ParityReport, SiteSummary
    from cotejar.trace.forward_trace import ForwardTrace

_COLUMNS = (
    Column("site"),
    Column("scope"),
    Column("compared", is_number=True),
    Column("rel L2 max", is_number=True),
    Column("max abs", is_number=True),
    Column("cosine min", is_number=True),
    Column("NMSE", is_number=True),
    Column("std ratio", is_number=True),
    Column("gate"),
    Column("verdict"),
)


def parity_lines(report: ParityReport, *, every_site: bool = False) -> Iterator[str]:
    """The text of `apr parity`: a row a slot, or with `every_site` a row a site."""
    first = report.comparisons[0]
    yield f"reference  {_side_text(first.reference)}"
    yield f"candidate  {_side_text(first.candidate)}"
    if report.fault:
        yield f"fault      {report.fault} was injected into the candidate"
    tokens = sum(len(c.reference.token_ids) for c in report.comparisons)
    yield f"prompts    {len(report.comparisons)}, {tokens} tokens"
    yield ""
    yield from _precondition_lines(report)
    yield ""
    sites = report.sites
    if sites:
        rows = sites if every_site else _worst_of_each_slot(sites)
        yield from render_table(_COLUMNS, [_row(s) for s in rows], output_width())
        if not every_site:
            yield "(the worst layer of each slot; --all-sites shows every site)"
        yield ""
        yield from _logits_lines(report)
    yield from _unpaired_lines(report)
    yield from _verdict_lines(report, sites)


def _side_text(trace: ForwardTrace) -> str:
    engine, model = trace.engine, trace.model
    return (
        f"{engine.name}+{engine.numerics}@{engine.device}  {visible(model.name)}  "
        f"{model.fingerprint[:19]}  ({visible(engine.build)})"
    )


def _precondition_lines(report: ParityReport) -> Iterator[str]:
    merged = {p.id: p for c in reversed(report.comparisons) for p in c.preconditions}
    merged |= {p.id: p for c in report.comparisons for p in c.preconditions if not p.holds}
    holding = [p for p in merged.values() if p.holds]
    yield f"preconditions  {len(holding)} of {len(merged)} hold"
    waived = report.comparisons[0].waived
    for precondition in merged.values():
        if not precondition.holds:
            mark = "waived" if precondition.id in waived else "BROKEN"
            yield f"  {mark}  {precondition.id}: {visible(precondition.message)}"


def _worst_of_each_slot(sites: Sequence[SiteSummary]) -> list[SiteSummary]:
    worst: dict[tuple[str, str], SiteSummary] = {}
    for site in sites:
        key = (site.site.rpartition(".")[2], site.scope.value)
        held = worst.get(key)
        if held is None or _badness(site) > _badness(held):
            worst[key] = site
    order = list(CAPTURE_POINTS)
    return sorted(worst.values(), key=lambda s: order.index(s.site.rpartition(".")[2]))


def _badness(site: SiteSummary) -> tuple[float, float]:
    severity = site.gate.severity if site.gate else 0.0
    return (severity, site.rel_l2_max if site.rel_l2_max is not None else 0.0)


def _row(site: SiteSummary) -> list[str]:
    gate = site.gate
    return [
        site.site,
        site.scope.value,
        f"{site.num_compared:,}",
        _number(site.rel_l2_max),
        _number(site.max_abs),
        "" if site.cosine_min is None else f"{site.cosine_min:.6f}",
        _number(site.nmse),
        f"{site.std_ratio:.4f}",
        "" if gate is None else f"{gate.gate.metric} {gate.value:.2e} <= {gate.gate.limit:.1e}"
        if gate.passed
        else f"{gate.gate.metric} {gate.value:.2e} > {gate.gate.limit:.1e}",
        "not judged" if site.verdict is None else site.verdict.value,
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}"


def _logits_lines(report: ParityReport) -> Iterator[str]:
    logits = report.logits
    if logits is None:
        yield "logits     not captured on both sides"
        return
    yield (
        f"logits     KL max {logits.kl_max:.2e} nats, top-1 equal {logits.top1_agreement:.1%}, "
        f"top-5 overlap {logits.top5_overlap:.1%}, smallest margin {logits.min_margin:.3f}"
    )


def _unpaired_lines(report: ParityReport) -> Iterator[str]:
    first = report.comparisons[0]
    for side, names in (
        ("reference", first.only_in_reference),
        ("candidate", first.only_in_candidate),
    ):
        if names:
            shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")  # noqa: PLR2004
            yield f"not compared: {len(names)} sites of the {side} alone ({shown})"


def _verdict_lines(report: ParityReport, sites: Sequence[SiteSummary]) -> Iterator[str]:
    verdict = report.verdict
    if verdict is Verdict.INCOMPARABLE:
        reasons = [f"{p.id}: {visible(p.message)}" for p in report.broken]
        yield f"INCOMPARABLE  {reasons[0] if reasons else 'no site was judged'}"
        if report.naive_ratio is not None:
            yield f"  {report.naive_ratio.sentence}"
        return
    judged = sum(s.verdict is not None for s in sites)
    if verdict is Verdict.PASS:
        same = ", bit-identical" if report.bit_identical else ""
        yield (
            f"PASS  {judged} of {len(sites)} cells (site x scope) within their gates, "
            f"{report.num_compared:,} numbers compared{same}"
        )
        yield from _origin_lines(sites)
        return
    first = report.first_divergence
    failed = sum(s.verdict is Verdict.FAIL for s in sites)
    yield f"FAIL  {failed} of {judged} cells (site x scope) are beyond their gates"
    if first is not None and first.deciding is not None:
        gate = first.deciding
        worst_token = "" if first.distance is None else f", token {first.distance.worst_token}"
        yield (
            f"  first at {first.site} ({first.scope.value}{worst_token}): {gate.gate.metric} "
            f"{gate.value:.3e}, limit {gate.gate.limit:.1e}"
        )
        yield f"  origin of the limit: {gate.gate.origin}"


def _origin_lines(sites: Sequence[SiteSummary]) -> Iterator[str]:
    nearest = max(
        (s for s in sites if s.gate), key=lambda s: s.gate.severity if s.gate else 0, default=None
    )
    if nearest is None or nearest.gate is None:
        return
    gate = nearest.gate
    yield (
        f"  nearest to its limit: {nearest.site}, {gate.gate.metric} {gate.value:.2e} "
        f"of {gate.gate.limit:.1e} ({gate.gate.origin})"
    )
