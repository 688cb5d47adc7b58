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
