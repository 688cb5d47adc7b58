"""What is read from the metadata of GGUF and `.apr`, and what is refused."""

from __future__ import annotations

import pytest

from cotejar.errors import NoTokenizerError, TokenizerDataError, UnsupportedTokenizerError
from cotejar.tokenizer.read_spec import read_tokenizer_spec
from cotejar.tokenizer.spec import TokenType

BPE = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "qwen2",
    "tokenizer.ggml.tokens": ["a", "b", "ab", "<|end|>"],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.token_type": [1, 1, 1, 3],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 3,
    "tokenizer.ggml.padding_token_id": 1,
    "tokenizer.ggml.eot_token_id": 2,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.ggml.add_eos_token": True,
    "tokenizer.chat_template": "{{ messages }}",
}
SPM = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a"],
    "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -1.5],
    "tokenizer.ggml.token_type": [2, 3, 3, 1],
}
APR = {
    "tokenizer.model": "gpt2",
    "tokenizer.pre_type": "qwen2",
    "tokenizer.vocabulary": ["a", "b", "ab", "<|end|>"],
    "tokenizer.merges": ["a b"],
    "tokenizer.token_type": [1, 1, 1, 3],
    "tokenizer.bos_token_id": 0,
    "tokenizer.eos_token_id": 3,
    "tokenizer.padding_token_id": 1,
    "tokenizer.eot_token_id": 2,
    "tokenizer.add_bos_token": False,
    "tokenizer.add_eos_token": True,
    "chat_template": "{{ messages }}",
}


def without(metadata: dict[str, object], *keys: str) -> dict[str, object]:
    return {key: value for key, value in metadata.items() if key not in keys}


def test_a_gguf_byte_level_bpe_is_read_whole() -> None:
    spec = read_tokenizer_spec("gguf", BPE)

    assert (spec.kind, spec.pre_tokenizer) == ("bpe", "qwen2")
    assert spec.tokens == ("a", "b", "ab", "<|end|>")
    assert spec.merges == ("a b",)
    assert spec.token_types == (1, 1, 1, 3)
    assert (spec.bos_id, spec.eos_id, spec.pad_id, spec.eot_id) == (0, 3, 1, 2)
    assert spec.unk_id is None
    assert (spec.add_bos, spec.add_eos, spec.add_space_prefix) == (False, True, False)
    assert spec.chat_template == "{{ messages }}"


def test_an_apr_says_the_same_as_the_gguf_it_was_made_from() -> None:
    assert read_tokenizer_spec("apr", APR) == read_tokenizer_spec("gguf", BPE)


def test_an_spm_that_names_no_ids_has_those_of_sentencepiece() -> None:
    spec = read_tokenizer_spec("gguf", SPM)

    assert (spec.kind, spec.scores) == ("spm", (0.0, 0.0, 0.0, -1.5))
    assert (spec.unk_id, spec.bos_id, spec.eos_id) == (0, 1, 2)
    assert (spec.add_bos, spec.add_eos, spec.add_space_prefix) == (True, False, True)


@pytest.mark.parametrize(("pre", "adds"), [("llama-bpe", True), ("qwen2", False)])
def test_whether_bos_is_added_follows_the_pre_tokenizer_if_nothing_says_it(
    pre: str, adds: bool
) -> None:
    metadata = without(BPE, "tokenizer.ggml.add_bos_token") | {"tokenizer.ggml.pre": pre}

    assert read_tokenizer_spec("gguf", metadata).add_bos is adds


@pytest.mark.parametrize(("architecture", "pre"), [("qwen2", "qwen2"), ("llama", "")])
def test_without_a_pre_tokenizer_a_qwen_has_qwens_and_others_the_default(
    architecture: str, pre: str
) -> None:
    gguf = without(BPE, "tokenizer.ggml.pre") | {"general.architecture": architecture}
    apr = without(APR, "tokenizer.pre_type") | {"architecture": architecture}

    assert read_tokenizer_spec("gguf", gguf).pre_tokenizer == pre
    assert read_tokenizer_spec("apr", apr).pre_tokenizer == pre


def test_an_apr_without_token_types_has_the_tokens_that_look_special() -> None:
    spec = read_tokenizer_spec("apr", without(APR, "tokenizer.token_type"))

    assert spec.token_types == (1, 1, 1, int(TokenType.CONTROL))


def test_an_apr_without_a_kind_goes_by_its_tables() -> None:
    assert read_tokenizer_spec("apr", without(APR, "tokenizer.model")).kind == "bpe"


def test_an_empty_token_is_named_after_its_id() -> None:
    metadata = SPM | {"tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", ""]}

    assert read_tokenizer_spec("gguf", metadata).tokens[3] == "[EMPTY_3]"


