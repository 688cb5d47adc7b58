"""Text to ids and back, and the ids of real models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotejar.errors import TokenIdError, TokenizerError
from cotejar.tokenizer.tokenizer import StreamDecoder, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.tokenizer.spec import TokenizerSpec

    Maker = Callable[..., TokenizerSpec]

CONTROL, UNUSED, BYTE = 3, 5, 6
A = ord("a")


def test_smollm2_gives_the_question_its_ids(smollm2: Tokenizer) -> None:
    ids = smollm2.encode("What is 2+2?")

    assert ids == [1780, 314, 216, 34, 27, 34, 47]
    assert smollm2.decode(ids) == "What is 2+2?"
    assert smollm2.eos_ids == {0, 2, 4}
    assert (smollm2.bos_id, smollm2.vocab_size) == (1, 49152)


@pytest.mark.qwen
def test_qwen_gives_the_question_its_ids(qwen: Tokenizer) -> None:
    ids = qwen.encode("What is 2+2?")

    assert ids == [3838, 374, 220, 17, 10, 17, 30]
    assert qwen.decode(ids) == "What is 2+2?"
    assert qwen.eos_ids == {151643, 151645, 151662, 151663, 151664}


def test_bos_and_eos_go_around_a_text_if_the_model_wants_them(bpe_spec: Maker) -> None:
    flags = {"bos_token_id": 1, "eos_token_id": 2, "add_bos_token": True, "add_eos_token": True}
    tokenizer = Tokenizer(bpe_spec(**flags))

    assert tokenizer.encode("a") == [1, A, 2]
    assert tokenizer.encode("") == [1, 2]
    assert tokenizer.encode("a", add_special=False) == [A]


def test_a_decoded_text_can_leave_control_tokens_out(bpe_spec: Maker) -> None:
    tokenizer = Tokenizer(bpe_spec(tokens={"<c>": CONTROL}))

    assert tokenizer.decode([A, 256, A]) == "a<c>a"
    assert tokenizer.decode([A, 256, A], skip_special=True) == "aa"


def test_a_token_is_shown_by_its_text_or_by_its_name(bpe_spec: Maker) -> None:
    tokens = {"<c>": CONTROL, "[PAD]": UNUSED, "<0x0A>": BYTE}
    tokenizer = Tokenizer(bpe_spec(("Ġ a",), tokens=tokens))

    assert [tokenizer.token_bytes(i) for i in range(256, 260)] == [b" a", b"<c>", b"", b"\n"]
    assert [tokenizer.token_text(i) for i in (256, 258, 0xE4)] == [" a", "[PAD]", "\ufffd"]


@pytest.mark.parametrize("token_id", [-1, 256])
def test_an_id_outside_the_vocabulary_is_refused(bpe_spec: Maker, token_id: int) -> None:
    tokenizer = Tokenizer(bpe_spec())

    for use in (
        lambda: tokenizer.decode([A, token_id]),
        lambda: tokenizer.token_bytes(token_id),
        lambda: tokenizer.token_text(token_id),
    ):
        with pytest.raises(TokenIdError) as caught:
            use()
        assert str(caught.value) == (
            "error[APR-U003]: a token id is not in the vocabulary\n"
            "  where     the token ids\n"
            "  expected  0..255\n"
            f"  found     {token_id}\n"
            "  try       see whether the ids belong to another model"
        )


def test_half_of_a_surrogate_pair_is_refused(bpe_spec: Maker) -> None:
    with pytest.raises(TokenizerError) as caught:
        Tokenizer(bpe_spec()).encode("ab\udcff")

    assert str(caught.value) == (
        "error[APR-T001]: the text is no Unicode\n"
        "  where     character 2 of 3\n"
        "  expected  characters that have a UTF-8 encoding\n"
        "  found     U+DCFF, half of a surrogate pair\n"
        "  try       give the text as UTF-8"
    )


def test_a_stream_holds_back_half_a_character(bpe_spec: Maker) -> None:
    stream = StreamDecoder(Tokenizer(bpe_spec()))

    assert [stream.push(byte) for byte in "é€".encode()] == ["", "é", "", "", "€"]
    assert stream.finish() == ""


def test_a_stream_that_ends_in_half_a_character_says_so(bpe_spec: Maker) -> None:
    stream = StreamDecoder(Tokenizer(bpe_spec()))

    assert stream.push("é".encode()[0]) == ""
    assert stream.finish() == "\ufffd"


def test_a_stream_shows_control_tokens_only_if_asked(bpe_spec: Maker) -> None:
    tokenizer = Tokenizer(bpe_spec(tokens={"<c>": CONTROL}))

    assert StreamDecoder(tokenizer).push(256) == ""
    assert StreamDecoder(tokenizer, skip_special=False).push(256) == "<c>"


def test_a_stream_keeps_the_space_of_a_first_word(spm_spec: Maker) -> None:
    tokenizer = Tokenizer(spm_spec({"▁a": -1.0}))

    assert StreamDecoder(tokenizer).push(tokenizer.vocab_size - 1) == " a"


@given(text=st.text(max_size=40))
def test_a_stream_says_what_decoding_at_once_says(bpe_spec: Maker, text: str) -> None:
    tokenizer = Tokenizer(bpe_spec(("a b", "Ã ©")))
    stream = StreamDecoder(tokenizer)

    streamed = "".join(stream.push(i) for i in tokenizer.encode(text)) + stream.finish()

    assert streamed == text
