"""The line on stderr: at a terminal only, and never a stranger's markup or escapes."""

from __future__ import annotations

import io
import sys

import pytest

from cotejar.report.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as show:
        show("measuring")

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["[/bold]", "a\x1b[2Jb"])
def test_a_name_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")

    with progress() as show:
        show(f"measuring {name}")

    written = terminal.getvalue()
    assert f"measuring {name}".replace("\x1b", r"\x1b") in written
    assert "\x1b[2J" not in written
