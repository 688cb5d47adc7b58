"""Which tokens are special, where a text is cut at them, and which end generation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cotejar.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.tokenizer.spec import TokenizerSpec

    Maker = Callable[..., TokenizerSpec]

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
FIRST = 256  # the ids of the tokens after the 256 bytes


def test_control_tokens_are_parsed_only_if_asked_and_user_defined_ones_always(
    bpe_spec: Maker,
) -> None:
    tokenizer = Tokenizer(bpe_spec(tokens={"<|c|>": CONTROL, "<u>": USER_DEFINED}))

    assert tokenizer.encode("<|c|><u>") == [FIRST, FIRST + 1]
    assert tokenizer.encode("<|c|><u>", parse_special=False) == [
        *tokenizer.encode("<|", parse_special=False),
        *tokenizer.encode("c", parse_special=False),
        *tokenizer.encode("|>", parse_special=False),
        FIRST + 1,
    ]


def test_an_unused_token_is_never_parsed(bpe_spec: Maker) -> None:
    tokenizer = Tokenizer(bpe_spec(tokens={"[PAD]": UNUSED}))

    assert FIRST not in tokenizer.encode("[PAD]")


def test_a_longer_token_is_found_before_a_shorter_one(bpe_spec: Maker) -> None:
    tokenizer = Tokenizer(bpe_spec(tokens={"<a>": CONTROL, "<a><b>": CONTROL}))

    assert tokenizer.encode("<a><a><b><a>") == [FIRST, FIRST + 1, FIRST]


def test_text_around_and_between_special_tokens_is_encoded_by_itself(bpe_spec: Maker) -> None:
    # Without the cut, "Ġ Ġ" would join the spaces on both sides of the token.
    tokenizer = Tokenizer(bpe_spec(("Ġ Ġ",), tokens={"<c>": CONTROL}))
    space = tokenizer.encode(" ")

    assert tokenizer.encode(" <c> <c><c>") == [*space, 257, *space, 257, 257]


@pytest.mark.parametrize(
    ("token", "token_type", "ends"),
    [
        ("<|im_end|>", CONTROL, True),
        ("<|im_end|>", NORMAL, True),
        ("<|file_sep|>", CONTROL, True),
        ("</s>", CONTROL, True),
        ("</s>", NORMAL, False),
        ("<|im_start|>", CONTROL, False),
        ("<|fim_prefix|>", NORMAL, False),
    ],
)
def test_generation_ends_at_tokens_of_the_right_type_and_spelling(
    bpe_spec: Maker, token: str, token_type: int, ends: bool
) -> None:
    tokenizer = Tokenizer(bpe_spec(tokens={token: token_type}))

    assert tokenizer.eos_ids == ({FIRST} if ends else set())


def test_generation_ends_at_the_tokens_that_the_file_names(bpe_spec: Maker) -> None:
    tokenizer = Tokenizer(bpe_spec(eos_token_id=5, eot_token_id=7))

    assert tokenizer.eos_ids == {5, 7}


def test_a_token_spelled_with_bars_is_control_whatever_its_type(bpe_spec: Maker) -> None:
    tokenizer = Tokenizer(bpe_spec(tokens={"<|fim_prefix|>": NORMAL, "</s>": NORMAL}))

    assert [tokenizer.is_control(FIRST), tokenizer.is_control(FIRST + 1)] == [True, False]