@pytest.mark.parametrize(
    ("format_", "metadata", "where"),
    [
        ("gguf", {}, "tokenizer.ggml.tokens"),
        ("gguf", {"tokenizer.ggml.model": "no_vocab"}, "tokenizer.ggml.tokens"),
        ("gguf", BPE | {"tokenizer.ggml.model": "none"}, "tokenizer.ggml.tokens"),
        ("apr", {"tokenizer.vocabulary": None}, "tokenizer.vocabulary"),
        ("safetensors", {"config.json": {}}, "tokenizer.json"),
    ],
)
def test_a_model_without_a_tokenizer_is_refused_for_text(
    format_: str, metadata: dict[str, object], where: str
) -> None:
    with pytest.raises(NoTokenizerError) as caught:
        read_tokenizer_spec(format_, metadata)

    assert str(caught.value) == (
        "error[APR-T002]: the model carries no tokenizer, so text cannot become ids\n"
        f"  where     {where}\n"
        "  expected  a list of tokens\n"
        "  found     none\n"
        "  try       token ids need none: `apr trace` and `apr parity` take --tokens 1,2,3"
    )


def test_an_unknown_kind_is_named_with_those_that_are_known() -> None:
    with pytest.raises(UnsupportedTokenizerError) as caught:
        read_tokenizer_spec("gguf", BPE | {"tokenizer.ggml.model": "bert"})

    assert str(caught.value) == (
        "error[APR-T003]: the model's kind of tokenizer is not known here\n"
        "  where     tokenizer.ggml.model\n"
        "  expected  gpt2 (byte-level BPE) or llama (SentencePiece)\n"
        "  found     'bert'\n"
        "  try       give token ids instead of text"
    )


def test_an_unknown_pre_tokenizer_is_named_with_those_that_are_known() -> None:
    with pytest.raises(UnsupportedTokenizerError) as caught:
        read_tokenizer_spec("gguf", BPE | {"tokenizer.ggml.pre": "tekken"})

    assert str(caught.value) == (
        "error[APR-T003]: the model cuts text into words in a way that is not known here\n"
        "  where     tokenizer.ggml.pre\n"
        "  expected  one of deepseek-coder, deepseek-r1-qwen, default, falcon3, gpt-2,"
        " llama-bpe, llama-v3, llama3, megrez, minerva-7b, mpt, olmo, phi-2, pixtral, qwen2,"
        " refact, smaug-bpe, smollm, starcoder\n"
        "  found     'tekken'\n"
        "  try       give token ids instead of text"
    )


def test_a_token_that_is_there_twice_is_named_with_both_ids() -> None:
    with pytest.raises(TokenizerDataError) as caught:
        read_tokenizer_spec("gguf", BPE | {"tokenizer.ggml.tokens": ["a", "b", "ab", "b"]})

    assert str(caught.value) == (
        "error[APR-T005]: the vocabulary has one token twice\n"
        "  where     tokenizer.ggml.tokens\n"
        "  expected  tokens that all differ\n"
        "  found     'b' as id 1 and as id 3\n"
        "  try       convert the model again, or give token ids instead of text"
    )


@pytest.mark.parametrize(
    ("changed", "where", "expected", "found"),
    [
        ({"eos_token_id": 4}, "eos_token_id", "a token id, 0..3", "4"),
        ({"eos_token_id": -1}, "eos_token_id", "a token id, 0..3", "-1"),
        ({"bos_token_id": "a"}, "bos_token_id", "a token id, 0..3", "'a'"),
        ({"token_type": [1, 1, 1]}, "token_type", "4 entries, one a token", "3 entries"),
        (
            {"token_type": [1, 1, 1, "x"]},
            "token_type",
            "4 integers",
            "'something else among them'",
        ),
        ({"tokens": ["a", "b", 3, "c"]}, "tokens", "a string at index 2", "3"),
        ({"tokens": "abc"}, "tokens", "a list", "'abc'"),
        ({"merges": 7}, "merges", "a list", "7"),
        ({"add_bos_token": 1}, "add_bos_token", "true or false", "1"),
        ({"pre": 1}, "pre", "a string", "1"),
        ({"merges": None}, "merges", "a value: a BPE merges by them", "nothing"),
        ({"eos_token_id": None}, "eos_token_id", "a value: EOS goes after a text", "nothing"),
    ],
)
def test_a_malformed_table_is_refused_with_both_sides(
    changed: dict[str, object], where: str, expected: str, found: str
) -> None:
    metadata = BPE | {f"tokenizer.ggml.{key}": value for key, value in changed.items()}

    with pytest.raises(TokenizerDataError) as caught:
        read_tokenizer_spec("gguf", metadata)

    parts = caught.value.parts
    assert parts["where"] == f"tokenizer.ggml.{where}"
    assert (parts["expected"], parts["found"]) == (expected, found)


@pytest.mark.parametrize(
    ("scores", "expected", "found"),
    [
        ([0.0, 0.0, 0.0, float("nan")], "a finite number at index 3", "nan"),
        ([0.0, float("-inf"), 0.0, 0.0], "a finite number at index 1", "-inf"),
        ([0.0, 0.0, 0.0, "x"], "4 numbers", "'something else among them'"),
        ([0.0], "4 entries, one a token", "1 entries"),
        (None, "a value: an SPM merges by them", "nothing"),
    ],
)
def test_scores_that_cannot_rank_tokens_are_refused(
    scores: object, expected: str, found: str
) -> None:
    with pytest.raises(TokenizerDataError) as caught:
        read_tokenizer_spec("gguf", SPM | {"tokenizer.ggml.scores": scores})

    parts = caught.value.parts
    assert (parts["expected"], parts["found"]) == (expected, found)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UnsupportedTokenizerError, match="found     'onnx'"):
        read_tokenizer_spec("onnx", {})
