"""Sides of a comparison of tokenizers: ours, and others' in a process that may fail."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cotejar.engines import tokenizers
from cotejar.engines.tokenizers import ChildTokenizer, NativeTokenizer, open_tokenizer
from cotejar.errors import (
    CotejarError,
    EngineCrashError,
    EngineError,
    EngineProtocolError,
    EngineTimeoutError,
    MissingFileError,
    TokenizerError,
    UnknownEngineError,
    UnsupportedTokenizerError,
    WrongMagicError,
)
from cotejar.testing.tiny_models import write_tiny_gguf, write_tiny_hugging_face

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = "hello 12\n"
USUAL = {"add_special": True, "parse_special": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizers")
    write_tiny_gguf(folder / "tiny.gguf")
    write_tiny_hugging_face(folder / "hf")
    (folder / "hf" / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize("name", ["tiny.gguf", "native:{}/tiny.gguf", "hf", "native:{}/hf"])
def test_ours_is_the_default_and_needs_no_weights(folder: Path, name: str) -> None:
    path = name.format(folder) if ":" in name else str(folder / name)

    side = open_tokenizer(path)

    assert isinstance(side, NativeTokenizer)
    assert (side.name, side.takes_bytes) == (path, False)
    found = side.tokenize(TEXT, **USUAL)
    assert b"".join(found.spellings) == TEXT.encode()
    assert side.render([{"role": "user", "content": "x"}]) == (
        "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_model_without_a_template_renders_nothing(tmp_path: Path) -> None:
    write_tiny_hugging_face(tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer_config.json").write_text("{}")

    assert open_tokenizer(str(tmp_path / "hf")).render([]) is None


def test_a_tokenizer_that_nobody_offers_is_refused() -> None:
    with pytest.raises(UnknownEngineError) as caught:
        open_tokenizer("llama:model.gguf")

    assert str(caught.value) == (
        "error[APR-U005]: there is no tokenizer 'llama'\n"
        "  where     llama:model.gguf\n"
        "  expected  native, llamacpp, transformers\n"
        "  found     llama\n"
        "  try       [TOKENIZER:]PATH, for example llamacpp:model.gguf"
    )


def test_numerics_are_no_part_of_a_tokenizers_name(folder: Path) -> None:
    with pytest.raises(UnknownEngineError) as raised:
        open_tokenizer(f"llamacpp+q8:{folder}/tiny.gguf")

    assert raised.value.problem == "there is no tokenizer 'llamacpp+q8'"


def test_a_tokenizer_that_we_do_not_know_is_refused_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    whole = write_tiny_gguf(path).read_bytes()
    path.write_bytes(whole.replace(b"gpt-2", b"bogus"))

    with pytest.raises(UnsupportedTokenizerError) as raised:
        open_tokenizer(str(path))

    assert raised.value.parts["where"] == f"{path}, tokenizer.ggml.pre"
    assert raised.value.parts["found"] == "'bogus'"
    assert raised.value.parts["try"] == (
        "compare two other programs' tokenizers of it, or convert the model again"
    )


def test_a_file_whose_name_looks_like_a_prefix_is_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    shutil.copy("tiny.gguf", "odd:tiny.gguf")

    assert open_tokenizer("odd:tiny.gguf").tokenize("x", **USUAL).ids


@pytest.mark.parametrize("kind", ["", "llamacpp:", "transformers:"])
def test_a_file_that_is_no_model_is_bad_input(tmp_path: Path, kind: str) -> None:
    (tmp_path / "notes.gguf").write_text("these are notes, and no model at all")

    with pytest.raises(MissingFileError):
        open_tokenizer(f"{kind}{tmp_path / 'none.gguf'}")
    with pytest.raises(WrongMagicError) as caught:
        open_tokenizer(f"{kind}{tmp_path / 'notes.gguf'}")

    assert caught.value.exit_code == 2


@pytest.fixture
def fake(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], ChildTokenizer]:
    """`fake("crash")`: another program's tokenizer that fails that way."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    targets = tokenizers._TARGETS | {"llamacpp": "fake_tokenizer:FakeTokenizer"}
    monkeypatch.setattr(tokenizers, "_TARGETS", targets)
    monkeypatch.setattr(tokenizers, "require_packages", lambda _: None)

    def make(fails: str) -> ChildTokenizer:
        path = tmp_path / f"{fails}.gguf"
        shutil.copy(folder / "tiny.gguf", path)
        side = open_tokenizer(f"llamacpp:{path}")
        assert isinstance(side, ChildTokenizer)
        return side

    return make


def test_a_child_gives_ids_spellings_and_what_is_special(
    fake: Callable[[str], ChildTokenizer],
) -> None:
    side = fake("sound")

    found = side.tokenize(b"a\xff", **USUAL)
    assert (found.ids, found.spellings) == ((0, 97, 255), (b"\0", b"a", b"\xff"))
    assert found.special_ids == {0}
    assert (found.bos_id, found.eos_id) == (0, None)
    assert found.declared is not None
    assert found.declared.pre_tokenizer == "gpt-2"
    assert (side.build, side.takes_bytes) == ("fake 1", True)
    assert side.render([{"role": "user", "content": "é"}]) == "é"
    side.close()


@pytest.mark.parametrize(
    ("fails", "kind"),
    [
        ("crash", EngineCrashError),
        ("raise", EngineError),
        ("refuse", TokenizerError),
        ("text", EngineProtocolError),
    ],
)
def test_a_child_that_fails_is_an_error_here(
    fake: Callable[[str], ChildTokenizer], fails: str, kind: type[CotejarError]
) -> None:
    side = fake(fails)

    with pytest.raises(kind):
        side.tokenize(TEXT, **USUAL)


def test_a_child_that_crashes_on_its_file_is_an_error_here(
    fake: Callable[[str], ChildTokenizer],
) -> None:
    with pytest.raises(EngineCrashError) as caught:
        fake("open")

    assert "SIGSEGV" in caught.value.parts["found"]


def test_a_child_that_hangs_is_ended(
    fake: Callable[[str], ChildTokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    side = fake("hang")
    monkeypatch.setenv("COTEJAR_ENGINE_TIMEOUT_S", "0.2")

    with pytest.raises(EngineTimeoutError):
        side.tokenize(TEXT, **USUAL)


def test_an_extra_that_is_missing_says_how_to_install_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        return None

    monkeypatch.setattr("importlib.util.find_spec", missing)

    with pytest.raises(CotejarError) as caught:
        open_tokenizer(f"llamacpp:{folder / 'tiny.gguf'}")

    assert caught.value.parts["try"] == "pip install 'cotejar[llamacpp]'"
