"""Rules of the gate `reverse-coverage`: functions that no contract speaks of."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from cotejar.contracts.findings import Finding, Severity
from cotejar.contracts.rules.rule import AnyRule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.reverse_coverage import ReverseCoverage


class ReverseRule(AnyRule["ReverseCoverage"]):
    """A rule on the public functions of a source folder."""

    gate: ClassVar[str] = "reverse-coverage"
    effort_minutes: ClassVar[int] = 20


class UnboundFunction(ReverseRule):
    """PV-RCV-001: no equation is bound to a public function.

    Why:
        What it must compute is written nowhere. Judged with --binding and --source only; in
        the example `example.identity` is bound.
    Bad:
        def other(x): return x + 1
    Good:
        def identity(x): return x
    """

    severity = Severity.WARNING

    def check(self, subject: ReverseCoverage) -> Iterator[Finding]:
        """Name every one."""
        for function in subject.unbound:
            yield Finding(
                rule=self.id,
                severity=self.severity,
                message=f"no equation is bound to {function.name}",
                file=function.file,
                line=function.line,
                column=1,
                path="",
            )


class FewBound(ReverseRule):
    """PV-RCV-002: too few public functions are bound to an equation.

    Why:
        Contracts that speak of little of the code say little of it. Half must be bound, or
        the share that --min-coverage asks for.
    Bad:
        def identity(x): return x
        def other(x): return x + 1
        def third(x): return x + 2
    Good:
        def identity(x): return x
    """

    def check(self, subject: ReverseCoverage) -> Iterator[Finding]:
        """Compare the share with the least."""
        if not subject.share >= subject.least:
            bound = len(subject.functions) - len(subject.unbound)
            yield Finding(
                rule=self.id,
                severity=self.severity,
                message=(
                    f"{bound} of {len(subject.functions)} public functions under "
                    f"{subject.source} are bound to an equation: {subject.share:.1%}, below "
                    f"{subject.least:.1%}"
                ),
                file=subject.registry,
                line=1,
                column=1,
                path="bindings",
            )


REVERSE_RULES: tuple[ReverseRule, ...] = (UnboundFunction(), FewBound())
