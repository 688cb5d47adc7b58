"""What asserts a refusal fails where the class or one word is another."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from cotejar.testing.refusals import refused, refused_file


class BelowError(ValueError):
    pass


def raiser(error: Exception) -> NoReturn:
    raise error


def test_the_class_and_the_whole_text_count() -> None:
    refused(ValueError, "no room", lambda: raiser(ValueError("no room")))
    for error in (ValueError("no rooms"), BelowError("no room")):
        with pytest.raises(AssertionError):
            refused(ValueError, "no room", lambda error=error: raiser(error))
    with pytest.raises(pytest.fail.Exception):
        refused(ValueError, "no room", lambda: None)


def test_a_file_may_be_refused_when_a_weight_is_read() -> None:
    file = SimpleNamespace(read_bytes=lambda name: raiser(ValueError(f"bad.gguf: {name}")))

    refused_file(lambda _: file, Path("bad.gguf"), ValueError, "FILE: t", weight="t")
    refused_file(lambda path: raiser(ValueError(f"{path}")), Path("x"), ValueError, "FILE")
    with pytest.raises(pytest.fail.Exception):  # nothing is read
        refused_file(lambda _: file, Path("bad.gguf"), ValueError, "FILE: t")
