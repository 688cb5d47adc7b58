"""Tiny models that faults are put into, opened once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cotejar.model.language_model import LanguageModel, open_language_model
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf

if TYPE_CHECKING:
    from collections.abc import Callable

WIDE = {"hidden_size": 256, "num_heads": 8, "ffn_size": 512, "num_layers": 2}
DECODERS = {
    "llama": TinyDecoder(num_layers=3, block_type=BlockType.Q4_1),
    "qwen2": TinyDecoder(num_layers=3, architecture="qwen2"),
    "Q4_0": TinyDecoder(num_layers=3, block_type=BlockType.Q4_0),
    "Q8_0": TinyDecoder(num_layers=3, block_type=BlockType.Q8_0),
    "Q4_K": TinyDecoder(**WIDE, block_type=BlockType.Q4_K),
}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LanguageModel]:
    """`model("qwen2")`: one of `DECODERS`."""
    folder = tmp_path_factory.mktemp("faults")
    opened: dict[str, LanguageModel] = {}

    def open_one(name: str) -> LanguageModel:
        if name not in opened:
            path = write_tiny_gguf(folder / f"{name}.gguf", DECODERS[name])
            opened[name] = open_language_model(path)
        return opened[name]

    return open_one
