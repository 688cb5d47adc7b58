"""The first thing that a command does: decide what a signal means, then load the rest.

Importing takes a tenth of a second, in which Ctrl-C would print a traceback. So this module
imports almost nothing, and everything else is imported under its guard.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from cotejar.cli.signals import catch_signals, release_signals, report_interrupt


def run_entry(group: str, prog_name: str) -> NoReturn:
    """Run the command group at `module:attribute` on the process's arguments, and exit."""
    try:
        _open_closed_streams()
        catch_signals()
        from importlib import import_module

        from cotejar.cli.run_command import run_command

        module, attribute = group.split(":")
        run_command(getattr(import_module(module), attribute), prog_name)
    except KeyboardInterrupt as interrupt:  # while importing, or while an error is reported
        sys.exit(report_interrupt(interrupt))
    finally:
        release_signals()


def _open_closed_streams() -> None:
    """Send to nowhere what was closed by whoever started us: `apr inspect FILE >&-`.

    Python has no stream for a closed handle, and the next file that is opened would get
    its number: a message meant for stderr would then go into a model.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            stream = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - it stays open
            setattr(sys, name, stream)
