"""Only the code that really runs is proved."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING

import pytest

from cotejar.contracts.prove.source import SourceReader
from cotejar.contracts.prove.terms import Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = "def double(x):\n    return 2 * x\n"


def test_a_function_is_found_in_its_file(load: Callable) -> None:
    tree = SourceReader().tree_of(load(TEXT).double)

    assert (tree.name, tree.lineno) == ("double", 1)


def test_an_edited_file_is_refused(load: Callable) -> None:
    module = load(TEXT)
    with open(module.__file__, "w") as file:  # noqa: PTH123
        file.write(TEXT.replace("2", "3"))

    with pytest.raises(Unsupported, match="does not run the source in its file"):
        SourceReader().tree_of(module.double)


def test_a_decorated_function_is_refused(load: Callable) -> None:
    function = load(TEXT).double

    @wraps(function)
    def decorated(x: int) -> int:
        return function(x)

    with pytest.raises(Unsupported, match="wrapped by a decorator"):
        SourceReader().tree_of(decorated)


def test_a_function_from_no_file_is_refused() -> None:
    names: dict = {"__name__": "nowhere"}
    exec(TEXT, names)

    with pytest.raises(Unsupported, match="there is no source of nowhere"):
        SourceReader().tree_of(names["double"])


def hash_of(load: Callable, text: str) -> str:
    reader = SourceReader()
    tree = reader.tree_of(load(text).double)
    reader.reached = {"double": tree}
    return reader.closure_hash()


def test_the_hash_is_of_the_meaning(load: Callable) -> None:
    before = hash_of(load, TEXT)

    commented = 'def double(x):\n    """Twice."""\n    # why\n    return 2 * x\n'
    assert hash_of(load, commented) == before
    assert hash_of(load, TEXT.replace("2", "3")) != before
