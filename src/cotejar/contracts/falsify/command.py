"""From a contract's `test:` text to what may be started, or why nothing is.

A text is split into words as a shell would, and started without one. Its first word must be
a program that the project allows. Prose therefore never runs, and neither does a text that
needs a shell, unless the user asks for one.
"""

from __future__ import annotations

import enum
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.contracts.evidence.project import Project

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_PYTHON = re.compile(r"python(3(\.\d+)?)?")
_MAX_SHOWN = 40
MAX_TEXT = 64 * 1024
"""Half of what Linux takes as one argument; a record holds it twice."""


class Program(enum.StrEnum):
    """Whose exit codes a command has."""

    PYTEST = "pytest"
    COTEJAR = "cotejar"
    OTHER = "other"


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """What will be started."""

    words: tuple[str, ...]
    """As the contract has them."""
    argv: tuple[str, ...]
    """With the program's path; or a shell and the whole text."""
    program: Program


@dataclass(frozen=True, kw_only=True, slots=True)
class NotRunnable:
    """Why nothing will be started."""

    reason: str


def plan_command(text: str | None, project: Project, *, shell: bool) -> Command | NotRunnable:
    """Decide what a `test:` text starts."""
    text = text or ""
    words, refused = _read_words(text)
    refused = refused or _why_refused(words, project)
    if refused:
        return NotRunnable(reason=refused)
    syntax = _shell_syntax(text)
    if syntax and not shell:
        return NotRunnable(reason=f"it needs a shell for `{syntax}`; --shell allows one")
    if syntax:
        return Command(words=words, argv=("/bin/sh", "-c", text), program=Program.OTHER)
    path = _find_program(words[0], project.root)
    if path is None:
        return NotRunnable(reason=f"the program {words[0]} is not installed")
    return Command(words=words, argv=(path, *words[1:]), program=_program(words))


def interpreter_folder() -> Path:
    """The folder of the running interpreter, where its environment's programs are."""
    return Path(sys.executable).parent


def _read_words(text: str) -> tuple[tuple[str, ...], str]:
    """The words of a text, and why it has none if it cannot be a command."""
    if len(text) > MAX_TEXT:
        return (), f"its text is longer than {MAX_TEXT} characters"
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        return (), f"prose: as a command it has an error: {error}"
    return words, "" if words else "it names no command"


def _why_refused(words: Sequence[str], project: Project) -> str:
    """Why the first word starts nothing; "" if the project allows it."""
    first = words[0]
    if first in project.allow:
        return ""
    if _ASSIGNMENT.match(first):
        # Otherwise `PATH=evil pytest` would be a way around the list.
        return "it sets a variable first; it must start with a program"
    allowed = ", ".join(project.allow)
    if "/" in first or shutil.which(first):
        return f"{first} is not among the programs that the project allows ({allowed})"
    shown = first if len(first) <= _MAX_SHOWN else first[:_MAX_SHOWN] + "..."
    return f"prose: it starts with {shown!r}, no program that the project allows ({allowed})"


def _find_program(name: str, root: Path) -> str | None:
    if "/" in name:
        path = root / name
        return str(path) if shutil.which(str(path)) else None
    beside = shutil.which(name, path=str(interpreter_folder()))
    if beside is None and _PYTHON.fullmatch(name):
        return sys.executable
    return beside or shutil.which(name)


def _program(words: Sequence[str]) -> Program:
    first = Path(words[0]).name
    if first in {"pytest", "py.test"} or (_PYTHON.match(first) and _runs_module(words)):
        return Program.PYTEST
    return Program.COTEJAR if first in {"apr", "pv", "cotejar"} else Program.OTHER


def _runs_module(words: Sequence[str]) -> bool:
    """`python [-X...] -m pytest`."""
    options = list(words[1:])
    while options and options[0].startswith("-") and options[0] not in {"-m", "-c", "-"}:
        options.pop(0)
    return options[:2] == ["-m", "pytest"]


def _shell_syntax(text: str) -> str | None:
    """The first character that only a shell gives its meaning to."""
    quote = ""
    escaped = False
    for character in text:
        if escaped:
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif quote == "'":
            quote = "" if character == "'" else quote
        elif character in "$`":
            return character
        elif quote:
            quote = "" if character == '"' else quote
        elif character in "'\"":
            quote = character
        elif character in "|&;<>()":
            return character
    return None
