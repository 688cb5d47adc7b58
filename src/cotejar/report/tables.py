"""Text for a terminal: tables and lists that fold to its width, and plain text elsewhere.

On a terminal lines are at most as wide as it is. Into a pipe or a file a row is one line,
however long, so that `grep` and `awk` see it whole, unless COLUMNS asks for a width.

What comes out of a file is a stranger's: `visible` shows control characters, escape
sequences for the terminal among them, instead of sending them; `visible_lines` does so for
text of many lines.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

import click

from cotejar import errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

GAP = 2
"""Spaces between two columns."""
INDENT = "  "
MIN_FOLDED = 16
"""A column narrower than this is no longer worth reading."""
_MIN_WIDTH = 20
_STEP = 1024
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""C0 but for tab and line feed, DEL, and C1."""

visible = errors.visible
"""What does not print, shown as an escape: of names and values, that take one line."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    is_number: bool = False
    """Numbers stand at the right, and are never folded."""


def output_width() -> int | None:
    """Columns that a line may take; None for as many as it needs."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return max(int(columns), _MIN_WIDTH)
    if not sys.stdout.isatty():
        return None
    try:
        return max(os.get_terminal_size(sys.stdout.fileno()).columns, _MIN_WIDTH)
    except (OSError, ValueError):
        return 80


def print_lines(lines: Iterable[str]) -> None:
    """Print lines; colour reaches a terminal only, and not where NO_COLOR is set."""
    text = encodable("\n".join(lines))
    click.echo(text, color=False if os.environ.get("NO_COLOR") else None)


def encodable(text: str) -> str:
    """The text, with an escape for every character that stdout cannot encode."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def visible_lines(text: str) -> str:
    r"""Text of a model's making: as it is, but for control characters shown as `\x1b`.

    Lines and tabs stay. So do marks that do not print alone, such as those that join the
    parts of an emoji: they steer no terminal.
    """
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def shortened(text: str, width: int) -> str:
    """One line of at most `width` characters; what is left out is counted."""
    text = visible(text[: width + 1]) if len(text) > width else visible(text)
    if len(text) <= width:
        return text
    return text[: width - 3].rstrip() + "..."


def heading(text: str) -> str:
    """A heading, bold on a terminal."""
    return click.style(text, bold=True)


def counted(number: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def with_unit(num_bytes: int) -> str:
    """`491,400,032 bytes (468.6 MiB)`."""
    if num_bytes < _STEP:
        return counted(num_bytes, "byte")
    size, unit = num_bytes / _STEP, "KiB"
    for larger in ("MiB", "GiB", "TiB", "PiB", "EiB"):
        if size < _STEP:
            break
        size, unit = size / _STEP, larger
    return f"{num_bytes:,} bytes ({size:.1f} {unit})"


def render_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None
) -> list[str]:
    """Lay out a table.

    The first column that is no number gives way first: it is folded down to `MIN_FOLDED`.
    Where even that is too wide, every row becomes a block of its own: the first cell, and
    under it the others with their titles.

    Args:
        columns: the columns; cells may be styled with `click.style`, the folded ones not.
        rows: a cell a column each; an empty cell is left out of a block.
        width: see `output_width`.
    """
    widths = [
        max([cells(column.title), *(cells(row[i]) for row in rows)])
        for i, column in enumerate(columns)
    ]
    total = sum(widths) + GAP * (len(columns) - 1) + len(INDENT)
    if width is not None and total > width:
        folds = next((i for i, column in enumerate(columns) if not column.is_number), 0)
        widths[folds] -= total - width
        if columns[folds].is_number or widths[folds] < MIN_FOLDED:
            return _blocks(columns, rows, width)
    titles = [column.title for column in columns]
    lines = _row_lines(columns, [heading(title) for title in titles], widths)
    for row in rows:
        lines += _row_lines(columns, row, widths)
    return lines


def render_pairs(pairs: Iterable[tuple[str, str]], width: int | None) -> list[str]:
    """Labels on the left, values beside them, folded under themselves."""
    pairs = list(pairs)
    if not pairs:
        return []
    widest = max(cells(label) for label, _ in pairs)
    room = None if width is None else width - widest - GAP - len(INDENT)
    if room is not None and room < MIN_FOLDED:
        room, lines = max(width or 0, _MIN_WIDTH) - 2 * len(INDENT), []
        for label, value in pairs:
            lines += [INDENT + part for part in fold(label, room + len(INDENT))]
            lines += [2 * INDENT + part for part in fold(value, room)]
        return lines
    columns = (Column("label"), Column("value"))
    return [line for pair in pairs for line in _row_lines(columns, pair, (widest, room or 0))]


def render_text(text: str, width: int | None) -> list[str]:
    """A paragraph, its first line indented once and the others twice."""
    room = None if width is None else width - 2 * len(INDENT)
    first, *others = fold(text, room)
    return [INDENT + first, *(2 * INDENT + line for line in others)]


def fold(text: str, width: int | None) -> list[str]:
    """Cut text into lines, at spaces where there are any, else anywhere; none is empty."""
    if width is None or cells(text) <= width:
        return [text]
    lines, rest = [], text
    while cells(rest) > width:
        cut = _fitting(rest, width)
        space = rest.rfind(" ", cut // 2, cut + 1)
        end, start = (space, space + 1) if space > 0 else (cut, cut)
        lines.append(rest[:end])
        rest = rest[start:]
    return [*lines, rest] if rest else lines


def cells(text: str) -> int:
    """Columns that a text takes: 2 for wide letters, 0 for marks and for styling."""
    text = click.unstyle(text)
    if text.isascii():
        return len(text)
    return sum(map(_cells_of, text))


def _cells_of(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _fitting(text: str, width: int) -> int:
    """How many letters of `text` fit; 1 at least."""
    taken = 0
    for i, letter in enumerate(text):
        taken += _cells_of(letter)
        if taken > width:
            return max(i, 1)
    return len(text)


def _row_lines(
    columns: Sequence[Column], row: Sequence[str], widths: Sequence[int]
) -> list[str]:
    """A row as one line, or as more where a cell is folded; a width of 0 is no limit."""
    parts = [
        [cell] if column.is_number else fold(cell, width or None)
        for column, cell, width in zip(columns, row, widths, strict=True)
    ]
    lines = []
    for pieces in zip_longest(*parts, fillvalue=""):
        padded = [
            _pad(piece, width, right=column.is_number)
            for column, piece, width in zip(columns, pieces, widths, strict=True)
        ]
        lines.append((INDENT + (" " * GAP).join(padded)).rstrip())
    return lines


def _pad(text: str, width: int, *, right: bool) -> str:
    spaces = " " * (width - cells(text))
    return spaces + text if right else text + spaces


def _blocks(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    lines: list[str] = []
    for row in rows:
        lines += [INDENT + part for part in fold(row[0], width - len(INDENT))]
        line = 2 * INDENT
        for column, cell in zip(columns[1:], row[1:], strict=True):
            if not cell:
                continue
            item = f"{column.title} {cell}"
            if cells(line) > 2 * len(INDENT) and cells(line + item) > width:
                lines.append(line.rstrip())
                line = 2 * INDENT
            line += item + " " * (GAP + 1)
        if line.strip():
            lines.append(line.rstrip())
    return lines
