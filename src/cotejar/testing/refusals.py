"""Assert that something is refused: by the very class of error, in exactly these words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def refused(kind: type[Exception], message: str, call: Callable[[], object]) -> None:
    """`call` raises `kind` itself, no class below it, and says exactly `message`."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert str(caught.value) == message


def refused_file(
    open_file: Callable[[Path], Any],
    path: Path,
    kind: type[Exception],
    message: str,
    *,
    weight: str = "",
) -> None:
    """Opening a file, or then reading `weight`, is refused; FILE in `message` is the path."""
    text = message.replace("FILE", str(path))
    refused(
        kind, text, lambda: open_file(path).read_bytes(weight) if weight else open_file(path)
    )
