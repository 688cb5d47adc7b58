"""A tiny model as its caller holds it in memory, and where a model keeps its hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cotejar.testing.tiny_models import write_tiny_hugging_face

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cotejar.testing.tiny_decoder import TinyDecoder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOKENS = [5, 77, 300, 12]


@pytest.fixture
def hold(tmp_path: Path) -> Callable[..., Any]:
    """`hold(TinyDecoder(...))`: transformers' own model of a folder, read by itself."""

    def make(decoder: TinyDecoder | None = None, **options: Any) -> Any:
        folder = write_tiny_hugging_face(tmp_path / "held", decoder, overwrite=True)
        return transformers.AutoModelForCausalLM.from_pretrained(folder, **options)

    return make


@pytest.fixture
def hooks_in() -> Callable[[Any], int]:
    """How many hooks there are in all of a model's modules."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return lambda model: sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds)
