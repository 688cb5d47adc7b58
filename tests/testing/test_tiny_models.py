"""Tiny models: the same file from the same seed, one model in every format, and awkward."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from cotejar.errors import NoTokenizerError, OutputExistsError, TensorShapeError
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder, make_tensors
from cotejar.testing.tiny_models import write_tiny_apr, write_tiny_gguf, write_tiny_hugging_face
from cotejar.testing.tiny_tokenizer import make_vocabulary
from cotejar.tokenizer.chat import apply_chat
from cotejar.tokenizer.read_spec import read_tokenizer_spec
from cotejar.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ["gguf", "apr", "safetensors"]


def weights(decoder: TinyDecoder) -> dict[str, bytes]:
    return {t.name: t.raw.tobytes() for t in make_tensors(decoder, pairing="halves")}


def tokenizer_of(model: Any) -> Tokenizer:
    return Tokenizer(read_tokenizer_spec(model.file.format, model.file.metadata))


@pytest.mark.parametrize("write", [write_tiny_gguf, write_tiny_apr])
def test_the_same_decoder_is_the_same_file(tmp_path: Path, write: Any) -> None:
    first, second = (write(tmp_path / name).read_bytes() for name in ("a", "b"))
    other = write(tmp_path / "c", TinyDecoder(seed=1)).read_bytes()

    assert first == second
    assert len(other) == len(first)
    assert other != first


def test_one_field_changes_no_other_weight() -> None:
    plain, biased = weights(TinyDecoder()), weights(TinyDecoder(mlp_bias=True))

    assert plain.items() < biased.items()
    assert {name.rpartition(".")[2] for name in biased.keys() - plain.keys()} == {"bias"}


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_no_weight_is_one_that_hides_a_fault(architecture: Any) -> None:
    decoder = TinyDecoder(architecture=architecture, attention_bias=True)
    for tensor in make_tensors(decoder, pairing="halves"):
        assert np.abs(tensor.values - 1).max() > 0.1
        assert np.count_nonzero(tensor.values) == tensor.values.size
        assert tensor.values.std() > 0.05


def test_neighbouring_pairs_hold_the_same_rows_in_another_order() -> None:
    halves, adjacent = (
        {t.name: t.values for t in make_tensors(TinyDecoder(), pairing=pairing)}
        for pairing in ("halves", "adjacent")
    )

    name = "model.layers.0.self_attn.k_proj.weight"
    head = halves[name][16:]  # the second head's 16 rows: 8 first and 8 second values
    np.testing.assert_array_equal(adjacent[name][16::2], head[:8])
    np.testing.assert_array_equal(adjacent[name][17::2], head[8:])
    moved = [n for n in halves if not np.array_equal(halves[n], adjacent[n])]
    assert {n.split(".")[-2] for n in moved} == {"q_proj", "k_proj"}


@pytest.mark.parametrize("block_type", [BlockType.Q4_0, BlockType.Q8_0, BlockType.F16])
def test_a_folder_holds_what_the_blocks_decode_to(tiny: Any, block_type: BlockType) -> None:
    decoder = TinyDecoder(architecture="qwen2", block_type=block_type)
    blocks, floats = tiny(decoder, "gguf"), tiny(decoder, "safetensors")

    for name, matrix in blocks.weights.items():
        decoded = floats.weights[name].decode_rows(0, matrix.rows)
        np.testing.assert_array_equal(matrix.decode_rows(0, matrix.rows), decoded)


def test_a_folder_of_a_gemma3_holds_its_norms_less_1_and_exactly(tmp_path: Path) -> None:
    decoder = TinyDecoder(architecture="gemma3")

    folder = write_tiny_hugging_face(tmp_path / "tiny", decoder)

    stored = load_file(folder / "model.safetensors")
    for tensor in make_tensors(decoder, pairing="halves"):
        less = 1.0 if tensor.name.endswith("norm.weight") else 0.0
        found = stored[tensor.name].astype(np.float64) + less
        np.testing.assert_array_equal(found, tensor.values.astype(np.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_carries_one_tokenizer(tiny: Any, kind: str) -> None:
    tokenizer = tokenizer_of(tiny(None, kind))
    text = "hello the Thé\n<|im_end|>"

    ids = tokenizer.encode(text)

    spelled = [tokenizer.spec.tokens[token] for token in ids]
    assert spelled == ["hello", "Ġthe", "Ġ", "T", "h", "Ã", "©", "Ċ", "<|im_end|>"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.vocab_size == 320
    assert tokenizer.eos_ids == {0, 2}
    assert tokenizer.decode(apply_chat(tokenizer, "hi")) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_may_carry_no_tokenizer(tiny: Any, kind: str) -> None:
    with pytest.raises(NoTokenizerError):
        tokenizer_of(tiny(TinyDecoder(tokenizer=False, vocab_size=11), kind))


def test_a_vocabulary_too_small_for_the_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="a tokenizer needs 270 tokens, vocab_size is 269"):
        make_vocabulary(269)


def test_sizes_that_do_not_fit_the_blocks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TensorShapeError):
        write_tiny_gguf(tmp_path / "tiny.gguf", TinyDecoder(block_type=BlockType.Q4_K))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [write_tiny_gguf, write_tiny_apr, write_tiny_hugging_face])
def test_a_file_that_is_there_is_kept_unless_asked(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path / "tiny")

    with pytest.raises(OutputExistsError):
        write(path, replace(TinyDecoder(), seed=1))

    assert write(path, TinyDecoder(seed=1), overwrite=True) == path
