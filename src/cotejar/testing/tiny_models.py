"""Write a tiny decoder as a real file: GGUF, `.apr`, or a Hugging Face folder.

    decoder = TinyDecoder(architecture="qwen2")
    write_tiny_gguf(tmp_path / "tiny.gguf", decoder)
    write_tiny_hugging_face(tmp_path / "tiny", decoder)

All three hold the same weights; a folder holds them as what the GGUF's blocks decode to, and
of a gemma3 the norms' less 1.
A GGUF of architecture llama has its q and k rows in neighbouring pairs, as llama.cpp's own
converter stores them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from safetensors.numpy import save

from cotejar.formats.apr.writer import TensorToWrite, write_apr
from cotejar.formats.atomic import atomic_write, atomic_write_json, atomic_write_text
from cotejar.formats.gguf.writer import GgufTensor, write_gguf
from cotejar.formats.tensor_names import ROPE_FREQS, to_gguf
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder, TinyTensor, make_tensors
from cotejar.testing.tiny_metadata import apr_metadata, gguf_metadata, hugging_face_config
from cotejar.testing.tiny_tokenizer import CHAT_TEMPLATE, END_OF_TEXT, TURN_END, make_vocabulary

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Float32

    from cotejar.model.config import RopePairing


def write_tiny_gguf(
    path: Path, decoder: TinyDecoder | None = None, *, overwrite: bool = False
) -> Path:
    """Write a GGUF v3; returns `path`.

    Raises:
        FileError: the path cannot be written.
        EncodingError, TensorShapeError: sizes and block type do not go together.
    """
    decoder = decoder or TinyDecoder()
    pairing: RopePairing = (
        "adjacent" if decoder.architecture in {"llama", "mistral"} else "halves"
    )
    config = decoder.config(pairing=pairing)
    tensors = [
        GgufTensor(
            name=to_gguf(tensor.name, config.architecture) or tensor.name,
            block_type=tensor.block_type,
            shape=tensor.shape,
            data=tensor.raw,
        )
        for tensor in [*make_tensors(decoder, pairing=pairing), *_divisors(decoder)]
    ]
    write_gguf(
        path, metadata=gguf_metadata(decoder, config), tensors=tensors, overwrite=overwrite
    )
    return path


def write_tiny_apr(
    path: Path,
    decoder: TinyDecoder | None = None,
    *,
    pairing: RopePairing = "halves",
    overwrite: bool = False,
) -> Path:
    """Write an `.apr` with q and k rows in the order of `pairing`; returns `path`.

    Raises:
        FileError: the path cannot be written.
        EncodingError, TensorShapeError: sizes and block type do not go together.
    """
    decoder = decoder or TinyDecoder()
    config = decoder.config(pairing=pairing)
    tensors = [
        TensorToWrite(
            name=tensor.name,
            block_type=tensor.block_type,
            shape=tensor.shape,
            read=lambda raw=tensor.raw: [raw],  # type: ignore[misc] # bound now, not later
        )
        for tensor in [*make_tensors(decoder, pairing=pairing), *_divisors(decoder)]
    ]
    write_apr(
        path, metadata=apr_metadata(decoder, config), tensors=tensors, overwrite=overwrite
    )
    return path


def write_tiny_hugging_face(
    folder: Path,
    decoder: TinyDecoder | None = None,
    *,
    dtype: Literal["float32", "float16"] = "float32",
    overwrite: bool = False,
) -> Path:
    """Write config.json, model.safetensors and the tokenizer into `folder`; returns it.

    The weights are what the decoder's blocks decode to, rounded to `dtype`.

    Raises:
        OSError: the folder cannot be made.
        FileError: it cannot be written in.
        EncodingError, TensorShapeError: sizes and block type do not go together.
    """
    decoder = decoder or TinyDecoder()
    config = decoder.config(pairing="halves")
    folder.mkdir(parents=True, exist_ok=True)
    document = hugging_face_config(decoder, config) | {"dtype": dtype}
    atomic_write_json(folder / "config.json", document, overwrite=overwrite)
    weights = {
        tensor.name: _as_stored(decoder, tensor).astype(dtype)
        for tensor in make_tensors(decoder, pairing="halves")
    }
    with atomic_write(folder / "model.safetensors", overwrite=overwrite) as output:
        output.write(save(weights, metadata={"format": "pt"}))
    if decoder.tokenizer:
        text = make_vocabulary(decoder.vocab_size).huggingface_json()
        atomic_write_text(folder / "tokenizer.json", text, overwrite=overwrite)
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": False,
            "bos_token": END_OF_TEXT,
            "eos_token": TURN_END,
            "chat_template": CHAT_TEMPLATE,
        }
        path = folder / "tokenizer_config.json"
        atomic_write_json(path, settings, overwrite=overwrite)
    return folder


def _as_stored(decoder: TinyDecoder, tensor: TinyTensor) -> Float32[np.ndarray, "..."]:
    is_less_one = decoder.architecture == "gemma3" and tensor.name.endswith("norm.weight")
    return tensor.values - np.float32(1) if is_less_one else tensor.values


def _divisors(decoder: TinyDecoder) -> list[TinyTensor]:
    if not decoder.rope_divisors:
        return []
    values = np.array(decoder.rope_divisors, "<f4")
    return [
        TinyTensor(
            name=ROPE_FREQS,
            block_type=BlockType.F32,
            shape=values.shape,
            raw=values.view(np.uint8),
        )
    ]
