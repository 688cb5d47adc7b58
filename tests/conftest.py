"""What the tests of many rooms share: where the real models are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cotejar.errors import MissingExtraError
from cotejar.formats.open_model import resolve_model_path

QWEN = "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf"


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
