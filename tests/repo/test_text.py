"""What may not be in the tree: modules too long, paths of a machine, notes to oneself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
MAX_LINES = 500
FOLDERS = ("src", "tests", "docs", "contracts", "benchmarks", "demo", "examples", ".ci")

# Spelled in halves, or this file would be the first to hold them.
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.])/(?:wo" + r"rk|ho" + r"me|roo" + r"t|Use" + r"rs)/",
    "a note to oneself": r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b",
    "what lies beside the checkout": r"\bsha" + r"red/",
}
ALLOWED = {"what lies beside the checkout": "tests"}
"""Tests may read it where it is there."""


def texts() -> list[Path]:
    """Every text of the repository but caches and licences."""
    files = [path for path in REPOSITORY.iterdir() if path.is_file()]
    for folder in FOLDERS:
        files += [path for path in (REPOSITORY / folder).rglob("*") if path.is_file()]
    suffixes = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".txt", ".cfg", ""}
    return [
        path for path in files if path.suffix in suffixes and "__pycache__" not in path.parts
    ]


TEXTS = texts()
MODULES = [path for path in TEXTS if path.suffix == ".py"]


def test_there_is_something_to_check() -> None:
    assert len(MODULES) > 100
    assert REPOSITORY / "README.md" in TEXTS
    assert REPOSITORY / "Makefile" in TEXTS


def test_no_module_is_too_long() -> None:
    lengths = {
        str(path.relative_to(REPOSITORY)): len(path.read_text().splitlines())
        for path in MODULES
        if "src" in path.relative_to(REPOSITORY).parts
    }

    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_text_holds(what: str) -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()}"
        for path in TEXTS
        if path.relative_to(REPOSITORY).parts[0] != ALLOWED.get(what)
        for number, line in enumerate(read(path), start=1)
        if re.search(FORBIDDEN[what], line)
    ]

    assert found == []


def read(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("a path of one machine", "open('/wo" + "rk/models/x')"),
        ("a path of one machine", "PATH=/ho" + "me/me/bin"),
        ("a note to oneself", "# TO" + "DO: later"),
        ("what lies beside the checkout", "see ../sha" + "red/notes"),
    ],
)
def test_the_patterns_see_what_they_must(what: str, line: str) -> None:
    assert re.search(FORBIDDEN[what], line)


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(REPOSITORY))
        for path in MODULES
        if path.read_text().strip() and not path.read_text().startswith(('"""', "#!", 'r"""'))
    ]

    assert silent == []
