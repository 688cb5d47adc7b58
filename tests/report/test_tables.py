"""Tables fold to the terminal, stay whole in a pipe, and never send a stranger's escapes."""

from __future__ import annotations

import io
import sys

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotejar.report.tables import (
    Column,
    cells,
    counted,
    fold,
    output_width,
    print_lines,
    render_pairs,
    render_table,
    render_text,
    shortened,
    visible,
    visible_lines,
    with_unit,
)

COLUMNS = (Column("tensor"), Column("type"), Column("bytes", is_number=True))
ROWS = (("blk.0.attn_q.weight", "Q4_K", "1,024"), ("output.weight", "Q6_K", "20"))


def plain(lines: list[str]) -> list[str]:
    return [click.unstyle(line) for line in lines]


def test_without_a_width_a_row_is_a_line() -> None:
    assert plain(render_table(COLUMNS, ROWS, None)) == [
        "  tensor               type  bytes",
        "  blk.0.attn_q.weight  Q4_K  1,024",
        "  output.weight        Q6_K     20",
    ]


def test_the_text_column_gives_way_first() -> None:
    assert plain(render_table(COLUMNS, ROWS, 32)) == [
        "  tensor             type  bytes",
        "  blk.0.attn_q.weig  Q4_K  1,024",
        "  ht",
        "  output.weight      Q6_K     20",
    ]


def test_a_table_that_cannot_fit_becomes_a_block_a_row() -> None:
    assert plain(render_table(COLUMNS, ROWS, 24)) == [
        "  blk.0.attn_q.weight",
        "    type Q4_K",
        "    bytes 1,024",
        "  output.weight",
        "    type Q6_K   bytes 20",
    ]


def test_an_empty_cell_is_left_out_of_a_block() -> None:
    rows = [("blk.0.attn_q.weight", "", "1,024")]

    assert plain(render_table(COLUMNS, rows, 24)) == [
        "  blk.0.attn_q.weight",
        "    bytes 1,024",
    ]


def test_styling_takes_no_room() -> None:
    rows = [("a", click.style("PASS", fg="green"), "1")]

    assert plain(render_table(COLUMNS, rows, None))[1] == "  a       PASS      1"


def test_wide_letters_take_two_columns() -> None:
    assert render_table((Column("a"), Column("b")), [("模型", "x"), ("ab", "y")], None)[1:] == [
        "  模型  x",
        "  ab    y",
    ]


def test_pairs_fold_under_themselves() -> None:
    assert render_pairs([("name", "one two three four"), ("x", "1")], 24) == [
        "  name  one two three",
        "        four",
        "  x     1",
    ]


def test_pairs_with_long_labels_stand_one_under_the_other() -> None:
    assert render_pairs([("general.architecture", "llama")], 30) == [
        "  general.architecture",
        "    llama",
    ]


def test_no_pairs_are_no_lines() -> None:
    assert render_pairs([], 80) == []


def test_a_paragraph_is_indented_twice_from_its_second_line() -> None:
    assert render_text("one two three four five", 20) == ["  one two three", "    four five"]


@given(st.text(max_size=60), st.integers(2, 30))
def test_folding_keeps_every_letter_and_the_width(text: str, width: int) -> None:
    lines = fold(text, width)

    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(cells(line) <= width for line in lines)


def test_control_characters_are_shown_not_sent() -> None:
    assert visible("a\x1b[31mred\nb\u202e") == r"a\x1b[31mred\nb\u202e"


def test_what_prints_is_left_alone() -> None:
    assert visible("Ġequals ▁ 模型") == "Ġequals ▁ 模型"


def test_of_many_lines_only_control_characters_are_shown() -> None:
    sent = "one\n\ttwo\x1b[2J\x9b1m\x07\r\x7f\x00 \u3000\U0001f469\u200d\U0001f4bb"

    assert visible_lines(sent) == (
        "one\n\ttwo\\x1b[2J\\x9b1m\\x07\\r\\x7f\\x00 \u3000\U0001f469\u200d\U0001f4bb"
    )


def test_a_long_text_is_cut() -> None:
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghijk", 10) == "abcdefg..."


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1,023 bytes"),
        (1536, "1,536 bytes (1.5 KiB)"),
        (491400064, "491,400,064 bytes (468.6 MiB)"),
        (2**80, f"{2**80:,} bytes (1048576.0 EiB)"),
    ],
)
def test_sizes_have_a_unit(num_bytes: int, text: str) -> None:
    assert with_unit(num_bytes) == text


def test_one_is_singular() -> None:
    assert (counted(1, "key"), counted(2000, "key")) == ("1 key", "2,000 keys")


def test_columns_sets_the_width_even_of_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")

    assert output_width() == 60


@pytest.mark.parametrize("columns", ["", "0", "wide", "-4"])
def test_a_pipe_has_no_width(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "stdout", io.StringIO())

    assert output_width() is None


def test_an_output_that_has_not_the_letters_gets_escapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)

    print_lines(["Ġequals"])

    output.flush()
    assert output.buffer.getvalue() == b"\\u0120equals\n"  # type: ignore[attr-defined]


def test_a_pipe_gets_no_colour(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines([click.style("FAIL", fg="red")])

    assert capsys.readouterr().out == "FAIL\n"
