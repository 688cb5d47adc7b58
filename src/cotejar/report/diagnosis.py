"""A diagnosis for people, on one screen: verdict, site, side, cause, evidence, next step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.report.tables import output_width, render_pairs, visible
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.diagnosis.ladder import Ladder
    from cotejar.diagnosis.result import Diagnosis
    from cotejar.trace.forward_trace import ForwardTrace

_SHOWN_CAUSES = 3


def diagnosis_lines(diagnosis: Diagnosis) -> Iterator[str]:
    """The text of `apr diagnose`."""
    yield f"reference  {_side_text(diagnosis.reference)}"
    yield f"candidate  {_side_text(diagnosis.candidate)}"
    if diagnosis.fault:
        yield f"fault      {visible(diagnosis.fault)} was injected into the candidate"
    yield f"tokens     {len(diagnosis.reference.token_ids)}{_fed_text(diagnosis)}"
    yield ""
    yield f"{diagnosis.verdict.value}  {visible(diagnosis.summary)}"
    yield ""
    yield from render_pairs(_facts(diagnosis), output_width())


def _side_text(trace: ForwardTrace) -> str:
    return visible(
        f"{trace.engine.name}+{trace.engine.numerics}@{trace.engine.device}  "
        f"{trace.model.name}  {trace.model.fingerprint[:19]}"
    )


def _fed_text(diagnosis: Diagnosis) -> str:
    """Who was fed how many tokens one at a time; empty where nobody was."""
    sides = {"reference": diagnosis.reference, "candidate": diagnosis.candidate}
    steps = {name: trace.num_steps for name, trace in sides.items() if trace.num_steps}
    if not steps:
        return ""
    who = "both" if len(set(steps.values())) == 1 and len(steps) == len(sides) else None
    parts = [f"the last {n} one at a time ({who or name})" for name, n in steps.items()]
    return f", {parts[0] if who else '; '.join(parts)}"


def _facts(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    if diagnosis.site is not None:
        yield "site", diagnosis.site
        yield "wrong side", diagnosis.wrong_side
    for index, cause in enumerate(diagnosis.causes[:_SHOWN_CAUSES]):
        label = "cause" if index == 0 else "or"
        yield (
            label,
            f"{cause.id}: {visible(cause.title)} (leaves {cause.residual_after:.2e}, "
            f"limit {cause.limit:.2e})",
        )
    if diagnosis.site is not None and not diagnosis.causes and diagnosis.nearest is not None:
        nearest = diagnosis.nearest
        yield (
            "cause",
            f"none of {diagnosis.num_tried} tried; nearest is {nearest.id}, which leaves "
            f"{nearest.residual_after:.2e} (limit {nearest.limit:.2e})",
        )
    if diagnosis.looks_like is not None:
        yield "looks like", visible(diagnosis.looks_like)
    for other in diagnosis.others:
        titles = [f"{cause.id}: {visible(cause.title)}" for cause in other.causes[:1]]
        yield f"the {other.side}", f"is wrong at {other.site}; {(*titles, 'no cause')[0]}"
    yield from _evidence(diagnosis)
    for ladder in diagnosis.ladder:
        yield f"ladder {ladder.side}", _ladder_text(ladder)
    if diagnosis.naive_ratio:
        yield "beware", visible(diagnosis.naive_ratio)
    if diagnosis.reproduction is not None:
        yield "shows with", _reproduction_text(diagnosis)
    yield "next", visible(diagnosis.next_step)


def _evidence(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    finding = diagnosis.finding
    if finding is not None:
        derived = f"; {', '.join(finding.derived)} derived by replay" if finding.derived else ""
        yield (
            "evidence",
            f"given its own input, token {finding.worst_token} is off by "
            f"{finding.rel_l2:.2e} (relative L2; honest arithmetic: {finding.limit:.2e})"
            f"{derived}",
        )
        yield from _other_side(diagnosis)
    if diagnosis.comparison is not None:
        first = diagnosis.comparison.first_divergence
        where = "nowhere" if first is None else first.site
        yield "gates fail first", where
    if diagnosis.verdict is Verdict.PASS and diagnosis.errors:
        nearest = max(diagnosis.errors, key=lambda e: e.ratio)
        yield (
            "nearest",
            f"{nearest.site} of the {nearest.side}: {nearest.rel_l2:.2e} of "
            f"{nearest.limit:.2e}",
        )


def _other_side(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    finding = diagnosis.finding
    for error in diagnosis.errors:
        if finding and error.site == finding.site and error.side != finding.side:
            if any(other.site == error.site for other in diagnosis.others):
                continue  # said already
            word = "right" if error.explained else "off as well"
            yield (
                f"the {error.side}",
                f"is {word} there: {error.rel_l2:.2e} of {error.limit:.2e}",
            )


def _ladder_text(ladder: Ladder) -> str:
    where = ladder.site or "all sites"
    if not ladder.rungs and ladder.unexplained == 0:
        return f"{where}: the same as float64"
    parts = [f"{_percent(rung.share)} {rung.name}" for rung in ladder.rungs]
    parts.append(f"{_percent(ladder.unexplained)} unexplained")
    return f"{where}: {', '.join(parts)}"


def _percent(share: float) -> str:
    if 0 < share < 0.001:  # noqa: PLR2004 - 0.1 %
        return "< 0.1 %"
    return f"{100 * share:.1f} %"


def _reproduction_text(diagnosis: Diagnosis) -> str:
    reproduction = diagnosis.reproduction
    if reproduction is None:
        return ""
    ids = reproduction.token_ids
    shown = ",".join(map(str, ids[:12])) + (",..." if len(ids) > 12 else "")  # noqa: PLR2004
    folder = f", in {visible(reproduction.folder)}" if reproduction.folder else ""
    return f"{len(ids)} of {len(diagnosis.reference.token_ids)} tokens: {shown}{folder}"
