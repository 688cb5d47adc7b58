"""Start a supervisor for one command, and bring back what became of it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import cotejar
from cotejar.contracts.falsify.command import interpreter_folder
from cotejar.contracts.falsify.judge import Ending, find_refused_write, judge
from cotejar.contracts.falsify.landlock import landlock_abi
from cotejar.contracts.falsify.pytest_report import read_pytest_report
from cotejar.contracts.falsify.snapshot import changed_paths, take_snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cotejar.contracts.evidence.project import Project
    from cotejar.contracts.falsify.command import Command

DEPTH_VARIABLE = "COTEJAR_FALSIFYING"
"""Set in every command's environment, so that a contract cannot run itself for ever."""
_LATE_S = 30.0
"""How long after the time limit a supervisor may still be ending a command."""
_MAX_WHY = 200
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from cotejar.contracts.falsify.supervisor import main; main()"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One command's run, judged."""

    ending: Ending
    exit_code: int | None
    signal: str | None
    duration_s: float
    output_bytes: int
    output_sha256: str
    output_tail: str
    """The last 64 KiB."""
    confinement: str


def run_command(
    command: Command, project: Project, *, timeout_s: float | None, landlock: bool
) -> Run:
    """Run a command in the project's root, within its limits, and judge it.

    It may write to a scratch folder of its own, where its temporary files go, and to the
    project's writable folders; the scratch folder is removed afterwards.

    Args:
        command: what to start.
        project: where, and within which limits.
        timeout_s: instead of the project's, if given.
        landlock: use it where the kernel has it; without it writes are only noticed.
    """
    limits = project.limits
    if timeout_s is not None:
        limits = replace(limits, timeout_s=timeout_s)
    with TemporaryDirectory(prefix="cotejar-falsify-", ignore_cleanup_errors=True) as name:
        scratch = Path(name).resolve()
        (scratch / "tmp").mkdir()
        writable = (scratch, *project.writable)
        request = {
            "argv": list(command.argv),
            "cwd": str(project.root),
            "env": _environment(scratch),
            "limits": asdict(limits),
            "scratch": str(scratch),
            "writable": [str(folder) for folder in writable],
            "landlock": landlock,
        }
        is_confined = landlock and landlock_abi() > 0
        before = {} if is_confined else take_snapshot(project.root, writable)
        reply = _ask_supervisor(request)
        after = {} if is_confined else take_snapshot(project.root, writable)
        report = read_pytest_report(scratch / "pytest.xml")
    refused = None
    if is_confined:
        refused = find_refused_write(reply["output_tail"], project.root, writable)
    changed = changed_paths(before, after)
    return Run(
        ending=judge(reply, command.program, report, refused=refused, changed=changed),
        exit_code=reply["exit_code"],
        signal=reply["signal"],
        duration_s=reply["duration_s"],
        output_bytes=reply["output_bytes"],
        output_sha256=reply["output_sha256"],
        output_tail=reply["output_tail"],
        confinement=f"landlock-{landlock_abi()}" if is_confined else "snapshot",
    )


def _ask_supervisor(request: Mapping[str, Any]) -> dict[str, Any]:
    source_folder = str(Path(cotejar.__file__).parent.parent)
    argv = [sys.executable, "-I", "-S", "-c", _PROGRAM, source_folder]
    # A session of its own: Ctrl-C reaches us first, and we end the command in order.
    with subprocess.Popen(  # noqa: S603 - our own program
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            within_s = request["limits"]["timeout_s"] + _LATE_S
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                if not selector.select(within_s):
                    process.kill()  # it was suspended from outside: alone it is never late
            answer = process.stdout.read()
        finally:
            # The end of its stdin tells the supervisor to end the command, and itself.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()
        errors = process.stderr.read().decode("utf-8", errors="replace").strip()
    try:
        reply: dict[str, Any] = json.loads(answer)
    except ValueError:
        why = errors.rpartition("\n")[2][-_MAX_WHY:] or "no message"
        return _lost_reply(f"its supervisor was lost (status {process.returncode}: {why})")
    return reply


def _lost_reply(detail: str) -> dict[str, Any]:
    """The supervisor itself was ended: nothing is known of the command."""
    return {
        "exit_code": None,
        "signal": None,
        "stopped": "supervisor",
        "detail": detail,
        "not_started": None,
        "duration_s": 0.0,
        "output_bytes": 0,
        "output_sha256": "",
        "output_tail": "",
        "num_left": 0,
    }


def _environment(scratch: Path) -> dict[str, str]:
    """Ours, with the interpreter's programs first and everything temporary in `scratch`."""
    temporary = str(scratch / "tmp")
    old_path = os.environ.get("PATH", os.defpath)
    pytest_options = [
        os.environ.get("PYTEST_ADDOPTS", ""),
        "-o " + shlex.quote(f"cache_dir={scratch / 'pytest-cache'}"),
        "--junitxml=" + shlex.quote(str(scratch / "pytest.xml")),
    ]
    return {
        **os.environ,
        "PATH": f"{interpreter_folder()}{os.pathsep}{old_path}",
        "TMPDIR": temporary,
        "TEMP": temporary,
        "TMP": temporary,
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(scratch / "hypothesis"),
        "PYTEST_ADDOPTS": " ".join(option for option in pytest_options if option),
        DEPTH_VARIABLE: "1",
    }
