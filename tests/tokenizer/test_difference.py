"""Where two lists of ids part, and the reason: a defect of each kind is planted and named."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotejar.tokenizer.declared import DeclaredTokenizer
from cotejar.tokenizer.difference import TokenDifference, TokenizedText, find_difference
from cotejar.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.tokenizer.spec import TokenizerSpec

MERGES = ("1 2", "12 3", "Ġ a", "a b", "ab c", "b c")
SPECIAL = {"<bos>": 3, "<eos>": 3, "<|im_start|>": 3}
BOS, EOS = 256 + len(MERGES), 257 + len(MERGES)


def declared(spec: TokenizerSpec) -> DeclaredTokenizer:
    return DeclaredTokenizer(spec=spec, pre_tokenizer=spec.pre_tokenizer, merges=spec.merges)


def tokenize(spec: TokenizerSpec, text: str, **options: bool) -> TokenizedText:
    tokenizer = Tokenizer(spec)
    ids = tokenizer.encode(text, **options)
    return TokenizedText(
        ids=tuple(ids),
        spellings=tuple(map(tokenizer.token_bytes, ids)),
        special_ids=frozenset(i for i in ids if tokenizer.is_special(i)),
        declared=declared(spec),
        bos_id=spec.bos_id,
        eos_id=spec.eos_id,
    )


@pytest.fixture
def spec(bpe_spec: Callable[..., TokenizerSpec]) -> TokenizerSpec:
    return bpe_spec(
        MERGES, tokens=SPECIAL, pre="gpt-2", bos_token_id=BOS, eos_token_id=EOS,
        add_bos_token=True, add_eos_token=True,
    )  # fmt: skip


def difference(
    text: str, a: TokenizerSpec, b: TokenizerSpec, b_options: dict[str, bool] | None = None
) -> TokenDifference:
    found = find_difference(text, tokenize(a, text), tokenize(b, text, **(b_options or {})))
    assert found is not None
    return found


def test_the_same_ids_have_no_difference(spec: TokenizerSpec) -> None:
    assert find_difference("abc 123", tokenize(spec, "abc"), tokenize(spec, "abc")) is None


def test_a_changed_pre_tokenizer_is_named_with_what_it_cuts(spec: TokenizerSpec) -> None:
    found = difference("abc 123", spec, replace(spec, pre_tokenizer="smollm"))

    assert (found.index, found.before, found.text) == (3, "<bos>abc ", "123")
    assert [text for _, text in found.reference] == ["123"]
    assert [text for _, text in found.candidate] == ["1", "2", "3"]
    assert found.reason == (
        "another pre-tokenizer: 'gpt-2' cuts '123', 'smollm' cuts '1' | '2' | '3'"
    )


def test_a_changed_pre_tokenizer_that_nobody_declares_is_seen_by_what_crosses(
    spec: TokenizerSpec,
) -> None:
    text = "x 123"
    known = tokenize(replace(spec, pre_tokenizer="smollm"), text)
    unknown = replace(tokenize(spec, text), declared=None)

    found = find_difference(text, known, unknown)

    assert found is not None
    assert found.reason == (
        "another pre-tokenizer: the candidate's token '123' runs across a cut of the "
        "reference's, 'smollm'"
    )


def test_a_swapped_merge_is_named(spec: TokenizerSpec) -> None:
    # "a b" and "b c" in the other order: `abc` becomes a + bc.
    swapped = (*MERGES[:3], MERGES[5], MERGES[4], MERGES[3])

    found = difference("abc", spec, replace(spec, merges=swapped))

    assert [text for _, text in found.reference] == ["abc"]
    assert [text for _, text in found.candidate] == ["a", "bc"]
    assert found.reason == (
        "another table of merges: the first that differs is 3, 'a b' against 'b c'"
    )


def test_a_missing_bos_is_named(spec: TokenizerSpec) -> None:
    found = difference("abc", spec, replace(spec, add_bos=False))

    assert found.index == 0
    assert found.reason == f"the reference alone adds BOS in front, {BOS} '<bos>'"


def test_an_added_eos_is_named(spec: TokenizerSpec) -> None:
    found = difference("abc", replace(spec, add_eos=False), spec)

    assert found.index == 2
    assert found.reason == f"the candidate alone adds EOS at the end, {EOS} '<eos>'"


def test_a_special_token_taken_as_text_is_named(spec: TokenizerSpec) -> None:
    found = difference("a<|im_start|>b", spec, spec, {"parse_special": False})

    assert (found.index, found.before) == (2, "<bos>a")
    assert found.reason == "the reference alone takes '<|im_start|>' for a special token"


def test_another_vocabulary_is_named(bpe_spec: Callable[..., TokenizerSpec]) -> None:
    first = bpe_spec(("a b", "b c"))
    second = bpe_spec(("b c", "a b"))

    found = difference("ab", first, second)

    assert found.reason == "another vocabulary: 'ab' is 256 against 257"


def test_a_normaliser_is_named_by_its_form(spec: TokenizerSpec) -> None:
    text = "e\u0301"
    composed = tokenize(spec, "\u00e9")

    found = find_difference(text, tokenize(spec, text), composed)

    assert found is not None
    assert found.reason == ("another normaliser: the candidate's tokens spell the text in NFC")


def test_a_space_in_front_is_named(spm_spec: Callable[..., TokenizerSpec]) -> None:
    with_space = spm_spec({"▁": -1.0, "a": -2.0, "▁a": -3.0}, add_bos_token=False)
    without = spm_spec(
        {"▁": -1.0, "a": -2.0, "▁a": -3.0}, add_bos_token=False, add_space_prefix=False
    )

    found = difference("a a", with_space, without)

    assert found.reason == "another normaliser: one puts a space in front of the text"


def test_the_sentence_has_text_ids_and_spellings(spec: TokenizerSpec) -> None:
    found = difference("abc 123", spec, replace(spec, pre_tokenizer="smollm"))

    one, two, three = (spec.tokens.index(digit) for digit in "123")
    assert found.sentence == (
        f"first at token 3, after '<bos>abc ': 257 '123' against {one} '1' {two} '2' {three} "
        "'3'; another pre-tokenizer: 'gpt-2' cuts '123', 'smollm' cuts '1' | '2' | '3'"
    )


def test_the_two_meet_again_where_the_rest_is_the_same() -> None:
    a = TokenizedText(ids=(1, 2, 3, 9), spellings=(b"a", b"b", b"c", b"z"), declared=None)
    b = TokenizedText(ids=(1, 7, 9), spellings=(b"a", b"bc", b"z"), declared=None)

    found = find_difference("abcz", a, b)

    assert found is not None
    assert (found.reference, found.candidate) == (((2, "b"), (3, "c")), ((7, "bc"),))
    assert found.text == "bc"
    assert found.reason == (
        "another table of merges: both cut the text alike here, and merge it otherwise"
    )


TOKENS = {1: b"a", 2: b"b", 3: b"ab", 4: b"", 5: "é".encode()[:1], 6: "é".encode()[1:]}
IDS = st.lists(st.sampled_from(sorted(TOKENS)), max_size=8).map(tuple)


@given(a=IDS, b=IDS)
def test_any_two_lists_part_at_their_first_difference(
    a: tuple[int, ...], b: tuple[int, ...]
) -> None:
    sides = [
        TokenizedText(ids=ids, spellings=tuple(TOKENS[i] for i in ids), declared=None)
        for ids in (a, b)
    ]

    found = find_difference("ab", sides[0], sides[1])

    assert (found is None) is (a == b)
    if found is not None:
        assert a[: found.index] == b[: found.index]
        assert a[found.index : found.index + 1] != b[found.index : found.index + 1]
        assert found.reason


def test_an_end_that_is_missing_is_a_difference() -> None:
    a = TokenizedText(ids=(1, 2), spellings=(b"a", b"b"), declared=None)
    b = TokenizedText(ids=(1,), spellings=(b"a",), declared=None)

    found = find_difference("ab", a, b)

    assert found is not None
    assert (found.index, found.reference, found.candidate) == (1, ((2, "b"),), ())


def test_half_a_character_is_shown_as_such() -> None:
    data = "é".encode()
    a = TokenizedText(ids=(1, 2), spellings=(data[:1], data[1:]), declared=None)
    b = TokenizedText(ids=(3,), spellings=(data,), declared=None)

    found = find_difference("é", a, b)

    assert found is not None
    assert found.reference == ((1, "\ufffd"), (2, "\ufffd"))
