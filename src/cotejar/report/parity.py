"""A parity report for people: the verdict, why, and where, on one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cotejar.report.arbiter import arbiter_lines
from cotejar.report.tables import Column, output_width, render_table, render_text, visible
from cotejar.trace.forward_trace import Scope
from cotejar.trace.site import CAPTURE_POINTS
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cotejar.parity.report import ParityReport, SiteSummary
    from cotejar.trace.forward_trace import ForwardTrace

_COLUMNS = (
    Column("site"),
    Column("scope"),
    Column("rel L2 max", is_number=True),
    Column("median", is_number=True),
    Column("max abs", is_number=True),
    Column("cosine min", is_number=True),
    Column("NMSE", is_number=True),
    Column("std ratio", is_number=True),
    Column("gate"),
    Column("verdict"),
)


_FEWER = ((130, range(len(_COLUMNS))), (95, (0, 1, 2, 3, 8, 9)), (0, (0, 2, 3, 9)))
"""From so many columns of a terminal on, these columns of the table: a row stays a line."""


Detail = Literal["none", "slots", "sites"]
"""Of the table: none, each slot's worst site, or every site."""


def parity_lines(report: ParityReport, *, detail: Detail = "slots") -> Iterator[str]:
    """The text of `apr parity`."""
    first = report.comparisons[0]
    yield f"reference  {_side_text(first.reference)}"
    yield f"candidate  {_side_text(first.candidate)}"
    if report.fault:
        yield f"fault      {report.fault} was injected into the candidate"
    tokens = sum(len(c.reference.token_ids) for c in report.comparisons)
    fed = sum(report.num_steps)
    alone = f", of which {fed} fed one at a time are compared" if fed else ""
    yield f"prompts    {len(report.comparisons)}, {tokens} tokens{alone}"
    yield ""
    yield from _precondition_lines(report)
    yield ""
    sites = report.sites
    if sites and detail != "none":
        rows = sites if detail == "sites" else _worst_of_each_slot(sites)
        yield from _table_lines(rows)
        if detail == "slots":
            yield "  (each slot's worst layer and scope; --all-sites shows every site)"
        yield ""
    if sites:
        yield from _logits_lines(report)
    yield from _unpaired_lines(report)
    yield from _noise_lines(report)
    yield from _verdict_lines(report, sites)
    if report.arbitration is not None:
        yield from arbiter_lines(
            report.arbitration, report.first_divergence, every_site=detail == "sites"
        )


def _table_lines(sites: Sequence[SiteSummary]) -> list[str]:
    width = output_width()
    shown = next(kept for least, kept in _FEWER if width is None or width >= least)
    columns = [_COLUMNS[i] for i in shown]
    rows = [[row[i] for i in shown] for row in map(_row, sites)]
    return render_table(columns, rows, width)


def _side_text(trace: ForwardTrace) -> str:
    engine, model = trace.engine, trace.model
    is_named = trace.products == engine.numerics.partition("-")[0]
    products = "" if is_named else f" (products in {trace.products})"
    return visible(
        f"{engine.name}+{engine.numerics}@{engine.device}{products}  {model.name}  "
        f"{model.fingerprint[:19]}  ({engine.build})"
    )


def _precondition_lines(report: ParityReport) -> Iterator[str]:
    merged = {p.id: p for c in reversed(report.comparisons) for p in c.preconditions}
    broken = [p for c in report.comparisons for p in c.preconditions if not p.holds]
    merged |= {p.id: p for p in reversed(broken)}  # what the first prompt broke is said
    holding = [p for p in merged.values() if p.holds]
    yield f"preconditions  {len(holding)} of {len(merged)} hold"
    waived = report.comparisons[0].waived
    for precondition in merged.values():
        if not precondition.holds:
            mark = "UNDECIDED" if precondition.is_undecided else "BROKEN"
            mark = "waived" if precondition.id in waived else mark
            yield f"  {mark}  {precondition.id}: {visible(precondition.message)}"


def _worst_of_each_slot(sites: Sequence[SiteSummary]) -> list[SiteSummary]:
    worst: dict[str, SiteSummary] = {}
    for site in sites:
        slot = site.site.rpartition(".")[2]
        if slot not in worst or _badness(site) > _badness(worst[slot]):
            worst[slot] = site
    order = list(CAPTURE_POINTS)
    return sorted(worst.values(), key=lambda s: order.index(s.site.rpartition(".")[2]))


def _badness(site: SiteSummary) -> tuple[bool, float, float]:
    failed, severity = site.gate.badness if site.gate else (False, 0.0)
    return (failed, severity, site.rel_l2_max if site.rel_l2_max is not None else 0.0)


