"""Error codes: one a class, never two meanings, and all of them in the docs."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from cotejar.errors import CotejarError, UsageError

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs" / "errors.md"
FAMILIES = {
    "UsageError": "APR-U",
    "FileError": "APR-F",
    "ModelError": "APR-M",
    "TokenizerError": "APR-T",
    "TraceError": "APR-R",
    "EngineError": "APR-E",
    "ContractError": "PV-E",
}


def every_error() -> list[type[CotejarError]]:
    """The whole tree, by generation."""
    found: list[type[CotejarError]] = []
    level = CotejarError.__subclasses__()
    while level:
        found += level
        level = [below for one in level for below in one.__subclasses__()]
    return [error for error in found if error.__module__.startswith("cotejar.errors.")]


ERRORS = every_error()


def test_no_two_errors_share_a_code() -> None:
    codes = [error.code for error in ERRORS]

    assert sorted(codes) == sorted(set(codes))
    assert len(codes) > 50


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_has_a_code_of_its_family(error: type[CotejarError]) -> None:
    family = next(base.__name__ for base in error.__mro__ if base.__name__ in FAMILIES)

    assert re.fullmatch(FAMILIES[family] + r"\d{3}", error.__dict__["code"])


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_comes_whole_from_another_process(error: type[CotejarError]) -> None:
    parts = {"where": "a file", "expected": "a number", "found": "none", "hint": "look"}
    raised = error("it is none", **parts)

    arrived = pickle.loads(pickle.dumps(raised))

    assert type(arrived) is error
    assert str(arrived) == str(raised)
    assert arrived.as_json() == raised.as_json()


def test_every_code_is_given_in_the_tree() -> None:
    elsewhere = [
        path.name if path.parent.name == "errors" else str(path)
        for path in (REPOSITORY / "src").rglob("*.py")
        if re.search(r'^ +code = "', path.read_text(), re.MULTILINE)
    ]

    assert set(elsewhere) == {"usage.py", "files.py", "models.py", "runs.py", "contracts.py"}


def test_the_docs_list_every_code_with_its_class_and_meaning() -> None:
    row = r"^\| ([A-Z]+-[A-Z]\d{3}) \| `(\w+)` \| (.+) \|$"

    rows = re.findall(row, DOCS.read_text(), re.MULTILINE)

    listed = {code: (name, meaning) for code, name, meaning in rows}
    assert len(listed) == len(rows)
    assert listed == {
        error.code: (error.__name__, first_line(error.__doc__)) for error in ERRORS
    }


def first_line(text: str | None) -> str:
    return (text or "").split("\n\n")[0].replace("\n    ", " ").strip()


def test_a_message_has_all_parts_and_json_the_same() -> None:
    error = UsageError(
        "the problem", where="there", expected="this", found="that", hint="do it"
    )

    assert str(error) == (
        "error[APR-U001]: the problem\n"
        "  where     there\n"
        "  expected  this\n"
        "  found     that\n"
        "  try       do it"
    )
    assert error.as_json() == {
        "code": "APR-U001",
        "problem": "the problem",
        "where": "there",
        "expected": "this",
        "found": "that",
        "try": "do it",
    }


def test_a_message_sends_nothing_to_the_terminal_and_the_parts_stay_as_they_are() -> None:
    evil = "a\x1b[2J\nerror\x9b\r"
    error = UsageError(evil, where=evil, expected=evil, found=evil, hint=evil)

    shown = r"a\x1b[2J\nerror\x9b\r"
    assert str(error) == (
        f"error[APR-U001]: {shown}\n"
        f"  where     {shown}\n"
        f"  expected  {shown}\n"
        f"  found     {shown}\n"
        f"  try       {shown}"
    )
    assert set(error.as_json().values()) == {"APR-U001", evil}
