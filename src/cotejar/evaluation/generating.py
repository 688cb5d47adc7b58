"""Open a side of an evaluation: an engine that can continue a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from cotejar.engines.registry import (
    ENGINES,
    EngineName,
    create_engine,
    find_engine,
    parse_engine_name,
)
from cotejar.errors import UnknownEngineError
from cotejar.model.language_model import LanguageModel, open_language_model

if TYPE_CHECKING:
    from cotejar.engines.protocol import GeneratingEngine


def open_generating(source: str) -> tuple[EngineName, LanguageModel, GeneratingEngine]:
    """Open `[ENGINE[+numerics]:]PATH`.

    Raises:
        UnknownEngineError: an engine that cannot continue a text.
        CotejarError: as opening finds.
    """
    name = parse_engine_name(source)
    spec = find_engine(name.engine)
    if spec is None or not spec.generates:
        raise UnknownEngineError(
            f"{name.engine} cannot continue a text",
            where=source,
            expected=", ".join(spec.name for spec in ENGINES.values() if spec.generates),
            found=name.engine,
            hint=f"for example native:{name.path}",
        )
    model = open_language_model(name.path)
    return name, model, cast("GeneratingEngine", create_engine(name, model))
