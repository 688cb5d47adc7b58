"""What SIGINT, SIGTERM and SIGHUP do to a command, and the word and code it ends with.

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


def report_interrupt(interrupt: KeyboardInterrupt) -> int:
    """Say in a word what ended the command; return its exit code."""
    found = interrupt.signal if isinstance(interrupt, Terminated) else signal.SIGINT
    with contextlib.suppress(OSError):  # the terminal is gone, and so is who would read it
        os.write(2, f"{_WORDS[found]}\n".encode())
    return SIGNAL_BASE + found


def catch_signals() -> None:
    """SIGTERM and SIGHUP raise `Terminated`, where nobody has said otherwise."""
    for number in _TERMINATING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminate)


def release_signals() -> None:
    """Nothing is left to clean up: from here on a signal ends the process at once."""
    for number in _WORDS:
        if signal.getsignal(number) in {_terminate, signal.default_int_handler}:
            signal.signal(number, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    raise Terminated(number)
