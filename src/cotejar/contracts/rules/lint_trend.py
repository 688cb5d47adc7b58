"""Rules of the gate `trend`: PV-TRD-001 and 002, judged with --trend only."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from cotejar.contracts.findings import Finding, Severity
from cotejar.contracts.rules.rule import AnyRule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.lint_trend import TrendStep

LARGEST_DROP = 0.05


class TrendRule(AnyRule["TrendStep"]):
    """A rule on a run and those before it."""

    gate: ClassVar[str] = "trend"
    effort_minutes: ClassVar[int] = 10

    def on_trend(self, subject: TrendStep, message: str) -> Finding:
        """A finding on the file that holds the runs."""
        return Finding(
            rule=self.id,
            severity=self.severity,
            message=message,
            file=subject.file,
            line=1,
            column=1,
            path="",
        )


class ScoreFell(TrendRule):
    """PV-TRD-001: the mean score fell by more than 5 % of the mean of the last seven days.

    Why:
        Contracts that lose tests or harnesses, or new ones without any, show here first.
    Bad:
        {mean_score: 0.80}
        {mean_score: 0.75}
    Good:
        {mean_score: 0.80}
        {mean_score: 0.77}
    """

    severity = Severity.WARNING

    def check(self, subject: TrendStep) -> Iterator[Finding]:
        """Compare with the mean; without earlier runs there is nothing to compare with."""
        if not subject.before:
            return
        mean = sum(one.mean_score for one in subject.before) / len(subject.before)
        if not subject.now.mean_score >= (1 - LARGEST_DROP) * mean:
            message = (
                f"the mean score is {subject.now.mean_score:.3f}; the mean of "
                f"{len(subject.before)} run(s) in the seven days before is {mean:.3f}"
            )
            yield self.on_trend(subject, message)


class MoreErrors(TrendRule):
    """PV-TRD-002: there are more errors than in the last run.

    Why:
        Errors that are left grow in number, unseen among those that were there.
    Bad:
        {num_errors: 3}
        {num_errors: 4}
    Good:
        {num_errors: 3}
        {num_errors: 3}
    """

    severity = Severity.INFO

    def check(self, subject: TrendStep) -> Iterator[Finding]:
        """Compare with the last of the runs before."""
        if subject.before and subject.now.num_errors > subject.before[-1].num_errors:
            last = subject.before[-1]
            message = f"{subject.now.num_errors} errors; the last run had {last.num_errors}"
            yield self.on_trend(subject, message)


TREND_RULES: tuple[TrendRule, ...] = (ScoreFell(), MoreErrors())
