"""Where each family of pre-tokenizers cuts a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cotejar.tokenizer.byte_level import spelled_bytes
from cotejar.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.tokenizer.spec import TokenizerSpec

TEXT = "I'LL don't 1234\n\n  x=é?!\r\n  "


def words_of(make: Callable[..., TokenizerSpec], pre: str, text: str) -> list[str]:
    tokenizer = Tokenizer(make(pre=pre, bos_token_id=0))
    pieces = tokenizer._encoder._tokenizer.pre_tokenizer.pre_tokenize_str(text)
    return [spelled_bytes(piece).decode() for piece, _ in pieces]


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        (
            "llama-bpe",
            [
                "I",
                "'LL",
                " don",
                "'t",
                " ",
                "123",
                "4",
                "\n\n",
                " ",
                " x",
                "=é",
                "?!\r\n",
                "  ",
            ],
        ),
        (
            "qwen2",
            ["I", "'LL", " don", "'t", " ", *"1234", "\n\n", " ", " x", "=é", "?!\r\n", "  "],
        ),
        (
            "gpt-2",
            ["I", "'", "LL", " don", "'t", " 1234", "\n\n ", " x", "=", "é", "?!", "\r\n  "],
        ),
        (
            "smollm",
            [
                *("I", "'", "LL", " don", "'t", " ", *"1234"),
                *("\n\n ", " x", "=", "é", "?!", "\r\n  "),
            ],
        ),
        (
            "deepseek-coder",
            [
                *("I", "'", "LL", " don", "'", "t", " ", *"1234"),
                *("\n", "\n", " ", " x", "=", "é", "?!", "\r", "\n", "  "),
            ],
        ),
        (
            "default",
            [
                *("I", "'", "LL", " don", "'", "t", " ", "123", "4"),
                *("\n\n ", " x", "=", "é", "?!", "\r\n  "),
            ],
        ),
    ],
)
def test_a_family_cuts_as_its_models_do(
    bpe_spec: Callable[..., TokenizerSpec], pre: str, words: list[str]
) -> None:
    assert words_of(bpe_spec, pre, TEXT) == words


def test_a_long_s_makes_a_contraction_as_in_the_models_own_tokenizer(
    bpe_spec: Callable[..., TokenizerSpec],
) -> None:
    assert words_of(bpe_spec, "qwen2", "a'\u017fb") == ["a", "'\u017f", "b"]


def test_a_wide_space_is_east_asian_as_in_the_models_own_tokenizer(
    bpe_spec: Callable[..., TokenizerSpec],
) -> None:
    assert words_of(bpe_spec, "deepseek-coder", "-\u3000-") == ["-", "\u3000", "-"]
