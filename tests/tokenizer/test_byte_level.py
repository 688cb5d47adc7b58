"""Byte-level BPE: which ids a text gets, and that it comes back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel

from cotejar.errors import TokenizerDataError, TokenizerError
from cotejar.tokenizer.byte_level import CHARACTERS, spelled_bytes
from cotejar.tokenizer.pre_tokenizer import KNOWN_PRE_TOKENIZERS
from cotejar.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.tokenizer.spec import TokenizerSpec

    Maker = Callable[..., TokenizerSpec]


def test_each_byte_has_the_character_that_gpt2_gives_it() -> None:
    spelled = dict(zip(CHARACTERS, range(256), strict=True))

    assert sorted(CHARACTERS) == sorted(ByteLevel.alphabet())
    assert [spelled[c] for c in "ĠĊĉ!~¡ÿŃ"] == [0x20, 0x0A, 0x09, 0x21, 0x7E, 0xA1, 0xFF, 0xAD]


def test_a_token_spelled_in_other_characters_is_its_own_text() -> None:
    assert spelled_bytes("Ġa") == b" a"
    assert spelled_bytes("中") == "中".encode()


@pytest.mark.parametrize(
    ("merges", "pieces"),
    [(("a b", "b c"), ["ab", "c"]), (("b c", "a b"), ["a", "bc"])],
)
def test_the_better_ranked_merge_is_made_first(
    bpe_spec: Maker, merges: tuple[str, ...], pieces: list[str]
) -> None:
    tokenizer = Tokenizer(bpe_spec(merges))

    assert [tokenizer.token_text(i) for i in tokenizer.encode("abc")] == pieces


def test_no_merge_crosses_the_edge_of_a_word(bpe_spec: Maker) -> None:
    tokenizer = Tokenizer(bpe_spec(("a Ġ", "Ġ b")))

    assert [tokenizer.token_text(i) for i in tokenizer.encode("a b")] == ["a", " b"]


def test_a_word_that_is_a_token_needs_no_merges_if_the_model_ignores_them(
    bpe_spec: Maker,
) -> None:
    unreachable = {"abc": 1}
    ignoring = Tokenizer(bpe_spec(("a b",), tokens=unreachable, pre="llama3", bos_token_id=0))
    merging = Tokenizer(bpe_spec(("a b",), tokens=unreachable, pre="smaug-bpe"))

    assert ignoring.encode("abc", add_special=False) == [257]
    assert [merging.token_text(i) for i in merging.encode("abc")] == ["ab", "c"]


def test_a_byte_without_a_token_is_refused_and_not_dropped(bpe_spec: Maker) -> None:
    spelled = tuple(char for byte, char in enumerate(CHARACTERS) if byte != 0x1D)
    tokenizer = Tokenizer(replace(bpe_spec(), tokens=spelled, token_types=()))

    with pytest.raises(TokenizerError) as caught:
        tokenizer.encode("é\x1d")

    assert str(caught.value) == (
        "error[APR-T001]: the vocabulary cannot spell the text\n"
        "  where     the text's UTF-8 at byte 2\n"
        "  expected  one of the 255 bytes that have a token\n"
        "  found     0x1D\n"
        "  try       leave the character out"
    )


@pytest.mark.parametrize(
    ("merges", "found"),
    [
        (["a b", "ab"], "'ab', and no token ''"),
        (["a b", "b x y"], "'b x y', and no token 'x y'"),
        (["a b", "b a"], "'b a', and no token 'ba'"),
    ],
)
def test_a_merge_that_cannot_be_made_is_named(
    bpe_spec: Maker, merges: list[str], found: str
) -> None:
    spec = replace(bpe_spec(("a b",)), merges=tuple(merges))

    with pytest.raises(TokenizerDataError) as caught:
        Tokenizer(spec)

    assert str(caught.value) == (
        "error[APR-T005]: a merge of the tokenizer cannot be made\n"
        "  where     merge 1\n"
        "  expected  two tokens with a space between, whose sum is a token too\n"
        f"  found     {found}\n"
        "  try       convert the model again, or give token ids instead of text"
    )


@given(text=st.text(max_size=60), pre=st.sampled_from(["", *KNOWN_PRE_TOKENIZERS]))
def test_any_text_comes_back(bpe_spec: Maker, text: str, pre: str) -> None:
    tokenizer = Tokenizer(bpe_spec(("a b", "Ġ Ġ", "Ã ©"), pre=pre, bos_token_id=0))

    assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text
