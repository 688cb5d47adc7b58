"""`tokenizer.json` becomes the flat keys that a GGUF would give."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from cotejar.errors import (
    MetadataError,
)
from cotejar.formats.convert.hugging_face_tokenizer import read_tokenizer_keys
from cotejar.formats.gguf.reader import open_gguf
from cotejar.formats.tensor_names import to_gguf, to_hugging_face
from cotejar.testing.refusals import refused
from cotejar.testing.tiny_models import write_tiny_gguf
from cotejar.tokenizer import tokenizer as tokenizer_room
from cotejar.tokenizer.read_spec import read_tokenizer_spec

if TYPE_CHECKING:
    from pathlib import Path


QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def splits(*patterns: str) -> list:
    return [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]


def byte_level(use_regex: bool) -> pre_tokenizers.ByteLevel:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([*splits(QWEN2), byte_level(False)], "qwen2"),
        ([*splits(QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|")), byte_level(False)], "llama-bpe"),
        ([pre_tokenizers.Digits(individual_digits=True), byte_level(True)], "smollm"),
        ([byte_level(True)], "gpt-2"),
        (
            [
                *splits(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+"),
                pre_tokenizers.Digits(individual_digits=True),
                byte_level(False),
            ],
            "deepseek-coder",
        ),
        ([pre_tokenizers.Digits(individual_digits=False), byte_level(True)], "unknown"),
        ([*splits(QWEN2 + "|x"), byte_level(False)], "unknown"),
        ([byte_level(False)], "unknown"),
    ],
)
def test_a_pre_tokenizer_is_named_or_unknown(steps, expected) -> None:
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    keys = read_tokenizer_keys({"tokenizer.json": json.loads(tokenizer.to_str())})
    assert keys["tokenizer.pre_type"] == expected


def test_the_keys_of_a_byte_level_bpe() -> None:
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = byte_level(True)
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.add_tokens(["word"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 3)]
    )
    content = json.loads(tokenizer.to_str())
    content["added_tokens"][1]["id"] = 5  # and no token has the id 4
    keys = read_tokenizer_keys(
        {
            "tokenizer.json": content,
            "tokenizer_config.json": {"bos_token": {"content": "<s>"}, "eos_token": "word"},
            "config": {"eos_token_id": [0, 1], "pad_token_id": 1},
        }
    )
    assert keys == {
        "tokenizer.vocabulary": ["a", "b", "ab", "<s>", "[PAD4]", "word"],
        "tokenizer.token_type": [1, 1, 1, 3, 5, 4],
        "tokenizer.merges": ["a b"],
        "tokenizer.model": "gpt2",
        "tokenizer.pre_type": "gpt-2",
        "tokenizer.bos_token_id": 3,
        "tokenizer.eos_token_id": 5,
        "tokenizer.padding_token_id": 1,
        "tokenizer.add_bos_token": True,
    }


def test_sentencepiece_tokens_score_by_the_rank_of_their_merge() -> None:
    vocabulary = ["<unk>", "<0x0A>", "\u2581", "a", "b", "ab", "\u2581a", "\u2581ab"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(vocabulary)},
            merges=[("a", "b"), ("\u2581", "a"), ("\u2581", "ab"), ("\u2581a", "b")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.ByteFallback()

    keys = read_tokenizer_keys({"tokenizer.json": json.loads(tokenizer.to_str())})

    assert keys["tokenizer.model"] == "llama"
    assert keys["tokenizer.token_type"] == [2, 6, 1, 1, 1, 1, 1, 1]
    assert keys["tokenizer.scores"] == [0, 0, 0, 0, 0, 0, -1, -2]
    assert keys["tokenizer.add_space_prefix"] is True


@pytest.mark.parametrize(
    ("content", "field", "expected", "found"),
    [
        ({"model": {}}, "model.vocab", "an object of ids by token", "None"),
        (
            {"model": {"vocab": {"a": "0"}}},
            "model.vocab",
            "whole numbers by text",
            "'something else among them'",
        ),
        ({"model": {"vocab": {}}}, "model.vocab", "ids within 0..16777215", "'0 tokens'"),
        (
            {"model": {"vocab": {"a": 2**24}}},
            "model.vocab",
            "ids within 0..16777215",
            "'1 tokens'",
        ),
        (
            {"model": {"vocab": {"a": 0}}, "added_tokens": [1]},
            "added_tokens",
            '[{"content": "<s>", "id": 1}, ...]',
            "1",
        ),
        ({"model": {"vocab": {"a": 0}}}, "model.merges", "a list", "None"),
        (
            {"model": {"vocab": {"a": 0}, "merges": [["a"]]}},
            "model.merges",
            'pairs: ["a", "b"] or "a b"',
            "['a']",
        ),
    ],
)
def test_a_tokenizer_that_is_malformed(content, field, expected, found) -> None:
    refused(
        MetadataError,
        "error[APR-F016]: the tokenizer is malformed\n"
        f"  where     tokenizer.json, {field}\n"
        f"  expected  {expected}\n"
        f"  found     {found}\n"
        "  try       the file is damaged: fetch it again",
        lambda: read_tokenizer_keys({"tokenizer.json": content}),
    )


@pytest.mark.parametrize("content", [None, {}, {"model": {"type": "Unigram"}}])
def test_a_tokenizer_of_another_kind_gives_no_keys(content) -> None:
    assert read_tokenizer_keys({"tokenizer.json": content}) == {}


def test_every_gguf_name_of_a_tiny_model_is_known(tmp_path: Path) -> None:
    with open_gguf(write_tiny_gguf(tmp_path / "s.gguf")) as file:
        for name in file.tensors:
            assert to_gguf(to_hugging_face(name) or "") == name


def sentencepiece_like() -> Tokenizer:
    """A BPE as transformers saves a SentencePiece model.

    Every way to split a piece into two is a merge, those of the best-scored piece first.
    """
    pieces = ["\u2581t", "he", "in", "\u2581the", "er", "ther", "on", "\u2581in", "the", "ion"]
    letters = ["\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *letters]
    ids = {token: i for i, token in enumerate(tokens)}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
    tokenizer = Tokenizer(
        models.BPE(vocab=ids, merges=merges, unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.ByteFallback()
    return tokenizer


def gemma_like() -> Tokenizer:
    """Gemma's: no space before a text; runs of spaces and of lines are added tokens."""
    runs = ["\u2581\u2581", "\u2581\u2581\u2581\u2581"]
    specials = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    lines = ["\n", "\n\n"]
    pieces = ["th", "the", "\u2581the", "\u2581", *"ethno"]
    tokens = [*specials, "<unk>", *lines, *runs, *bytes_, *pieces]
    ids = {token: i for i, token in enumerate(tokens)}
    merges = [
        *(("\n", "\n"), ("\u2581", "\u2581"), (runs[0], runs[0])),
        *(("t", "h"), ("th", "e"), ("\u2581", "the")),
    ]
    tokenizer = Tokenizer(
        models.BPE(vocab=ids, merges=merges, unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(specials)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in (*lines, *runs)])
    return tokenizer


