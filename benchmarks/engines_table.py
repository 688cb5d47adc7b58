"""What the parts of `engines.py` hand back: bars, and the lines of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One promise, and what was found."""

    of: str
    bar: str
    found: str
    kept: str
    """`yes`; `equal`, where a comparison finds no difference; `NO`; or `undecided`."""

    @property
    def holds(self) -> bool:
        """Nothing was found against it, and something was found."""
        return self.kept in {"yes", "equal"}

    @property
    def row(self) -> tuple[str, ...]:
        """Of the table of all bars."""
        return self.of, self.bar, self.found, self.kept if self.holds else f"**{self.kept}**"


Part = tuple[list[Bar], list[str]]
"""Its bars, and the lines of its table."""


def yes_or_no(holds: bool) -> str:  # noqa: FBT001 - what a bar says of a plain limit
    return "yes" if holds else "NO"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]
