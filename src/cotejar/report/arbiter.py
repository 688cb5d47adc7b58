"""What the oracle says of two sides, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.report.tables import Column, output_width, render_table, visible
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.parity.arbiter import Arbitration, Exactness, SiteArbitration
    from cotejar.parity.compare import SiteComparison

_COLUMNS = (
    Column("site"),
    Column("scope"),
    Column("reference to exact", is_number=True),
    Column("its limit", is_number=True),
    Column("candidate to exact", is_number=True),
    Column("its limit", is_number=True),
    Column("further"),
)


def arbiter_lines(
    arbitration: Arbitration, divergence: SiteComparison | None, *, every_site: bool
) -> Iterator[str]:
    """The ruling at the first site that differs, and overall; with `every_site` a table."""
    engine = arbitration.engine
    yield (
        f"arbiter    {visible(engine.name)}+{visible(engine.numerics)} on the weights of "
        f"{visible(arbitration.model)}"
    )
    if every_site:
        rows = [_row(site) for site in arbitration.sites]
        yield from render_table(_COLUMNS, rows, output_width())
    if divergence is not None:
        first = arbitration.at(divergence.site, divergence.scope)
        if first is not None:
            yield f"  at {first.site} ({first.scope.value}): {_ruling(first)}"
    yield f"  overall: {_overall(arbitration)}"


def _row(site: SiteArbitration) -> list[str]:
    sides = [(s.rel_l2, s.limit) for s in (site.reference, site.candidate)]
    numbers = [_number(value) for pair in sides for value in pair]
    return [site.site, site.scope.value, *numbers, site.further]


def _ruling(site: SiteArbitration) -> str:
    sides = f"reference {_distance(site.reference)}, candidate {_distance(site.candidate)}"
    if site.further == "undecided":
        why = _why(site.reference, site.candidate, parted=site.pair is not Verdict.PASS)
        return f"undecided, {why}; {sides}"
    return f"the {site.further} is further from exact than its arithmetic explains; {sides}"


def _overall(arbitration: Arbitration) -> str:
    a, b = arbitration.num_beyond
    cells = f"beyond what its arithmetic explains at {a} (reference) and {b} (candidate)"
    cells += f" of {len(arbitration.sites)} cells"
    worst = arbitration.reference, arbitration.candidate
    if arbitration.further == "undecided":
        return f"undecided, {_why(*worst, parted=bool(arbitration.parted))}; {cells}"
    severity = worst[0 if arbitration.further == "reference" else 1].severity
    return f"the {arbitration.further}, up to {severity:.3g} x its limit; {cells}"


def _why(reference: Exactness, candidate: Exactness, *, parted: bool) -> str:
    if not parted:
        return "the two are within noise of each other"
    verdicts = reference.verdict, candidate.verdict
    if None in verdicts:
        side = "reference" if verdicts[0] is None else "candidate"
        return f"nobody has measured the noise of the {side} (`apr noise` does)"
    if Verdict.FAIL in verdicts:
        return "both sides are beyond what their arithmetic explains"
    return "both sides are as near to exact as their arithmetic explains"


def _distance(side: Exactness) -> str:
    if side.rel_l2 is None:
        return "not captured"
    limit = "" if side.limit is None else f" of {side.limit:.1e}"
    return f"{side.rel_l2:.2e}{limit}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}"
