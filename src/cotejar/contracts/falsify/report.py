"""What `pv falsify` says of all it ran."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotejar.contracts.evidence.record import FalsificationVerdict
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from cotejar.contracts.falsify.run import TestResult

_SHOWN_LINES = 8
_SHOWN_WIDTH = 160


@dataclass(frozen=True, kw_only=True, slots=True)
class FalsifyReport:
    """All results, and the verdict over them."""

    results: tuple[TestResult, ...]
    num_skipped_files: int
    """Files of the folder that are no readable contract: nothing of them ran."""
    strict: bool
    """What did not run counts as not measured."""

    def count(self, verdict: FalsificationVerdict) -> int:
        """How many tests ended so."""
        return sum(1 for result in self.results if result.verdict is verdict)

    @property
    def verdict(self) -> Verdict:
        """FAIL if any test was falsified or stopped; of nothing run, INCOMPARABLE."""
        failed = {FalsificationVerdict.FALSIFIED, FalsificationVerdict.STOPPED}
        if any(result.verdict in failed for result in self.results):
            return Verdict.FAIL
        not_run = self.count(FalsificationVerdict.NOT_RUN) + self.num_skipped_files
        if not self.count(FalsificationVerdict.SURVIVED) or (self.strict and not_run):
            return Verdict.INCOMPARABLE
        return Verdict.PASS

    def as_json(self) -> dict[str, Any]:
        """The same facts, for `--json`."""
        return {
            "verdict": self.verdict.value,
            "exit_code": self.verdict.exit_code,
            "counts": {verdict.value: self.count(verdict) for verdict in FalsificationVerdict},
            "results": [result.as_json() for result in self.results],
        }


def result_text(result: TestResult) -> str:
    """One line; of a test that failed, also what it means and the end of its output."""
    took = f" ({result.record.duration_s:.1f} s)" if result.record else ""
    reason = f": {result.reason}" if result.reason else ""
    lines = [f"{result.verdict.value:<9} {result.id}{took}{reason}"]
    if result.verdict in {FalsificationVerdict.FALSIFIED, FalsificationVerdict.STOPPED}:
        facts = {
            "command": result.command,
            "predicted": result.prediction,
            "so": result.if_fails,
        }
        lines += [f"  {name:<9} {text}" for name, text in facts.items() if text]
        tail = result.record.output_tail[-_SHOWN_LINES:] if result.record else ()
        lines += [f"  | {line[:_SHOWN_WIDTH]}" for line in tail]
    return "\n".join(lines)


def summary_text(report: FalsifyReport) -> str:
    """The counts and the verdict."""
    counts = ", ".join(
        f"{report.count(verdict)} {verdict.value.lower().replace('-', ' ')}"
        for verdict in FalsificationVerdict
    )
    skipped = report.num_skipped_files
    unread = f"; {skipped} files are no readable contract" if skipped else ""
    return f"{len(report.results)} tests: {counts}{unread}. {report.verdict.value}"
