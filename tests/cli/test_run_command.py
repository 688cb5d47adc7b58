"""Every way a command can end: its exit code, its message, its JSON."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import click, errno, os, signal, sys
from cotejar.cli.signals import Terminated
from cotejar.cli.run_command import run_command
from cotejar.errors import FileError

@click.group()
def tool(): pass

@tool.command()
@click.option("--json", is_flag=True)
@click.option("--format")
@click.argument("how")
def go(how, json, format):
    if how == "error":
        raise FileError("it broke", where="here", expected="1", found="2", hint="mend it")
    if how == "bug":
        raise ValueError("two\\nlines")
    if how == "escape":
        evil = "a\\x1b[2J\\nerror"
        raise FileError(evil, where=evil, expected=evil, found=evil, hint=evil)
    if how == "half":
        half = os.fsdecode(bytes([255]))
        raise FileError("x", where=half, expected="x", found="x", hint="x")
    if how == "escaping bug":
        raise ValueError("a\\x1b[2J")
    if how == "panic":
        raise type("PanicException", (BaseException,), {})("in Rust")
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "SIGTERM" or how == "SIGHUP":
        raise Terminated(getattr(signal, how))
    if how == "full":
        raise OSError(errno.ENOSPC, "no space", "out.json")
    if how == "flood":
        for _ in range(100_000): click.echo("x" * 70)
    if how == "verdict":
        raise SystemExit(3)
    click.echo("done")

run_command(tool, "tool")
"""


def run(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_a_command_that_ends_well_exits_0() -> None:
    done = run("go", "well")

    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_verdict_is_the_exit_code() -> None:
    assert run("go", "verdict").returncode == 3


def test_an_error_is_its_message_and_its_own_code() -> None:
    done = run("go", "error")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error[APR-F001]: it broke\n"
        "  where     here\n"
        "  expected  1\n"
        "  found     2\n"
        "  try       mend it\n"
    )


@pytest.mark.parametrize("flags", [["--json"], ["--format", "json"], ["--format=json"]])
def test_with_json_an_error_is_also_one_object_on_stdout(flags: list[str]) -> None:
    done = run("go", *flags, "error")

    assert json.loads(done.stdout) == {
        "error": {
            "code": "APR-F001",
            "problem": "it broke",
            "where": "here",
            "expected": "1",
            "found": "2",
            "try": "mend it",
        },
        "exit_code": 2,
    }


def test_a_word_after_two_dashes_asks_for_nothing() -> None:
    assert run("go", "error", "--", "--json").stdout == ""


def test_bad_usage_exits_2_with_clicks_message_and_its_json() -> None:
    done = run("go", "--nope", "--json")

    assert done.returncode == 2
    assert "No such option" in done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "APR-U001"


def test_a_bug_is_one_line_without_a_traceback_and_exits_70() -> None:
    done = run("go", "bug")

    assert (done.returncode, done.stdout) == (70, "")
    assert done.stderr == (
        "error[APR-X070]: a bug of our own: ValueError: two lines; run it again with "
        "COTEJAR_DEBUG=1 and report what it prints\n"
    )


def test_the_traceback_of_a_bug_is_there_for_who_asks() -> None:
    done = run("go", "bug", env={"COTEJAR_DEBUG": "1"})

    assert "Traceback (most recent call last)" in done.stderr


def test_an_interrupt_exits_130_with_one_word() -> None:
    done = run("go", "interrupt")

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize(
    ("name", "code", "word"),
    [("SIGTERM", 143, "terminated\n"), ("SIGHUP", 129, "the terminal hung up\n")],
)
def test_a_signal_exits_as_a_shell_reports_it(name: str, code: int, word: str) -> None:
    done = run("go", name)

    assert (done.returncode, done.stdout, done.stderr) == (code, "", word)


def test_a_message_sends_no_escape_to_the_terminal() -> None:
    done = run("go", "escape", "--json")

    shown = r"a\x1b[2J\nerror"
    assert done.stderr == (
        f"error[APR-F001]: {shown}\n"
        f"  where     {shown}\n"
        f"  expected  {shown}\n"
        f"  found     {shown}\n"
        f"  try       {shown}\n"
    )
    assert json.loads(done.stdout)["error"]["found"] == "a\x1b[2J\nerror"


@pytest.mark.parametrize("args", [("\x1b[2J",), ("go", "--\x1b[2J"), ("go", "escaping bug")])
def test_neither_does_what_click_or_a_bug_says(args: tuple[str, ...]) -> None:
    done = run(*args)

    assert "\x1b" not in done.stderr
    assert r"\x1b[2J" in done.stderr


def test_a_name_that_is_no_utf_8_has_its_json() -> None:
    assert json.loads(run("go", "half", "--json").stdout)["error"]["where"] == "\udcff"


def test_a_panic_of_a_library_is_a_bug_and_no_traceback() -> None:
    done = run("go", "panic")

    assert done.returncode == 70
    assert done.stderr.startswith("error[APR-X070]: a bug of our own: PanicException: in Rust;")


def test_a_full_disk_is_an_error_of_the_machine_not_a_bug() -> None:
    done = run("go", "full")

    assert done.returncode == 2
    assert done.stderr.startswith("error[APR-F005]: the output could not be written whole\n")


def test_a_reader_that_goes_away_ends_the_command_quietly() -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "go", "flood"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert writer.stdout is not None
    assert writer.stderr is not None
    writer.stdout.read(10)
    writer.stdout.close()

    assert writer.wait(timeout=60) == 141
    assert writer.stderr.read() == b""
    writer.stderr.close()
