"""The process between `pv` and a command: it starts it, watches it, and ends all of it.

One JSON request line on stdin, one JSON reply on stdout. When stdin ends, whoever asked is
gone: the command is ended too, and its scratch folder removed. It is a process of its own so
that it alone adopts and reaps the command's orphans; it imports nothing but the standard
library.

| limit       | how                                                                     |
| ----------- | ----------------------------------------------------------------------- |
| time        | watched                                                                 |
| output      | watched; the hash is of all that was read                               |
| processes   | watched in /proc; RLIMIT_NPROC as well, which does not bind root        |
| memory      | resident memory of all processes together, watched in /proc             |
| CPU, file   | RLIMIT_CPU, RLIMIT_FSIZE                                                |
| writes      | Landlock (`landlock.py`), in the command only                           |

RLIMIT_AS is not set: a memory-mapped model larger than memory is no fault.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from cotejar.contracts.falsify.landlock import landlock_abi, restrict_writes
from cotejar.contracts.falsify.processes import (
    adopt_orphans,
    die_with_parent,
    find_descendants,
    kill_descendants,
    reap_children,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

TAIL_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
_PAUSE_S = 0.02
_SCAN_SHARE = 10
"""Looking at /proc takes at most one part in this many of the time."""
_GRACE_S = 0.2
"""How long helpers of a command that ended by itself may take to end too."""
_KILL_WITHIN_S = 10.0
_MIB = 1024 * 1024
_EXIT_NOT_STARTED = 127


@dataclass(kw_only=True, slots=True)
class _Watch:
    """What is known of the command so far."""

    limits: Mapping[str, float]
    started: float = field(default_factory=time.monotonic)
    stopped: str | None = None
    """The limit that was broken."""
    detail: str = ""
    status: int | None = None
    """The command's own wait status, once it has ended."""
    tail: bytes = b""
    num_bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    next_scan: float = 0.0

    def stop(self, limit: str, detail: str) -> None:
        if self.stopped is None:
            self.stopped, self.detail = limit, detail

    def take(self, chunk: bytes) -> None:
        """Count, hash and keep the end of what the command wrote."""
        self.num_bytes += len(chunk)
        self.digest.update(chunk)
        self.tail = (self.tail + chunk)[-TAIL_BYTES:]
        limit = self.limits["output_mib"]
        if self.num_bytes > limit * _MIB:
            self.stop("output", f"it wrote more than {limit:g} MiB of output")

    def check_time(self) -> None:
        limit = self.limits["timeout_s"]
        if time.monotonic() - self.started > limit:
            self.stop("timeout", f"it ran longer than {limit:g} s")

    def check_processes(self) -> None:
        """Count processes and their memory, but not so often that it costs much."""
        now = time.monotonic()
        if now < self.next_scan:
            return
        below = find_descendants(os.getpid())
        self.next_scan = now + max(_PAUSE_S, _SCAN_SHARE * (time.monotonic() - now))
        if len(below) > self.limits["processes"]:
            limit = self.limits["processes"]
            self.stop(
                "processes", f"it had {len(below)} processes at once, more than {limit:g}"
            )
        used_mib = sum(process.resident_bytes for process in below) / _MIB
        limit = self.limits["memory_mib"]
        if used_mib > limit:
            self.stop("memory", f"it used {used_mib:.0f} MiB of memory, more than {limit:g}")


def main() -> NoReturn:
    """Serve one request and exit."""
    request = json.loads(sys.stdin.buffer.readline())
    reply = supervise(request)
    if reply["stopped"] == "interrupted":  # whoever made the folder may be gone
        shutil.rmtree(request["scratch"], ignore_errors=True)
    sys.stdout.write(json.dumps(reply))
    sys.stdout.flush()
    os._exit(0)


