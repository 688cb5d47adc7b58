"""Text is shown as soon as it is certain, and a stop text never."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotejar.generation.text_stream import TextStream
from cotejar.model.language_model import open_language_model

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(demo_model: Path) -> Tokenizer:
    return open_language_model(demo_model).tokenizer


def pieces(tokenizer: Tokenizer, text: str, stops: list[str]) -> tuple[list[str], TextStream]:
    stream = TextStream(tokenizer, stops)
    ids = tokenizer.encode(text, add_special=False)
    return [*(stream.push(token) for token in ids), stream.finish()], stream


def test_without_stop_texts_all_of_it_comes(tokenizer: Tokenizer) -> None:
    shown, stream = pieces(tokenizer, "one, two; \u6c34 \U0001f469\u200d\U0001f680 end", [])

    assert "".join(shown) == "one, two; \u6c34 \U0001f469\u200d\U0001f680 end"
    assert not stream.stopped


def test_a_stop_text_over_several_tokens_ends_it(tokenizer: Tokenizer) -> None:
    shown, stream = pieces(tokenizer, "Answer: 42\n\nQuestion: why?", ["\n\nQuestion:"])

    assert "".join(shown) == "Answer: 42"
    assert stream.stopped


def test_what_only_looks_like_a_stop_text_comes_after_all(tokenizer: Tokenizer) -> None:
    shown, stream = pieces(tokenizer, "a\n\nQuest is not it", ["\n\nQuestion:"])

    assert "".join(shown) == "a\n\nQuest is not it"
    assert not stream.stopped


def test_the_first_of_several_counts(tokenizer: Tokenizer) -> None:
    shown, _ = pieces(tokenizer, "one two three", ["three", "two"])

    assert "".join(shown) == "one "


def test_a_character_over_several_tokens_is_held_back_until_it_is_whole(
    tokenizer: Tokenizer,
) -> None:
    stream = TextStream(tokenizer)
    ids = tokenizer.encode("\U0001f469", add_special=False)
    assert len(ids) > 1

    shown = [stream.push(token) for token in ids]

    assert shown == [*[""] * (len(ids) - 1), "\U0001f469"]
    assert stream.finish() == ""


def test_what_never_becomes_a_character_is_shown_as_such_once_that_is_certain(
    tokenizer: Tokenizer,
) -> None:
    stream = TextStream(tokenizer)
    first = tokenizer.encode("\U0001f469", add_special=False)[0]
    (letter,) = tokenizer.encode("a", add_special=False)

    shown = [stream.push(first), stream.push(letter), stream.push(first), stream.finish()]

    assert (shown[0], shown[2]) == ("", "")
    assert (shown[1], shown[3]) == ("\ufffda", "\ufffd")


@given(text=st.text(alphabet="ab\u6c34", max_size=30), stop=st.text(alphabet="ab", max_size=4))
def test_it_is_the_text_before_the_stop_text(text: str, stop: str) -> None:
    class Bytes:
        """One token a byte."""

        def token_bytes(self, token: int) -> bytes:
            return bytes([token])

        def is_control(self, _: int) -> bool:
            return False

    stream = TextStream(Bytes(), [stop] if stop else [])  # type: ignore[arg-type]

    shown = "".join(stream.push(byte) for byte in text.encode()) + stream.finish()

    assert shown == (text.partition(stop)[0] if stop else text)
