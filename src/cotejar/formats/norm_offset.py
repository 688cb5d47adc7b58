"""Gemma's norms: Hugging Face stores a weight less 1, a GGUF and an `.apr` the weight itself.

transformers' `Gemma3RMSNorm` multiplies by `1 + weight`, the sum taken in float32; llama.cpp's
converter adds the 1 once, in float32 too, and its RMSNorm is like any other. Here the weight
is what an RMSNorm multiplies by, whatever the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.formats.tensor_names import stated_architecture
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import decode

if TYPE_CHECKING:
    from jaxtyping import UInt8

    from cotejar.formats.model_file import ModelFile, TensorEntry

_LESS_ONE = ("gemma3_text",)
SUM_TYPE = BlockType.F32
"""Of the weight, whatever the type of what is stored."""


def is_less_one(file: ModelFile, name: str) -> bool:
    """Does this file hold this tensor, by its canonical name, as a weight less 1?"""
    return (
        file.format == "safetensors"
        and name.endswith("norm.weight")
        and stated_architecture(file) in _LESS_ONE
    )


def add_one(file: ModelFile, entry: TensorEntry) -> UInt8[np.ndarray, "num_bytes"]:
    """The bytes of the weight, in F32; errors as `ModelFile.read_bytes`."""
    block_type = entry.decodable_type(file.path)
    stored = decode(block_type, np.asarray(file.read_bytes(entry.name)), entry.num_elements)
    return (np.float32(1) + stored).view(np.uint8)
