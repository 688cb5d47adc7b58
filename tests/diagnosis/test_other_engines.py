"""Other people's engines are right about what they declare: no alarm, and tight limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cotejar.diagnosis.diagnose import diagnose
from cotejar.diagnosis.request import Request
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf, write_tiny_hugging_face
from cotejar.verdict import Verdict

from .conftest import TOKENS

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Models


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_llamacpp_is_explained_by_what_it_rounds(models: Models, name: str) -> None:
    pytest.importorskip("llama_cpp")
    path = models.path(name)

    result = diagnose(
        Request(reference=f"oracle:{path}", candidate=f"llamacpp:{path}", token_ids=TOKENS)
    )

    assert (result.verdict, result.site) == (Verdict.PASS, None)
    products = [
        e for e in result.errors
        if e.side == "candidate" and e.site.endswith((".q", ".ffn_out", "logits"))
    ]  # fmt: skip
    # What is left is float32's; its 8-bit activations alone would be 1e-3.
    assert max(e.rel_l2 for e in products) < 1e-5


def test_transformers_is_explained_by_what_it_rounds(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    decoder = TinyDecoder(num_layers=2, architecture="qwen2")
    gguf = write_tiny_gguf(tmp_path / "tiny.gguf", decoder)
    folder = write_tiny_hugging_face(tmp_path / "tiny", decoder)

    result = diagnose(
        Request(
            reference=f"oracle:{gguf}",
            candidate=f"transformers+bf16:{folder}",
            token_ids=TOKENS,
        )
    )

    assert (result.verdict, result.site) == (Verdict.PASS, None)
