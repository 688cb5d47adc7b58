"""The first thing that a command does: decide what a signal means, then load the rest.

Importing takes a tenth of a second, in which Ctrl-C would print a traceback. So this module
imports almost nothing, and everything else is imported under its guard.

| signal  | what it does                                     | exit |
| ------- | ------------------------------------------------ | ---- |
| SIGINT  | `KeyboardInterrupt`, as Python has it            | 130  |
| SIGTERM | `Terminated`: what Ctrl-C cleans up is cleaned up | 143  |
| SIGHUP  | likewise; one that was ignored (`nohup`) stays so | 129  |
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from types import FrameType

SIGNAL_BASE = 128
"""What a shell adds to the number of the signal that ended a program."""
_WORDS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "the terminal hung up",
}
_TERMINATING = (signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: whatever undoes its work on Ctrl-C does so on these too."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


def run_entry(group: str, prog_name: str) -> NoReturn:
    """Run the command group at `module:attribute` on the process's arguments, and exit."""
    try:
        _open_closed_streams()
        _catch_signals()
        from importlib import import_module

        from cotejar.cli.run_command import run_command

        module, attribute = group.split(":")
        run_command(getattr(import_module(module), attribute), prog_name)
    except KeyboardInterrupt as interrupt:  # while importing, or while an error is reported
        sys.exit(report_interrupt(interrupt))
    finally:
        # Nothing is left to clean up: from here on a signal ends the process at once.
        for number in _WORDS:
            if signal.getsignal(number) in {_terminate, signal.default_int_handler}:
                signal.signal(number, signal.SIG_DFL)


def report_interrupt(interrupt: KeyboardInterrupt) -> int:
    """Say in a word what ended the command; return its exit code."""
    found = interrupt.signal if isinstance(interrupt, Terminated) else signal.SIGINT
    with contextlib.suppress(OSError):  # the terminal is gone, and so is who would read it
        os.write(2, f"{_WORDS[found]}\n".encode())
    return SIGNAL_BASE + found


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


def _catch_signals() -> None:
    for number in _TERMINATING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminate)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    raise Terminated(number)