@given(
    st.lists(
        st.sampled_from(
            [*"then o\n\u00f1", " the", "  ", "    ", "\n\n", "<end_of_turn>", "<bos>"]
        ),
        max_size=12,
    ).map("".join)
)
def test_gemmas_tokens_give_the_ids_that_the_library_gives(text) -> None:
    library = gemma_like()
    config = {"bos_token": "<bos>", "eos_token": "<eos>", "add_bos_token": True}
    keys = read_tokenizer_keys(
        {"tokenizer.json": json.loads(library.to_str()), "tokenizer_config.json": config}
    )
    ours = tokenizer_room.Tokenizer(read_tokenizer_spec("apr", keys))

    assert ours.encode(text, add_special=False) == library.encode(text).ids
    assert ours.decode(ours.encode(text, add_special=False)) == text
    assert ours.encode("the") == [2, *library.encode("the").ids]
    assert {1, 4} == ours.eos_ids


@given(st.text(st.sampled_from("then io r\n\u00f1"), min_size=1, max_size=30))
def test_ranks_give_the_ids_that_the_merges_give(text) -> None:
    library = sentencepiece_like()
    keys = read_tokenizer_keys({"tokenizer.json": json.loads(library.to_str())})
    ours = tokenizer_room.Tokenizer(read_tokenizer_spec("apr", keys))
    assert ours.encode(text, add_special=False) == library.encode(text).ids
