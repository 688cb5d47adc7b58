"""Print what people read: folded on a terminal, one line a fact elsewhere."""

from __future__ import annotations

import click

from cotejar.report.tables import encodable, fold, output_width, visible_lines

_HANG = 4
"""How much further in the rest of a folded line starts."""


def print_text(text: str, *, err: bool = False) -> None:
    """Print lines, no wider than the terminal; control characters of contracts are shown."""
    width = output_width()
    lines = [part for line in visible_lines(text).split("\n") for part in _folded(line, width)]
    click.echo(encodable("\n".join(lines)), err=err)


def _folded(line: str, width: int | None) -> list[str]:
    indent = len(line) - len(line.lstrip(" "))
    if width is None or indent + 2 * _HANG > width:
        return [line]
    # The first line may take what the others need for their indent.
    first, *_ = fold(line, width)
    rest = line[len(first) :].lstrip(" ")
    if not rest:
        return [first]
    margin = " " * (indent + _HANG)
    return [first, *(margin + part for part in fold(rest, width - len(margin)))]
