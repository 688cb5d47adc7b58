"""SentencePiece's merging: the best score first, the leftmost of equals."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotejar.errors import TokenizerDataError, TokenizerError
from cotejar.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.tokenizer.spec import TokenizerSpec

    Maker = Callable[..., TokenizerSpec]


def pieces_of(spec: TokenizerSpec, text: str) -> list[str]:
    ids = Tokenizer(spec).encode(text, add_special=False)
    return [spec.tokens[token_id] for token_id in ids]


@pytest.mark.parametrize(
    ("scores", "pieces"),
    [
        ({"ab": -1.0, "bc": -2.0}, ["ab", "c"]),
        ({"ab": -2.0, "bc": -1.0}, ["a", "bc"]),
        ({"ab": -1.0, "bc": -1.0}, ["ab", "c"]),
    ],
)
def test_the_best_score_is_merged_first_and_the_leftmost_of_equals(
    spm_spec: Maker, scores: dict[str, float], pieces: list[str]
) -> None:
    letters = dict.fromkeys("abc", -9.0)
    spec = spm_spec(letters | scores, add_space_prefix=False)

    assert pieces_of(spec, "abc") == pieces


def test_a_token_made_in_two_ways_is_made_at_its_leftmost_place(spm_spec: Maker) -> None:
    # "aa" is made at 0 and at 3, around the b that joins neither: then "aab" and "baa".
    scores = {"a": -9.0, "b": -9.0, "aa": -1.0, "aab": -2.0, "baa": -2.0}
    spec = spm_spec(scores, add_space_prefix=False)

    assert pieces_of(spec, "aabaa") == ["aab", "aa"]


def test_a_character_without_a_token_becomes_its_bytes(spm_spec: Maker) -> None:
    spec = spm_spec({"a": -1.0}, add_space_prefix=False)

    assert pieces_of(spec, "aé") == ["a", "<0xC3>", "<0xA9>"]


def test_unknown_characters_in_a_row_are_one_unknown_token(spm_spec: Maker) -> None:
    spec = spm_spec({"a": -1.0, "▁": -2.0}, has_bytes=False)

    assert pieces_of(spec, "éßaé é") == ["▁", "<unk>", "a", "<unk>", "▁", "<unk>"]


def test_a_character_that_nothing_can_stand_for_is_named(spm_spec: Maker) -> None:
    spec = replace(spm_spec({"a": -1.0, "▁": -2.0}, has_bytes=False), unk_id=None)

    with pytest.raises(TokenizerError) as caught:
        Tokenizer(spec).encode("aé")

    assert str(caught.value) == (
        "error[APR-T001]: the vocabulary cannot spell the text\n"
        "  where     the character 'é' (U+00E9)\n"
        "  expected  a token for it, byte tokens, or an unknown token\n"
        "  found     none of them\n"
        "  try       leave the character out"
    )


def test_a_byte_token_that_is_spelled_otherwise_is_refused(spm_spec: Maker) -> None:
    spec = spm_spec({})
    spec = replace(spec, tokens=(*spec.tokens[:-1], "<0xGG>"))

    with pytest.raises(TokenizerDataError) as caught:
        Tokenizer(spec)

    assert str(caught.value) == (
        "error[APR-T005]: a byte token is not spelled like one\n"
        "  where     the tokens of type BYTE\n"
        "  expected  <0x00> to <0xFF>\n"
        "  found     '<0xGG>'\n"
        "  try       convert the model again, or give token ids instead of text"
    )


def test_text_never_merges_into_a_control_token(spm_spec: Maker) -> None:
    spec = spm_spec({"<": -1.0, "s": -1.0, ">": -1.0, "s>": -0.5}, add_space_prefix=False)

    ids = Tokenizer(spec).encode("<s>", add_special=False, parse_special=False)

    assert [spec.tokens[token_id] for token_id in ids] == ["<", "s>"]


def test_the_space_before_a_text_is_put_and_taken_away_again(spm_spec: Maker) -> None:
    tokenizer = Tokenizer(spm_spec({"▁": -2.0, "▁a": -1.0, "a": -3.0}))

    ids = tokenizer.encode("a<s> a")

    assert [tokenizer.spec.tokens[i] for i in ids] == ["<s>", "▁a", "<s>", "▁", "▁a"]
    assert tokenizer.decode(ids) == "<s>a<s> a"
    assert tokenizer.decode(ids, skip_special=True) == "a a"


@given(text=st.text(alphabet="ab é中▁<s>", max_size=30), has_prefix=st.booleans())
def test_any_text_without_the_space_sign_comes_back(
    spm_spec: Maker, text: str, has_prefix: bool
) -> None:
    scores = {"▁": -4.0, "a": -3.0, "b": -3.0, "▁a": -1.0, "ab": -2.0, "▁▁": -2.0}
    tokenizer = Tokenizer(spm_spec(scores, add_space_prefix=has_prefix))

    decoded = tokenizer.decode(tokenizer.encode(text, add_special=False))

    # U+2581 is how the vocabulary spells a space, so it comes back as one.
    assert decoded == text.replace("▁", " ")


@given(text=st.text(alphabet="ab ", max_size=30))
def test_merging_word_by_word_gives_what_merging_the_whole_text_gives(
    spm_spec: Maker, text: str
) -> None:
    scores = {"▁": -4.0, "a": -3.0, "b": -3.0, "▁a": -1.0, "ab": -2.0, "▁▁": -1.5, "▁ab": -2.0}
    by_word = spm_spec(scores)
    # A token with a space inside, never made, forbids cutting into words.
    whole = spm_spec(scores | {"x▁x": -0.1})

    assert pieces_of(by_word, text) == pieces_of(whole, text)
