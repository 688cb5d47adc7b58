"""A harness that calls other functions than production's: mutants, or seeded bugs.

Nothing is patched in place: the harness and what its module calls are copied with other
globals, so that the original goes on being what production calls.
"""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cotejar.contracts.prove.harness import Body


def with_functions(body: Body, replacements: Mapping[FunctionType, FunctionType]) -> Body:
    """The same harness over other functions, in its own module's helpers too."""
    original = cast("FunctionType", body)
    names: dict[str, object] = {}
    for name, value in original.__globals__.items():
        names[name] = value
        if isinstance(value, FunctionType):
            if value in replacements:
                names[name] = replacements[value]
            elif value.__globals__ is original.__globals__:
                names[name] = _copy(value, names)
    return cast("Body", _copy(original, names))


def _copy(function: FunctionType, names: dict[str, object]) -> FunctionType:
    copied = FunctionType(
        function.__code__,
        names,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    copied.__qualname__ = function.__qualname__
    copied.__module__ = function.__module__
    return copied
