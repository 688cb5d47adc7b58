"""The commands as a user has them, on tiny models that are written once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from cotejar.cli.apr.group import apr
from cotejar.cli.run_command import run_command
from cotejar.formats.convert import import_model
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def run_apr(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """`run_apr("trace", path)`: in this process, through the one way out of every command."""

    def run(*args: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            run_command(apr, "apr", [str(arg) for arg in args])
        out, err = capsys.readouterr()
        return Done(int(caught.value.code or 0), out, err)

    return run


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama of two layers, hidden 96, ffn 160, with a tokenizer."""
    return write_tiny_gguf(tmp_path_factory.mktemp("cli") / "tiny.gguf", TinyDecoder())


@pytest.fixture(scope="session")
def tiny_apr(tiny_gguf: Path) -> Path:
    """The same, imported."""
    path = tiny_gguf.with_suffix(".apr")
    import_model(tiny_gguf, path)
    return path
