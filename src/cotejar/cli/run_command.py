"""One way out of every command: a message, an exit code, never a traceback.

| what ends a command                    | stderr                  | exit       |
| -------------------------------------- | ----------------------- | ---------- |
| a verdict (`raise SystemExit(code)`)   |                         | the code   |
| a `CotejarError`                       | the error's message     | its own    |
| bad usage that click found             | click's message         | 2          |
| a full disk under stdout               | the error's message     | 2          |
| Ctrl-C, SIGTERM, SIGHUP                | a word (`entry`)        | 130 143 129 |
| the reader of our output went away     |                         | 141        |
| anything else                          | one line: our own bug   | 70         |

With `--json` the error is also one JSON object on stdout: `{"error": {...}, "exit_code": n}`.
`COTEJAR_DEBUG=1` adds the traceback of a bug.
"""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import sys
import traceback
from typing import TYPE_CHECKING, NoReturn

import click

from cotejar.cli.signals import report_interrupt
from cotejar.errors import CotejarError, UsageError, WriteError, visible
from cotejar.verdict import EXIT_OUR_BUG, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_BROKEN_PIPE = 141
"""128 + SIGPIPE: what a shell reports for a program that the signal ended."""

BUG_CODE = "APR-X070"
"""The code of a failure that no error class describes."""


def run_command(group: click.Group, prog_name: str, argv: list[str] | None = None) -> NoReturn:
    """Run `group` on `argv` (default: the process's own arguments) and exit."""
    args = sys.argv[1:] if argv is None else argv
    try:
        code = _invoke(group, prog_name, args)
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        code = report_interrupt(interrupt)
    except click.ClickException as error:
        code = _report_usage(error, as_json=_asks_for_json(args))
    except CotejarError as error:
        code = _report(error, as_json=_asks_for_json(args))
    except BaseException as error:  # noqa: BLE001 - the last net: whatever is left is our bug,
        # a panic of a library in Rust among it, which is no Exception.
        code = _report_system_or_bug(error, as_json=_asks_for_json(args))
    sys.exit(code)


def _invoke(group: click.Group, prog_name: str, args: Sequence[str]) -> int:
    """Run the command; return its exit code.

    Not `group.main`: that turns a closed pipe into exit 1, which is our FAIL.
    """
    instruction = os.environ.get(f"_{prog_name.upper().replace('-', '_')}_COMPLETE")
    if instruction:
        from click.shell_completion import shell_complete

        variable = f"_{prog_name.upper().replace('-', '_')}_COMPLETE"
        return shell_complete(group, {}, prog_name, variable, instruction)
    try:
        with group.make_context(prog_name, list(args)) as context:
            group.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0


def _asks_for_json(args: Sequence[str]) -> bool:
    """Does the command line ask for JSON, in either of the two spellings?"""
    before_dashes = list(args[: args.index("--")] if "--" in args else args)
    pairs = itertools.pairwise(before_dashes)
    return (
        "--json" in before_dashes
        or "--format=json" in before_dashes
        or any(pair in {("--format", "json"), ("-f", "json")} for pair in pairs)
    )


def _report(error: CotejarError, *, as_json: bool) -> int:
    click.echo(str(error), err=True)
    _print_json(error.as_json(), error.exit_code, as_json=as_json)
    return error.exit_code


def _report_usage(error: click.ClickException, *, as_json: bool) -> int:
    facts = {"code": UsageError.code, "problem": error.format_message()}
    shown = io.StringIO()
    error.show(shown)
    # What was typed is in it, and may come out of another program: it is shown, not sent.
    click.echo("\n".join(map(visible, shown.getvalue().split("\n"))), nl=False, err=True)
    _print_json(facts, error.exit_code, as_json=as_json)
    return error.exit_code


def _report_system_or_bug(error: BaseException, *, as_json: bool) -> int:
    if isinstance(error, BrokenPipeError):
        return _close_quietly()
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        _silence_stdout()
        full = WriteError(
            "the output could not be written whole",
            where=error.filename or "standard output",
            expected="room to write",
            found=os.strerror(error.errno),
            hint="free some space, or write the output to another disk",
        )
        return _report(full, as_json=False)
    if os.environ.get("COTEJAR_DEBUG") == "1":
        traceback.print_exception(error)
    summary = visible(" ".join(str(error).split()))
    click.echo(
        f"error[{BUG_CODE}]: a bug of our own: {type(error).__name__}: {summary}; "
        "run it again with COTEJAR_DEBUG=1 and report what it prints",
        err=True,
    )
    facts = {"code": BUG_CODE, "problem": f"{type(error).__name__}: {summary}"}
    _print_json(facts, EXIT_OUR_BUG, as_json=as_json)
    return EXIT_OUR_BUG


def _print_json(facts: dict[str, str], exit_code: int, *, as_json: bool) -> None:
    if not as_json:
        return
    said: dict[str, object] = {"error": facts, "exit_code": exit_code}
    if exit_code == Verdict.INCOMPARABLE.exit_code:  # who reads verdicts finds one here, too
        said["verdict"] = Verdict.INCOMPARABLE.value
    text = json.dumps(said, ensure_ascii=False)
    try:
        # A file name that is not UTF-8 has half surrogate pairs in it.
        click.echo(text.encode("utf-8", "backslashreplace"))
        sys.stdout.flush()
    except OSError:
        _silence_stdout()


def _close_quietly() -> int:
    _silence_stdout()
    return EXIT_BROKEN_PIPE


def _silence_stdout() -> None:
    """Send what is still buffered nowhere, so that the interpreter's last flush cannot fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
