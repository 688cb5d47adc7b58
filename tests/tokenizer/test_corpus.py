"""The built-in corpus covers what it says, and a file is cut into texts without loss."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import pytest

from cotejar.errors import CotejarError, LimitError, MetadataError, NothingMeasuredError
from cotejar.tokenizer.corpus import MAX_TEXT_BYTES, built_in_corpus, read_corpus

if TYPE_CHECKING:
    from pathlib import Path

CASES = built_in_corpus()
TEXTS = [case.text for case in CASES if case.data is None and case.messages is None]


@pytest.mark.parametrize(
    "part",
    [
        "1234567",
        "two  spaces",
        "\t\t",
        "\n\n\n",
        "\r\n",
        "    return",
        "今天",
        "カ",
        "오늘",
        "\u200d",
        "\ufe0f",
        "e\u0301",
        "שלום",
        "مرحبا",
        "<|im_start|>",
        "</s>",
        "\x00",
    ],
    ids=ascii,
)
def test_the_corpus_has(part: str) -> None:
    assert any(part in text for text in TEXTS)


def test_every_text_is_read_in_three_ways() -> None:
    ways = {(case.add_special, case.parse_special) for case in CASES if case.text}
    ways_of = {
        text: {(c.add_special, c.parse_special) for c in CASES if c.text == text}
        for text in TEXTS
        if text
    }

    assert ways == {(True, True), (False, True), (True, False)}
    assert all(found == ways for found in ways_of.values())


def test_there_are_chats_and_bytes_that_are_no_utf8() -> None:
    assert sum(case.messages is not None for case in CASES) >= 2
    bad = [case.data for case in CASES if case.data is not None]
    assert len(bad) >= 5
    for data in bad:
        with pytest.raises(UnicodeDecodeError):
            data.decode()


def test_some_text_changes_under_every_normaliser() -> None:
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert any(unicodedata.normalize(form, text) != text for text in TEXTS)


def test_a_file_is_cut_into_texts_without_loss(tmp_path: Path) -> None:
    text = "".join(f"line {n}\u2028 é\r\n" for n in range(40)) + "the end"
    path = tmp_path / "corpus.txt"
    path.write_bytes(text.encode())

    cases = read_corpus(path)

    usual = [case for case in cases if case.add_special and case.parse_special]
    assert "".join(case.text for case in usual) == text
    assert len(cases) == 3 * len(usual) > 3
    assert all(len(case.text.encode()) <= MAX_TEXT_BYTES for case in cases)


def test_long_lines_are_texts_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text(("x" * (MAX_TEXT_BYTES - 1) + "\n") * 3)

    assert [case.name for case in read_corpus(path)[::3]] == [
        "lines 1..1",
        "lines 2..2",
        "lines 3..3",
    ]


@pytest.mark.parametrize(
    ("data", "kind", "where"),
    [
        (b"abc \xff", MetadataError, ", byte 4"),
        (b"x" * (MAX_TEXT_BYTES + 1), LimitError, ", line 1"),
        (b"ok\n" + b"x" * (MAX_TEXT_BYTES + 1), LimitError, ", line 2"),
    ],
    ids=["no UTF-8", "a long line", "a long second line"],
)
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, data: bytes, kind: type[CotejarError], where: str
) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(data)

    with pytest.raises(kind) as caught:
        read_corpus(path)

    assert caught.value.parts["where"] == f"{path}{where}"


def test_an_empty_file_measures_nothing(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"")

    with pytest.raises(NothingMeasuredError) as caught:
        read_corpus(path)

    assert caught.value.exit_code == 3
