"""How a command ended -> a verdict.

| how it ended                                          | verdict   |
| ----------------------------------------------------- | --------- |
| a limit broken, a signal, a write refused or noticed  | STOPPED   |
| could not be started                                  | STOPPED   |
| pytest: exit 2 to 5 (usage, collection, no such test) | STOPPED   |
| apr, pv, cotejar: exit 2, 3, 70 (nothing was judged)  | STOPPED   |
| any other exit code but 0                             | FALSIFIED |
| pytest: exit 0, but every test was skipped            | NOT-RUN   |
| exit 0                                                | SURVIVED  |

STOPPED is no pass: the prediction was neither tried to the end nor contradicted.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotejar.contracts.evidence.record import FalsificationVerdict
from cotejar.contracts.falsify.command import Program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cotejar.contracts.falsify.pytest_report import PytestReport

_DENIED = ": Permission denied"
_ERRNO_13 = "[Errno 13]"
_MAX_PATH = 4096
"""No longer path can be named to the system."""
_BEFORE_A_NAME = re.compile(r"[\s:'\"]")
_TOO_LARGE = os.strerror(errno.EFBIG)
_PYTEST_EXITS = {
    2: "the run was interrupted, or a test file does not import",
    3: "an internal error of pytest",
    4: "bad usage, or no such test",
    5: "no test was found",
}
_COTEJAR_EXITS = {2: "bad usage or bad input", 3: "nothing was measured", 70: "a bug of ours"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """A verdict and why."""

    verdict: FalsificationVerdict
    reason: str


def judge(
    reply: Mapping[str, Any],
    program: Program,
    report: PytestReport | None,
    *,
    refused: str | None,
    changed: Sequence[str],
) -> Ending:
    """Judge one run.

    Args:
        reply: the supervisor's.
        program: whose exit codes these are.
        report: pytest's own account, if the command was or started pytest.
        refused: a path outside the writable folders that it was kept from writing.
        changed: files that were seen to change outside the writable folders.
    """
    stopped = _why_stopped(reply, changed)
    if stopped:
        return Ending(verdict=FalsificationVerdict.STOPPED, reason=stopped)
    code = reply["exit_code"]
    if code != 0:
        broken = _why_broken(reply, refused)
        if broken:
            return Ending(verdict=FalsificationVerdict.STOPPED, reason=broken)
        meanings = {Program.PYTEST: _PYTEST_EXITS, Program.COTEJAR: _COTEJAR_EXITS}
        meaning = meanings.get(program, {}).get(code)
        if meaning:
            reason = f"exit {code}: {meaning}"
            return Ending(verdict=FalsificationVerdict.STOPPED, reason=reason)
        return Ending(verdict=FalsificationVerdict.FALSIFIED, reason=f"exit {code}")
    if program is Program.PYTEST or report is not None:
        return _judge_pytest(report)
    left = reply["num_left"]
    reason = f"it left {left} processes running, which were ended" if left else ""
    return Ending(verdict=FalsificationVerdict.SURVIVED, reason=reason)


def find_refused_write(output: str, cwd: Path, writable: Sequence[Path]) -> str | None:
    """A path that the output says was denied, and that only the confinement denied.

    The system says "permission denied" for other reasons too; a path counts if it lies
    outside `writable` and this process, which is not confined, could write there.
    """
    for line in output.splitlines():
        name = _denied_name(line)
        if name and _could_write(cwd / name, writable):
            return name
    return None


def _denied_name(line: str) -> str:
    """The path that a line says was denied; "" if it says nothing of the kind.

    By hand, since a flood may be one line of megabytes, on which a pattern takes for ever.
    """
    _, python, rest = line.partition(_ERRNO_13)
    if python:  # [Errno 13] Permission denied: 'path'
        return rest.partition(": '")[2][: _MAX_PATH + 1].partition("'")[0]
    at = line.rfind(_DENIED)
    before = line[max(0, at - _MAX_PATH) : at] if at > 0 else ""
    if before.endswith("'"):  # touch: cannot touch 'path': Permission denied
        return before[:-1].rpartition("'")[2]
    return _BEFORE_A_NAME.split(before)[-1]  # sh: 1: cannot create path: Permission denied


def _could_write(path: Path, writable: Sequence[Path]) -> bool:
    """Does it lie outside `writable`, and may this process, which is not confined, write?"""
    try:
        path = path.resolve()
        there = path if path.exists() else path.parent
    except (OSError, ValueError):  # no path at all
        return False
    inside = any(path.is_relative_to(folder) for folder in writable)
    return not inside and os.access(there, os.W_OK)


def _why_stopped(reply: Mapping[str, Any], changed: Sequence[str]) -> str:
    if reply["not_started"]:
        return f"it could not be started: {reply['not_started']}"
    if reply["stopped"]:
        return str(reply["detail"])
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        return f"it wrote outside its folder: {changed[0]}{more}"
    if reply["signal"]:
        return f"it was ended by {reply['signal']}"
    if reply["exit_code"] is None:
        return "it did not end"
    return ""


def _why_broken(reply: Mapping[str, Any], refused: str | None) -> str:
    """A limit of which only the command itself was told."""
    if refused:
        return f"it tried to write outside its folder: {refused}"
    # RLIMIT_FSIZE; Python ignores the signal and sees the error.
    return "it wrote a file that is too large" if _TOO_LARGE in reply["output_tail"] else ""


def _judge_pytest(report: PytestReport | None) -> Ending:
    if report is None:
        reason = "pytest left no report of which tests it ran"
        return Ending(verdict=FalsificationVerdict.NOT_RUN, reason=reason)
    if report.num_tried == 0:
        reason = f"every test was skipped: {report.skip_reason or 'no reason given'}"
        return Ending(verdict=FalsificationVerdict.NOT_RUN, reason=reason)
    reason = ""
    if report.num_skipped:
        reason = f"{report.num_tried} of {report.num_tests} tests ran, the rest were skipped"
    return Ending(verdict=FalsificationVerdict.SURVIVED, reason=reason)
