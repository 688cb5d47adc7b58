"""A comparison of tokenizers for people: the verdict, and each difference's first token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.report.tables import counted, visible
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.parity.tokens import CaseResult, TokensReport

SHOWN = 10
"""Differences that are written out; `--json` has all."""
_SHOWN_TEXT = 60


def tokens_lines(report: TokensReport) -> Iterator[str]:
    """The text of `apr tokens`."""
    yield visible(f"reference  {report.reference}  ({report.builds[0]})")
    yield visible(f"candidate  {report.candidate}  ({report.builds[1]})")
    yield f"corpus     {counted(len(report.results), 'case')}, {len(report.compared)} compared"
    yield ""
    for result in report.differing[:SHOWN]:
        yield from _difference_lines(result)
    if len(report.differing) > SHOWN:
        yield f"  ... and {len(report.differing) - SHOWN} more: --json lists all"
    for result in report.failed:
        yield visible(f"  FAILED   {result.case.name}: {result.failed}")
    for why in dict.fromkeys(r.skipped for r in report.skipped):
        cases = sum(r.skipped == why for r in report.skipped)
        yield visible(f"  not compared: {counted(cases, 'case')}, {why}")
    yield _verdict_line(report)


def _difference_lines(result: CaseResult) -> Iterator[str]:
    case, difference = result.case, result.difference
    assert difference is not None, "only what differs is shown"
    options = f" ({case.options})" if case.options else ""
    text = result.text if len(result.text) <= _SHOWN_TEXT else result.text[:_SHOWN_TEXT] + "..."
    yield visible(f"  DIFFERS  {case.name}{options}: {text!r}")
    yield visible(f"           {difference.sentence}")


def _verdict_line(report: TokensReport) -> str:
    compared, differing = len(report.compared), len(report.differing)
    if report.verdict is Verdict.FAIL:
        return f"FAIL  the ids differ in {differing} of {counted(compared, 'case')}"
    if report.verdict is Verdict.INCOMPARABLE:
        failed = len(report.failed)
        return (
            f"INCOMPARABLE  {counted(failed, 'case')} could not be tokenized by both sides"
            if failed
            else "INCOMPARABLE  no id was compared"
        )
    return f"PASS  equal ids in {counted(compared, 'case')}, {report.num_ids:,} ids"
