"""The processes below this one: how many, how large, and how to end them all.

Read from `/proc`, so Linux only; elsewhere `find_descendants` finds nothing, and whoever
calls must end the process group. With `adopt_orphans` a process that leaves its session or
loses its parent stays below this one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import time
from typing import NamedTuple

_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_PDEATHSIG = 1
_STATE, _PARENT, _RESIDENT = 0, 1, 21
"""Fields of /proc/PID/stat after the name, from 0; see proc(5)."""
_KILL_PAUSE_S = 0.01


class Process(NamedTuple):
    """One process that has not ended."""

    pid: int
    parent: int
    resident_bytes: int


def adopt_orphans() -> None:
    """Make this process the parent of every descendant that loses its own (Linux)."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends (Linux)."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def find_descendants(root: int) -> list[Process]:
    """Every living process below `root`; zombies do not count."""
    children: dict[int, list[Process]] = {}
    for process in _all_processes():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += [process.pid for process in below]
    return [process for process in found if process.resident_bytes >= 0]


def kill_descendants(root: int, *, within_s: float) -> int:
    """Kill every process below `root`; return how many were still there after `within_s`.

    All are stopped before any is killed, so that none forks while the others die.
    """
    deadline = time.monotonic() + within_s
    while True:
        for process in find_descendants(root):
            _signal(process.pid, signal.SIGSTOP)
        for process in find_descendants(root):
            _signal(process.pid, signal.SIGKILL)
        reap_children()
        left = len(find_descendants(root))
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(_KILL_PAUSE_S)


def reap_children() -> dict[int, int]:
    """Collect every child that has ended: pid -> wait status."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[pid] = status
    return ended


def _all_processes() -> list[Process]:
    """Every process of the system; a zombie has `resident_bytes` -1."""
    try:
        names = [entry.name for entry in os.scandir("/proc") if entry.name.isdigit()]
    except OSError:
        return []
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    found = []
    for name in names:
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - thousands of them
                content = file.read()
        except OSError:  # it ended in between
            continue
        # The name is in parentheses and may hold anything, so the last one counts.
        fields = content[content.rfind(b")") + 2 :].split()
        if len(fields) <= _RESIDENT:
            continue
        is_ended = fields[_STATE] in {b"Z", b"X"}
        resident = -1 if is_ended else int(fields[_RESIDENT]) * page_bytes
        found.append(
            Process(pid=int(name), parent=int(fields[_PARENT]), resident_bytes=resident)
        )
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, number)
