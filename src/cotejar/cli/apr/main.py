"""The entry point of `apr`; `group` is loaded under its guard."""

from __future__ import annotations

from typing import NoReturn

from cotejar.cli.entry import run_entry


def main() -> NoReturn:
    """Run `apr` on the process's arguments, and exit."""
    run_entry("cotejar.cli.apr.group:apr", "apr")
