"""From a prompt to an answer: template, streaming, and what is looked at before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.errors import (
    EmptyPromptError,
    NoTokenizerError,
    UnknownEngineError,
    WeightValueError,
)
from cotejar.formats.gguf.writer import GgufTensor, write_gguf
from cotejar.formats.open_model import open_model
from cotejar.generation.run import RunRequest, run_prompt
from cotejar.model.language_model import open_language_model
from cotejar.model.weight_check import require_plausible_weights
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("run") / "tiny.gguf")


def test_a_models_own_template_is_applied(path: Path) -> None:
    tokenizer = open_language_model(path).tokenizer

    result = run_prompt(RunRequest(source=str(path), prompt="hello", max_tokens=2))

    assert result.used_template
    assert tokenizer.decode(list(result.generation.prompt_ids), skip_special=False) == (
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_raw_gives_the_prompt_as_it_is(path: Path) -> None:
    tokenizer = open_language_model(path).tokenizer

    result = run_prompt(RunRequest(source=str(path), prompt="hello", max_tokens=2, raw=True))

    assert not result.used_template
    assert list(result.generation.prompt_ids) == tokenizer.encode("hello")


def test_the_pieces_are_the_text(path: Path) -> None:
    pieces: list[str] = []

    result = run_prompt(
        RunRequest(source=str(path), prompt="hello", max_tokens=9), pieces.append
    )

    assert "".join(pieces) == result.text
    assert all(pieces)
    ids = result.generation.token_ids
    assert result.text == open_language_model(path).tokenizer.decode(ids)


def test_native_q8_answers_where_no_engine_is_named(path: Path) -> None:
    short = {"prompt": "hello", "max_tokens": 1}

    default = run_prompt(RunRequest(source=str(path), **short)).engine
    named = run_prompt(RunRequest(source=f"native+f32:{path}", **short)).engine

    assert (default.engine, default.numerics) == ("native", "q8")
    assert (named.engine, named.numerics) == ("native", "f32")


def test_an_empty_prompt_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(EmptyPromptError) as caught:
        run_prompt(RunRequest(source="no such file", prompt=""))

    assert str(caught.value) == (
        "error[APR-U002]: the prompt is empty\n"
        "  where     prompt\n"
        "  expected  at least 1 character\n"
        "  found     0 characters\n"
        '  try       apr run MODEL "What is 2+2?"'
    )


def test_an_engine_that_only_traces_is_refused() -> None:
    with pytest.raises(UnknownEngineError, match="oracle cannot continue a text"):
        run_prompt(RunRequest(source="oracle:x.gguf", prompt="hello"))


def test_a_model_without_a_tokenizer_answers_no_text(tmp_path: Path) -> None:
    silent = write_tiny_gguf(tmp_path / "ids.gguf", TinyDecoder(tokenizer=False))

    with pytest.raises(NoTokenizerError):
        run_prompt(RunRequest(source=str(silent), prompt="hello"))


def rewrite(path: Path, target: Path, name: str, values: np.ndarray) -> Path:
    """The same model with one tensor's values exchanged."""
    with open_model(path) as file:
        tensors = [
            GgufTensor(
                name=entry.name,
                block_type=BlockType.F32 if entry.name == name else entry.block_type,
                shape=entry.shape,
                data=values.astype("<f4").reshape(-1).view(np.uint8)
                if entry.name == name
                else np.array(file.read_bytes(entry.name)),
            )
            for entry in file.tensors.values()
        ]
        write_gguf(target, metadata=file.typed_metadata, tensors=tensors)
    return target


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_refused(path: Path, tmp_path: Path, bad: float) -> None:
    values = np.ones(96)
    values[5] = bad
    broken = rewrite(path, tmp_path / "broken.gguf", "blk.1.ffn_norm.weight", values)

    with pytest.raises(WeightValueError) as caught:
        run_prompt(RunRequest(source=str(broken), prompt="hello"))

    assert str(caught.value) == (
        "error[APR-M008]: tensor model.layers.1.post_attention_layernorm.weight cannot be a "
        "trained weight\n"
        "  where     broken.gguf, 96 values of "
        "model.layers.1.post_attention_layernorm.weight looked at\n"
        "  expected  finite numbers\n"
        "  found     1 NaN or infinite\n"
        "  try       fetch or convert the model again, or run it all the same with "
        "--skip-contract"
    )


def test_a_matrix_of_one_value_is_refused(path: Path, tmp_path: Path) -> None:
    flat = rewrite(path, tmp_path / "flat.gguf", "blk.0.ffn_down.weight", np.zeros((96, 160)))

    with pytest.raises(WeightValueError) as caught:
        require_plausible_weights(open_language_model(flat))

    assert caught.value.parts["found"] == "every one is 0"
    assert caught.value.parts["expected"] == "weights that differ"


def test_a_norm_of_one_value_is_no_debris(path: Path, tmp_path: Path) -> None:
    ones = rewrite(path, tmp_path / "ones.gguf", "blk.1.ffn_norm.weight", np.ones(96))

    assert require_plausible_weights(open_language_model(ones)) > 0


def test_the_weights_are_not_looked_at_with_skip_contract(path: Path, tmp_path: Path) -> None:
    flat = rewrite(path, tmp_path / "flat.gguf", "blk.0.ffn_down.weight", np.zeros((96, 160)))

    result = run_prompt(
        RunRequest(source=str(flat), prompt="hello", max_tokens=1, skip_contract=True)
    )

    assert len(result.generation.token_ids) <= 1