def supervise(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run one command to its end, whatever that is.

    Args:
        request: `argv`, `cwd`, `env`, `limits`, `writable` (folders), `landlock` (use it
            where the kernel has it).

    Returns:
        `exit_code` or `signal`, `stopped` and `detail`, `not_started`, `duration_s`,
        `output_bytes`, `output_sha256`, `output_tail`, `num_left` (processes that were
        ended after the command itself).
    """
    adopt_orphans()
    abi = landlock_abi() if request["landlock"] else 0
    watch = _Watch(limits=request["limits"])
    output, output_end = os.pipe()
    failure, failure_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become_command(request, output_end, failure_end, abi)
    os.close(output_end)
    os.close(failure_end)
    os.set_blocking(output, False)
    signal.signal(signal.SIGTERM, lambda *_: watch.stop("interrupted", "it was interrupted"))
    _watch_command(watch, pid, output)
    num_left = _end_all(watch, pid, output)
    with os.fdopen(failure, "rb") as file:
        not_started = file.read().decode("utf-8", errors="replace")
    return {
        **_how_it_ended(watch.status),
        "stopped": watch.stopped,
        "detail": watch.detail,
        "not_started": not_started or None,
        "duration_s": round(time.monotonic() - watch.started, 3),
        "output_bytes": watch.num_bytes,
        "output_sha256": watch.digest.hexdigest(),
        "output_tail": watch.tail.decode("utf-8", errors="replace"),
        "num_left": num_left,
    }


def _watch_command(watch: _Watch, pid: int, output: int) -> None:
    """Read its output until it ends or breaks a limit."""
    stdin = sys.stdin.fileno()
    open_files = [output, stdin]
    while watch.stopped is None:
        ready, _, _ = select.select(open_files, [], [], _PAUSE_S)
        if output in ready and not _read_output(watch, output):
            open_files.remove(output)
        if stdin in ready and not os.read(stdin, 1):
            watch.stop("interrupted", "whoever asked for it is gone")
        if watch.status is None:
            watch.status = reap_children().get(pid)
        if watch.status is not None:
            watch.next_scan = 0.0  # it may have ended before anyone looked at what it started
            watch.check_processes()
            return
        watch.check_time()
        watch.check_processes()


def _end_all(watch: _Watch, pid: int, output: int) -> int:
    """End every process that is left; return how many the command left behind."""
    root = os.getpid()
    left = find_descendants(root)
    deadline = time.monotonic() + _GRACE_S
    while watch.stopped is None and left and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
        reap_children()
        left = find_descendants(root)
    num_left = len(left)
    if watch.status is None:
        with contextlib.suppress(OSError):  # where there is no /proc, the group is all we know
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    still_there = kill_descendants(root, within_s=_KILL_WITHIN_S)
    if still_there:
        watch.stop("processes", f"{still_there} of its processes could not be ended")
    while watch.stopped != "output" and _read_output(watch, output):
        continue  # what was written before the end
    os.close(output)
    return num_left


def _read_output(watch: _Watch, output: int) -> bool:
    """Take one chunk; False where there is none."""
    try:
        chunk = os.read(output, _CHUNK_BYTES)
    except BlockingIOError:
        return False
    watch.take(chunk)
    return bool(chunk)


def _how_it_ended(status: int | None) -> dict[str, Any]:
    if status is None:
        return {"exit_code": None, "signal": None}
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return {"exit_code": code, "signal": None}
    try:
        name = signal.Signals(-code).name
    except ValueError:  # a real-time signal
        name = f"signal {-code}"
    return {"exit_code": None, "signal": name}


def _become_command(
    request: Mapping[str, Any], output_end: int, failure_end: int, abi: int
) -> NoReturn:
    """In the child: take on the limits and start the command; on failure say why."""
    try:
        os.setsid()
        die_with_parent()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(output_end, 1)
        os.dup2(output_end, 2)
        _set_limits(request["limits"])
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
            file.write("1000")  # if memory runs out, this goes first
        os.chdir(request["cwd"])
        if abi:
            restrict_writes(request["writable"], abi)
        os.execve(request["argv"][0], request["argv"], request["env"])  # noqa: S606 - what it is for
    except (OSError, ValueError) as error:
        os.write(failure_end, str(error).encode("utf-8", errors="replace"))
    os._exit(_EXIT_NOT_STARTED)


def _set_limits(limits: Mapping[str, float]) -> None:
    cores = os.cpu_count() or 1
    num_processes = _num_own_threads() + int(limits["processes"]) * cores * 4
    wanted = {
        resource.RLIMIT_CPU: int(limits["timeout_s"] * cores) + 1,
        resource.RLIMIT_FSIZE: int(limits["file_mib"] * _MIB),
        resource.RLIMIT_NPROC: num_processes,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in wanted.items():
        _, hard = resource.getrlimit(limit)
        lower = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (lower, lower))


def _num_own_threads() -> int:
    """Threads that this user has now, which RLIMIT_NPROC counts along."""
    total = 0
    with contextlib.suppress(OSError):
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == os.getuid():
                    total += sum(1 for _ in os.scandir(f"{entry.path}/task"))
    return total
