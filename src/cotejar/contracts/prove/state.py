"""Where a symbolic run is, and how it can have ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cotejar.contracts.prove.values import Choice, Value, choose, combinations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cotejar.contracts.prove.terms import Term, Terms

Environment = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Violation:
    """A way for a harness to say no: a failed assert, or an exception that escapes."""

    guard: Term
    """When it happens."""
    what: str
    """`AssertionError` or another exception's name."""
    line: int
    """Of the harness or of the function it calls."""


@dataclass(slots=True)
class Frame:
    """One function call."""

    returns: list[tuple[Term, Value]] = field(default_factory=list)
    """Guards are relative to where the call was made."""
    ended: list[Term] = field(default_factory=list)
    """When the run ended inside: an exception, a failed assert, a false assumption."""


@dataclass(slots=True)
class Loop:
    """One loop that is being unrolled."""

    breaks: list[tuple[Term, Environment]] = field(default_factory=list)
    continues: list[tuple[Term, Environment]] = field(default_factory=list)


class State:
    """The path condition, in two parts: outside the current call, and inside it."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.context = terms.true
        self.live = terms.true
        """When control is here, relative to `context`."""
        self.frame = Frame()
        self.violations: list[Violation] = []

    def here(self, guard: Term) -> Term:
        """`guard`, and control is here."""
        inside = self.terms.and_(self.live, guard)
        return self.terms.and_(self.context, inside)

    def end(self, guard: Term) -> None:
        """Under `guard` the run goes no further."""
        gone = self.terms.and_(self.live, guard)
        if gone is not self.terms.false:
            self.frame.ended.append(gone)
            self.live = self.terms.and_(self.live, self.terms.not_(guard))

    def fail(self, guard: Term, what: str, line: int) -> None:
        """Under `guard` the run ends in a violation."""
        reached = self.here(guard)
        if reached is not self.terms.false:
            self.violations.append(Violation(reached, what, line))
            self.end(guard)

    def lift(self, function: Callable[..., Value], *values: Value) -> Value:
        """Call `function(guard, *leaves)` for every combination of options."""
        if not any(isinstance(value, Choice) for value in values):
            return function(self.terms.true, *values)
        cases = combinations(self.terms, values)
        if len(cases) == 1:
            return function(self.terms.true, *cases[0][1])
        return choose(self.terms, [(guard, function(guard, *case)) for guard, case in cases])

    def under(self, guard: Term, run: Callable[[], Value]) -> Value:
        """Run something that happens under `guard` only, and come back."""
        before = self.live
        inside = self.live = self.terms.and_(before, guard)
        result = run()
        if self.live is inside:
            self.live = before
        else:
            around = self.terms.and_(before, self.terms.not_(guard))
            self.live = self.terms.or_(around, self.live)
        return result

    def merge(self, paths: Sequence[tuple[Term, Term, Environment]]) -> Environment:
        """Join paths (live, selector, variables): what is live afterwards, and the variables.

        A variable that a path does not have is gone: reading it is refused.
        """
        open_paths = [path for path in paths if path[0] is not self.terms.false]
        self.live = self.terms.any_of(live for live, _, _ in open_paths)
        if not open_paths:
            return {}
        first = open_paths[0][2]
        if len(open_paths) == 1:
            return first
        merged: Environment = {}
        for name, value in first.items():
            if all(env.get(name, _ABSENT) is value for _, _, env in open_paths):
                merged[name] = value
            elif all(name in env for _, _, env in open_paths):
                options = [(selector, env[name]) for _, selector, env in open_paths]
                merged[name] = choose(self.terms, options)
        return merged


_ABSENT = object()
