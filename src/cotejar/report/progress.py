"""What is going on, on stderr, while someone waits at a terminal; nothing elsewhere."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from cotejar.report.tables import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A function that shows one line; it is gone when the block ends."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    with console.status("starting") as status:
        # A tensor's name is a stranger's, and may look like markup or be an escape sequence.
        yield lambda text: status.update(escape(visible(text)))


@contextlib.contextmanager
def progress_bar(noun: str) -> Iterator[Callable[[int, int], None]]:
    """A function that takes (done, total) and moves a bar; it is gone when the block ends."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (noun, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(noun, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
