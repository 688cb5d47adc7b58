"""`apr chat` from the outside: lines from a pipe are answered in turn."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def talk(model: Path, lines: str) -> subprocess.CompletedProcess[str]:
    program = "from cotejar.cli.apr.main import main; main()"
    command = [sys.executable, "-c", program, "chat", str(model), "-n", "4"]
    return subprocess.run(
        command, input=lines, capture_output=True, text=True, timeout=120, check=False
    )


def test_lines_are_answered_in_turn_with_how_fast(demo_model: Path) -> None:
    done = talk(demo_model, "Name a colour.\n\nAnother?\n/history\n/quit\nnever said\n")

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("user: ") == 2
    assert "never said" not in done.stdout
    rates = [line for line in done.stderr.splitlines() if " tokens/s, first after " in line]
    assert len(rates) == 2
    assert "0 of" in rates[0]
    assert "0 of" not in rates[1]


def test_what_fails_is_said_and_the_conversation_goes_on(demo_model: Path) -> None:
    done = talk(demo_model, f"{'word ' * 9000}\n/nothing\nName a colour.\n/clear\n/history\n")

    assert done.returncode == 0
    assert "error[APR-U004]: the conversation has become too long" in done.stderr
    assert "there is no /nothing" in done.stderr
    assert "[4 tokens, " in done.stderr
    assert "user:" not in done.stdout
