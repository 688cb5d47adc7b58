"""Engines that can continue a text: who they are, and how one is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from cotejar.engines.registry import create_engine, find_engine, parse_engine_name
from cotejar.engines.spec import ENGINES
from cotejar.errors import UnknownEngineError
from cotejar.model.language_model import LanguageModel, open_language_model

if TYPE_CHECKING:
    from cotejar.engines.protocol import GeneratingEngine
    from cotejar.engines.registry import EngineName


def require_generating(name: EngineName) -> None:
    """Refuse an engine that only traces, and a trace that was made before.

    Raises:
        UnknownEngineError: it cannot continue a text.
    """
    spec = find_engine(name.engine)
    if spec is not None and spec.generates:
        return
    problem = f"{name.engine} cannot continue a text"
    hint = f"for example native:{name.path}"
    if name.is_recorded:
        problem = "a recorded trace cannot be continued"
        hint = (
            "name the model that it was recorded of; "
            f"`apr trace recorded:{name.path}` shows which"
        )
    raise UnknownEngineError(
        problem,
        where=f"{name.engine}:{name.path}",
        expected=", ".join(spec.name for spec in ENGINES.values() if spec.generates),
        found=name.engine,
        hint=hint,
    )


def open_generating(source: str) -> tuple[EngineName, LanguageModel, GeneratingEngine]:
    """Open `[ENGINE[+numerics][@device]:]PATH`.

    Raises:
        UnknownEngineError: an engine that cannot continue a text.
        CotejarError: as opening finds.
    """
    name = parse_engine_name(source)
    require_generating(name)
    model = open_language_model(name.path)
    return name, model, cast("GeneratingEngine", create_engine(name, model))
