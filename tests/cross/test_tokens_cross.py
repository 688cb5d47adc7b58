"""`apr tokens` against llama.cpp's and Hugging Face's tokenizers, on real models.

The Hugging Face folders are made here of the GGUF's tables and of what the model's own
`tokenizer.json` says apart from them: how it cuts a text, and that it normalises nothing or
to NFC. transformers reads them; nothing of ours does.
"""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING, Any

import pytest

from cotejar.engines.tokenizers import open_tokenizer
from cotejar.formats.open_model import open_model
from cotejar.parity.tokens import TokensReport, compare_tokenizers
from cotejar.tokenizer.corpus import built_in_corpus
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.engines.tokenizers import TokenizerSide

pytestmark = [
    pytest.mark.cross,
    pytest.mark.skipif(
        importlib.util.find_spec("llama_cpp") is None, reason="llama.cpp is not installed"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
    ),
]

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
SMOLLM2 = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        BYTE_LEVEL | {"use_regex": True},
    ],
}
QWEN2_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = {
    "type": "Sequence",
    "pretokenizers": [
        {
            "type": "Split",
            "pattern": {"Regex": QWEN2_REGEX},
            "behavior": "Isolated",
            "invert": False,
        },
        BYTE_LEVEL | {"use_regex": False},
    ],
}


def write_folder(
    folder: Path, gguf: Path, pre_tokenizer: dict[str, Any], **changes: Any
) -> Path:
    """A folder with the model's tokenizer as Hugging Face has it, and no weights."""
    with open_model(gguf) as file:
        metadata = {k.removeprefix("tokenizer.ggml."): v for k, v in file.metadata.items()}
    tokens, types = list(metadata["tokens"]), list(metadata["token_type"])
    added = [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == 3,
        }
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in {3, 4}
    ]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": BYTE_LEVEL | {"use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": list(metadata["merges"]),
            "ignore_merges": False,
        },
    }
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(content | changes))
    special = {"bos_token": tokens[int(metadata["bos_token_id"])]}
    special["eos_token"] = tokens[int(metadata["eos_token_id"])]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": metadata["tokenizer.chat_template"],
        **special,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def compare(reference: object, candidate: object) -> TokensReport:
    return compare_tokenizers(
        open_tokenizer(str(reference)), open_tokenizer(str(candidate)), built_in_corpus()
    )


def differences(report: TokensReport) -> list[str]:
    return [f"{r.case.name}: {r.difference.sentence}" for r in report.differing if r.difference]


def test_smollm2_gives_llama_cpps_ids_over_the_corpus(demo_model: Path) -> None:
    report = compare(demo_model, f"llamacpp:{demo_model}")

    assert differences(report) == []
    assert report.failed == []
    assert report.verdict is Verdict.PASS
    assert len(report.compared) > 150


@pytest.fixture(scope="module")
def hugging_face(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenizerSide:
    """SmolLM2's tokenizer in transformers, opened once: that takes seconds."""
    folder = tmp_path_factory.mktemp("smollm2") / "hf"
    return open_tokenizer(f"transformers:{write_folder(folder, demo_model, SMOLLM2)}")


@pytest.mark.parametrize("side", ["", "llamacpp:"])
def test_smollm2_gives_hugging_faces_ids_over_the_corpus(
    demo_model: Path, hugging_face: TokenizerSide, side: str
) -> None:
    other = open_tokenizer(f"{side}{demo_model}")

    report = compare_tokenizers(hugging_face, other, built_in_corpus())

    assert differences(report) == []
    assert report.failed == []
    assert report.verdict is Verdict.PASS
    assert len(report.compared) > 150


def test_a_rule_for_digits_that_is_missing_is_named(demo_model: Path, tmp_path: Path) -> None:
    # What transformers itself makes of this GGUF's pre-tokenizer: it cuts no digits apart.
    folder = write_folder(tmp_path / "hf", demo_model, BYTE_LEVEL | {"use_regex": True})

    report = compare(f"transformers:{folder}", demo_model)

    reasons = [r.difference.reason for r in report.differing if r.difference]
    assert len(reasons) == 9
    assert set(reasons) == {
        f"another pre-tokenizer: 'gpt-2' cuts ' {d}', 'smollm' cuts ' ' | '{d}'"
        for d in ("\u0663", "\u0661", "\u2460")
    }


@pytest.mark.qwen
def test_qwen_gives_hugging_faces_ids_over_the_corpus(qwen_model: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf", qwen_model, QWEN2)

    report = compare(f"transformers:{folder}", qwen_model)

    assert differences(report) == []
    assert report.failed == []
    assert report.verdict is Verdict.PASS
    assert len(report.compared) > 150


@pytest.mark.qwen
def test_qwen_gives_llama_cpps_ids_but_for_an_end_that_qwen_has_not(qwen_model: Path) -> None:
    # llama.cpp takes `</s>`, which is a word of code in this vocabulary, for an end.
    report = compare(qwen_model, f"llamacpp:{qwen_model}")

    assert {r.difference.reason for r in report.differing if r.difference} == {
        "the candidate alone takes '</s>' for a special token"
    }
    assert {r.text for r in report.differing} == {
        "<s>a</s> <unk> <pad> [INST] [/INST] <bos> <eos>"
    }
    assert report.failed == []
