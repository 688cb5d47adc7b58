"""What docs/generation.md says in tables is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from cotejar.engines.native.engine import NUMERICS
from cotejar.generation.batch import KEYS
from cotejar.parity.generation import Outcome
from cotejar.parity.self_check import check_engine
from cotejar.serving import requests
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf

DOCUMENT = Path(__file__).parents[2] / "docs" / "generation.md"


def column(heading: str, index: int = 0) -> list[str]:
    """The words in backticks, or in capitals, of one column of a table."""
    text = DOCUMENT.read_text(encoding="utf-8")
    table = re.search(rf"^\| {heading} \|.*\n\| ---.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table, f"there is no table of {heading}"
    cells = [re.split(r"(?<!\\)\|", row)[1 + index] for row in table[1].splitlines()]
    return [
        word
        for cell in cells
        for word in re.findall(r"`([^`]+)`|([A-Z-]{4,})", cell)
        for word in word
        if word
    ]


def test_every_numerics_of_the_cache_is_listed() -> None:
    assert sorted(column("numerics")) == sorted(NUMERICS)


def test_every_key_of_a_prompts_line_is_listed() -> None:
    assert set(column("key")) == KEYS


def test_every_outcome_is_listed() -> None:
    assert column("outcome") == [
        outcome.value
        for outcome in (Outcome.MATCH, Outcome.TIE_FLIP, Outcome.DRIFT, Outcome.WRONG)
    ]


def test_every_field_that_is_honoured_or_ignored_is_named() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+)(?:\.[a-z_]+)?`", text))

    known = set().union(*requests._FIELDS.values()) | requests._IGNORED
    assert known - named == set()


def test_every_row_of_the_check_is_listed(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", TinyDecoder(sliding_window=20))

    check = check_engine(str(path), token_ids=[(7 * i + 3) % 60 for i in range(40)])

    assert column("row") == [row.id for row in check.rows]
