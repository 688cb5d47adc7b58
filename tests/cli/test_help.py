"""The help of every verb: it folds on a narrow terminal, and loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from cotejar.cli.apr.group import APR_VERBS, apr
from cotejar.cli.pv.group import PV_VERBS, pv
from cotejar.parity.preconditions import WAIVABLE

if TYPE_CHECKING:
    import click

VERBS = [(apr, verb) for verb in APR_VERBS] + [(pv, verb) for verb in PV_VERBS]


def help_of(group: click.Group, verb: str, width: int = 80) -> str:
    done = CliRunner().invoke(group, [verb, "--help"], terminal_width=width)
    assert done.exit_code == 0
    return done.stdout


@pytest.mark.parametrize(("group", "verb"), VERBS)
def test_help_fits_a_terminal_of_60_columns(group: click.Group, verb: str) -> None:
    lines = help_of(group, verb, width=60).splitlines()

    assert [line for line in lines if len(line) > 60] == []


def block_of(text: str, heading: str) -> list[str]:
    """The words of the lines below a heading that stand further in than it."""
    lines = iter(text.splitlines())
    indent = next(len(h) - len(h.lstrip()) for h in lines if h.strip().startswith(heading))
    words: list[str] = []
    for line in lines:
        if len(line) - len(line.lstrip()) <= indent:
            break
        words += line.split()
    return words


def test_paritys_help_names_what_can_be_waived() -> None:
    text = help_of(apr, "parity", width=60)

    assert block_of(text, "--waive takes") == list(WAIVABLE)


@pytest.mark.parametrize("verb", APR_VERBS)
def test_the_help_of_a_verb_loads_no_numpy(verb: str) -> None:
    code = (
        "import sys\n"
        "from cotejar.cli.apr.group import apr\n"
        f"apr(['{verb}', '--help'], standalone_mode=False)\n"
        "print('numpy' in sys.modules)"
    )

    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )

    assert run.stdout.endswith("\nFalse\n")
