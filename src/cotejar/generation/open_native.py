"""Open a model for what only the native engine offers: many texts in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from cotejar.engines.registry import create_engine, parse_engine_name
from cotejar.errors import UnknownEngineError
from cotejar.model.language_model import open_language_model

if TYPE_CHECKING:
    from cotejar.engines.native.engine import NativeEngine


def open_native(source: str) -> NativeEngine:
    """Open `[native[+numerics]:]PATH`.

    Raises:
        UnknownEngineError: another engine is named.
        CotejarError: as opening finds.
    """
    name = parse_engine_name(source)
    if name.engine != "native":
        raise UnknownEngineError(
            f"{name.engine} cannot grow several texts side by side",
            where=source,
            expected="native",
            found=name.engine,
            hint=f"native:{name.path}",
        )
    return cast("NativeEngine", create_engine(name, open_language_model(name.path)))