def _row(site: SiteSummary) -> list[str]:
    return [
        site.site,
        site.scope.value,
        _number(site.rel_l2_max),
        _number(site.rel_l2_median),
        _number(site.max_abs),
        "" if site.cosine_min is None else f"{site.cosine_min:.6f}",
        _number(site.nmse),
        f"{site.std_ratio:.4f}",
        "" if site.gate is None else f"{site.gate.gate.metric} <= {site.gate.gate.limit:.1e}",
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
            shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")  # noqa: PLR2004 - the 3 above
            yield f"not compared: {len(names)} sites of the {side} alone ({shown})"


def _noise_lines(report: ParityReport) -> Iterator[str]:
    """Which profile the gates are from, and what it has none for."""
    noise = report.noise
    if noise is None or report.no_gates is not None:
        return
    yield f"gates      from {visible(noise.name)}, {noise.num_tokens} tokens of {noise.date}"
    first = report.comparisons[0]
    for engine, measured, run in noise.other_builds((first.reference, first.candidate)):
        yield f"  {visible(engine)} was measured as {visible(measured)}, and is {visible(run)}"
    if report.not_judged:
        names = ", ".join(map(visible, report.not_judged))
        yield from render_text(f"not judged, for want of noise: {names}", output_width())


def _broken_text(report: ParityReport) -> str:
    """Empty where every precondition holds."""
    undecided = [p.id for p in report.broken if p.is_undecided]
    broken = [p.id for p in report.broken if not p.is_undecided]
    parts = [
        f"{word}: {', '.join(ids)}"
        for word, ids in (("broken", broken), ("undecided", undecided))
        if ids
    ]
    return "; ".join([*parts, "nothing was measured"]) if parts else ""


def _verdict_lines(report: ParityReport, sites: Sequence[SiteSummary]) -> Iterator[str]:
    verdict = report.verdict
    if verdict is Verdict.INCOMPARABLE:
        yield f"INCOMPARABLE  {_broken_text(report) or _no_gate_text(report)}"
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
        if not report.bit_identical:
            yield from _origin_lines(sites)
        return
    failed = sum(s.verdict is Verdict.FAIL for s in sites)
    yield f"FAIL  {failed} of {judged} cells (site x scope) are beyond their gates"
    yield from _first_lines(report)


def _first_lines(report: ParityReport) -> Iterator[str]:
    """Where the two part first."""
    first = report.first_divergence
    if first is None or first.deciding is None:
        return
    gate = first.deciding
    where = next(i for i, c in enumerate(report.comparisons) if c.first_divergence is first)
    num_steps = report.num_steps[where] if report.num_steps else 0
    rows = "last token"
    if first.scope is Scope.ALL:
        rows = f"the {num_steps} fed one at a time" if num_steps else "all tokens"
        if first.distance is not None:
            num_tokens = len(report.comparisons[where].reference.token_ids)
            before = num_tokens - num_steps if num_steps else 0
            rows += f", worst is token {before + first.distance.worst_token}"
    yield (
        f"  first at {first.site} ({rows}): {gate.gate.metric} "
        f"{gate.value:.3e}, limit {gate.gate.limit:.1e}"
    )
    yield f"  origin of the limit: {visible(gate.gate.origin)}"


def _no_gate_text(report: ParityReport) -> str:
    unjudged = list(dict.fromkeys(g for c in report.comparisons for g in c.unjudged_gates))
    if unjudged:
        what = "1 gate was" if len(unjudged) == 1 else f"{len(unjudged)} gates were"
        named = ", ".join(f"{gate.metric} at {visible(gate.sites)}" for gate in unjudged)
        return f"{what} judged nowhere: {named}"
    if report.no_gates is not None:
        return visible(report.no_gates)
    sides = report.comparisons[0].reference, report.comparisons[0].candidate
    if sides[0].model.fingerprint != sides[1].model.fingerprint:
        return "no gate is known for two models of other weights (give one with --contract)"
    what = "{} against {}".format(*(visible(side.engine.numerics) for side in sides))
    return f"no gate is known for {what} (give one with --contract, or measure: apr noise)"


def _origin_lines(sites: Sequence[SiteSummary]) -> Iterator[str]:
    nearest = max(
        (s for s in sites if s.gate),
        key=lambda s: s.gate.badness if s.gate else (False, 0.0),
        default=None,
    )
    if nearest is None or nearest.gate is None:
        return
    gate = nearest.gate
    yield (
        f"  nearest to its limit: {nearest.site}, {gate.gate.metric} {gate.value:.2e} "
        f"of {gate.gate.limit:.1e} ({visible(gate.gate.origin)})"
    )
