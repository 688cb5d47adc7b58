"""Tiny models that faults are put into, opened once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cotejar.errors import UsageError
from cotejar.faults.catalogue import inject_fault
from cotejar.formats.gguf.reader import open_gguf
from cotejar.formats.gguf.value import GgufValue, ValueType
from cotejar.formats.gguf.writer import GgufTensor, write_gguf
from cotejar.model.language_model import LanguageModel, open_language_model
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WIDE = {"hidden_size": 256, "num_heads": 8, "ffn_size": 512}
LINEAR = {"rope_type": "linear", "factor": 4.0}
DECODERS = {
    "llama": TinyDecoder(num_layers=3, block_type=BlockType.Q4_1),
    "mistral": TinyDecoder(num_layers=3, architecture="mistral", sliding_window=4),
    "qwen2": TinyDecoder(num_layers=3, architecture="qwen2", tied_embeddings=True),
    "qwen3": TinyDecoder(num_layers=3, architecture="qwen3", rope_scaling=LINEAR),
    "gemma3": TinyDecoder(
        num_layers=3,
        architecture="gemma3",
        sliding_window=3,
        rope_theta=1e6,
        final_softcap=5.0,
    ),
    "biased": TinyDecoder(num_layers=3, attention_bias=True, mlp_bias=True),
    "Q4_0": TinyDecoder(num_layers=3, block_type=BlockType.Q4_0),
    "Q8_0": TinyDecoder(num_layers=3, block_type=BlockType.Q8_0),
    "Q4_K": TinyDecoder(**WIDE, num_layers=3, block_type=BlockType.Q4_K),
    "bos": TinyDecoder(num_layers=3),
}
"""`bos` is written anew with a tokenizer that begins every text with its BOS."""


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LanguageModel]:
    """`model("qwen2")`: one of `DECODERS`."""
    folder = tmp_path_factory.mktemp("faults")
    opened: dict[str, LanguageModel] = {}

    def open_one(name: str) -> LanguageModel:
        if name not in opened:
            path = write_tiny_gguf(folder / f"{name}.gguf", DECODERS[name])
            opened[name] = open_language_model(_with_bos(path) if name == "bos" else path)
        return opened[name]

    return open_one


@pytest.fixture(scope="session")
def host(model: Callable[[str], LanguageModel]) -> Callable[[str], LanguageModel]:
    """`host("rope-theta@1")`: the first of `DECODERS` that the fault can be put into."""

    def first(fault: str) -> LanguageModel:
        for name in DECODERS:
            try:
                inject_fault(model(name), fault)
            except UsageError:
                continue
            return model(name)
        raise AssertionError(f"no tiny model can have {fault}")

    return first


def _with_bos(path: Path) -> Path:
    target = path.with_name("with-bos.gguf")
    with open_gguf(path) as file:
        added = GgufValue.encode(ValueType.BOOL, value=True)
        tensors = [
            GgufTensor(
                name=entry.name,
                block_type=entry.block_type,
                shape=entry.shape,
                data=file.read_bytes(entry.name),
            )
            for entry in file.tensors.values()
        ]
        metadata = {**file.typed_metadata, "tokenizer.ggml.add_bos_token": added}
        write_gguf(target, metadata=metadata, tensors=tensors)
    return target
