"""What a `test:` text starts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cotejar.contracts.evidence.project import Project
from cotejar.contracts.falsify.command import Command, NotRunnable, Program, plan_command


def plan(text: str, *, shell: bool = False, root: Path = Path("/")) -> Command | NotRunnable:
    project = Project(root=root, evidence=root / "evidence")
    return plan_command(text, project, shell=shell)


def test_programs_come_from_the_running_interpreters_folder_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impostor = tmp_path / "python"
    impostor.write_text("#!/bin/sh\n")
    impostor.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    found = plan("python -V")

    assert isinstance(found, Command)
    assert Path(found.argv[0]).parent == Path(sys.executable).parent


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("pytest -q tests", Program.PYTEST),
        ("python -m pytest tests", Program.PYTEST),
        ("python -Werror -m pytest", Program.PYTEST),
        ("python -c 'import pytest'", Program.OTHER),
        ("python -m timeit", Program.OTHER),
        ("pv validate contracts", Program.COTEJAR),
    ],
)
def test_exit_codes_are_read_as_the_programs_own(text: str, program: Program) -> None:
    found = plan(text)

    assert isinstance(found, Command)
    assert found.program is program


@pytest.mark.parametrize(
    "text",
    [
        "python -c 'print(1 | 2); a < b'",
        'python -c "print(1 > 2)"',
        r"python a\|b",
        "python '$HOME'",
        "pytest 'tests/x.py::test_y[a-b]'",
    ],
)
def test_what_is_quoted_needs_no_shell(text: str) -> None:
    assert isinstance(plan(text), Command)


@pytest.mark.parametrize("character", "|&;<>()`$")
def test_each_character_of_a_shell_is_seen(character: str) -> None:
    found = plan(f"python a {character} b")

    assert found == NotRunnable(
        reason=f"it needs a shell for `{character}`; --shell allows one"
    )


def test_a_shell_gets_the_whole_text() -> None:
    found = plan("python a | cat", shell=True)

    assert isinstance(found, Command)
    assert found.argv == ("/bin/sh", "-c", "python a | cat")
