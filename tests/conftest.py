"""What the tests of many rooms share: where the real models are, and tiny models to open."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from cotejar.errors import MissingExtraError
from cotejar.formats.open_model import resolve_model_path
from cotejar.model.language_model import open_language_model
from cotejar.testing.tiny_models import (
    write_tiny_apr,
    write_tiny_gguf,
    write_tiny_hugging_face,
)

if TYPE_CHECKING:
    from cotejar.model.config import RopePairing
    from cotejar.model.language_model import LanguageModel
    from cotejar.testing.tiny_decoder import TinyDecoder

QWEN = "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf"

# A run in a shell's background inherits "ignore Ctrl-C", and so would every command that a
# test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# And under `nohup`, "ignore a hang-up".
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """SmolLM2-135M-Instruct as a GGUF, from the extra `demo`."""
    try:
        return resolve_model_path("demo:smollm2")
    except MissingExtraError as error:
        pytest.skip(error.problem)


@pytest.fixture(scope="session")
def qwen_model() -> Path:
    """Qwen2.5-Coder-0.5B-Instruct as a GGUF, where COTEJAR_MODELS names its folder."""
    folder = os.environ.get("COTEJAR_MODELS")
    if not folder:
        pytest.skip(f"COTEJAR_MODELS names no folder that holds {QWEN}")
    path = Path(folder) / QWEN
    if not path.is_file():
        pytest.skip(f"no {QWEN} in {folder}, which COTEJAR_MODELS names")
    return path


class TinyModels:
    """Writes tiny models into the test's folder and opens them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        decoder: TinyDecoder | None = None,
        kind: Literal["gguf", "apr", "safetensors"] = "gguf",
        *,
        pairing: RopePairing = "halves",
    ) -> LanguageModel:
        path = self.folder / f"tiny-{len(list(self.folder.iterdir()))}.{kind}"
        if kind == "gguf":
            write_tiny_gguf(path, decoder)
        elif kind == "apr":
            write_tiny_apr(path, decoder, pairing=pairing)
        else:
            write_tiny_hugging_face(path, decoder)
        return open_language_model(path)


@pytest.fixture
def tiny(tmp_path: Path) -> TinyModels:
    """`tiny(TinyDecoder(...), "apr")` writes a model and opens it."""
    folder = tmp_path / "tiny-models"
    folder.mkdir()
    return TinyModels(folder)
