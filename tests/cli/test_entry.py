"""Before anything is imported: signals have their meaning, and closed streams lead nowhere."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import signal, sys
sys.path.insert(0, {folder!r})
from cotejar.cli.entry import run_entry
run_entry("group_under_test:group", "tool")
"""
GROUP = """
import os, signal
{at_import}
import click

@click.group()
def group(): pass

@group.command()
def go():
    {in_verb}
"""
ENDS = pytest.mark.parametrize(
    ("name", "code", "word"),
    [
        ("SIGINT", 130, "interrupted\n"),
        ("SIGTERM", 143, "terminated\n"),
        ("SIGHUP", 129, "the terminal hung up\n"),
    ],
)


def run(
    folder: Path, *, at_import: str = "", in_verb: str = "pass", program: str = PROGRAM
) -> subprocess.CompletedProcess[str]:
    (folder / "group_under_test.py").write_text(
        GROUP.format(at_import=at_import, in_verb=in_verb)
    )
    command = [sys.executable, "-c", program.format(folder=str(folder)), "go"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@ENDS
def test_a_signal_while_the_command_is_imported(
    tmp_path: Path, name: str, code: int, word: str
) -> None:
    done = run(tmp_path, at_import=f"os.kill(os.getpid(), signal.{name})")

    assert (done.returncode, done.stdout, done.stderr) == (code, "", word)


@ENDS
def test_a_signal_while_it_runs(tmp_path: Path, name: str, code: int, word: str) -> None:
    done = run(tmp_path, in_verb=f"os.kill(os.getpid(), signal.{name}); signal.pause()")

    assert (done.returncode, done.stdout, done.stderr) == (code, "", word)


def test_a_signal_that_was_ignored_stays_so(tmp_path: Path) -> None:
    """As `nohup` has it."""
    program = PROGRAM.replace(
        "sys.path", "signal.signal(signal.SIGHUP, signal.SIG_IGN)\nsys.path", 1
    )

    done = run(tmp_path, in_verb="os.kill(os.getpid(), signal.SIGHUP)", program=program)

    assert (done.returncode, done.stderr) == (0, "")


@ENDS
def test_a_command_that_has_ended_dies_of_a_signal_without_a_word(
    tmp_path: Path, name: str, code: int, word: str
) -> None:
    """What Python does on its way out would print a traceback."""
    at_exit = f"import atexit; atexit.register(os.kill, os.getpid(), signal.{name})"

    done = run(tmp_path, at_import=at_exit)

    assert (done.returncode, done.stderr) == (-getattr(signal, name), "")


@pytest.mark.parametrize(
    ("closed", "args", "code", "said"),
    [
        (">&-", "inspect {model}", 0, False),
        (">&-", "inspect {model} --json", 0, False),
        (">&-", "inspect nothing", 2, True),
        ("2>&-", "inspect nothing", 2, False),
        (">&- 2>&-", "inspect {model}", 0, False),
        ("<&- >&- 2>&-", "--nope", 2, False),
        ("<&- >&- 2>&-", "import {model} -o {folder}/new.apr", 0, False),
    ],
)
def test_a_closed_stream_is_no_bug(
    tiny_gguf: Path, tmp_path: Path, closed: str, args: str, code: int, said: bool
) -> None:
    program = "from cotejar.cli.apr.main import main; main()"
    args = args.format(model=tiny_gguf, folder=tmp_path)
    line = f"{sys.executable} -c '{program}' {args} {closed}"

    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == code
    assert done.stderr.startswith("error[APR-F002]") if said else done.stderr == ""
    if "import" in args:  # and nothing that was said went into the model
        whole = subprocess.run(
            [
                "sh",
                "-c",
                f"{sys.executable} -c '{program}' inspect {tmp_path}/new.apr --verify",
            ],
            capture_output=True,
            check=False,
        )
        assert whole.returncode == 0
