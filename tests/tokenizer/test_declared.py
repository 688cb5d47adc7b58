"""What files declare of a tokenizer: where it cuts, by whose name, and without weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from cotejar.errors import CotejarError
from cotejar.testing.tiny_models import write_tiny_gguf, write_tiny_hugging_face
from cotejar.tokenizer.declared import (
    DeclaredTokenizer,
    read_declared_tokenizer,
    try_declared_tokenizer,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cotejar.tokenizer.spec import TokenizerSpec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny_hugging_face(tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").unlink()
    return tmp_path / "hf"


def test_a_gguf_and_a_folder_declare_the_same(folder: Path, tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")

    gguf = read_declared_tokenizer(str(tmp_path / "tiny.gguf"))
    hugging_face = read_declared_tokenizer(str(folder))

    assert gguf.pre_tokenizer == hugging_face.pre_tokenizer == "gpt-2"
    assert gguf.merges == hugging_face.merges
    assert len(gguf.merges) == 11
    text = "héllo 12, 中文\n\n x"
    assert gguf.cuts(text) == hugging_face.cuts(text)


def test_cuts_are_byte_offsets(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")

    declared = read_declared_tokenizer(str(tmp_path / "tiny.gguf"))

    # `é` is two bytes, `中` three: the words begin at 0, 2, 6 and 7.
    assert declared.cuts("é 中,x") == frozenset({0, 2, 6, 7})


def test_an_spm_cuts_nothing(spm_spec: Callable[..., TokenizerSpec]) -> None:
    spec = spm_spec({"a": -1.0})

    declared = DeclaredTokenizer(spec=spec, pre_tokenizer="", merges=())

    assert declared.cuts("a a") is None


def test_a_pre_tokenizer_that_has_no_name_still_cuts(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "b"},
        "behavior": "Isolated",
        "invert": False,
    }
    path.write_text(json.dumps(content))

    declared = read_declared_tokenizer(str(folder))

    assert declared.pre_tokenizer == "unnamed"
    assert declared.cuts("abc") == frozenset({0, 1, 2})


def test_what_we_cannot_read_is_none_and_an_error_where_it_matters(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()

    assert try_declared_tokenizer(str(tmp_path / "hf")) is None
    with pytest.raises(CotejarError) as caught:
        read_declared_tokenizer(str(tmp_path / "hf"))
    assert caught.value.parts["where"] == str(tmp_path / "hf" / "tokenizer.json")
