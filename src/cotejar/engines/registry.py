"""Which engines there are, and how a command line names one.

    [ENGINE[+numerics][@device]:]PATH

    model.gguf                  native, in the numerics it generates with
    native+f32:model.apr        our engine in float32
    oracle:demo:smollm2         the float64 oracle on the demo model
    recorded:run.trace          a trace file

An engine's target is text, so that nothing of it loads until it is used.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.errors import UnknownEngineError

if TYPE_CHECKING:
    from cotejar.engines.protocol import Engine
    from cotejar.model.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSpec:
    """What an engine offers, before it is loaded."""

    name: str
    target: str
    """`module:Class`, called with (model, numerics=...)."""
    numerics: tuple[str, ...]
    """What it can compute in; the first is the default."""
    devices: tuple[str, ...] = ("cpu",)
    generates: bool = False
    """Can it continue a text, or only trace one?"""


ENGINES = {
    spec.name: spec
    for spec in (
        EngineSpec(
            name="native",
            target="cotejar.engines.native.engine:NativeEngine",
            numerics=("q8", "f32", "q8-kvf16", "q8-kvq8", "f32-kvf16", "f32-kvq8"),
            generates=True,
        ),
        EngineSpec(
            name="oracle",
            target="cotejar.engines.oracle:OracleEngine",
            numerics=("f64",),
        ),
    )
}
RECORDED = "recorded"
"""A trace that was made before: it has a path and nothing to run."""

DEMO = "demo"
"""Stands before a model's name and is part of its path."""

# Wider than any name in the tables: what is written a little wrong is to be called unknown,
# and not to be looked for as a file.
_PREFIX = re.compile(r"([A-Za-z]\w*)(?:\+([^@:/]*))?(?:@([^:/]*))?:(.+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineName:
    """One side of a comparison, as it was named."""

    engine: str
    numerics: str
    """Empty for `recorded`: the trace says."""
    device: str
    path: str
    """Of the model, or of the trace; `demo:NAME` stays as it is."""

    @property
    def is_recorded(self) -> bool:
        """Is this a trace file, with nothing to run?"""
        return self.engine == RECORDED


def parse_engine_name(text: str) -> EngineName:
    """Read `[ENGINE[+numerics][@device]:]PATH`.

    Raises:
        UnknownEngineError: an engine, numerics or device that there is not.
    """
    match = _PREFIX.fullmatch(text)
    if match is None or text.startswith(f"{DEMO}:"):
        return _default_engine(text)
    name, numerics, device, path = match.groups()
    if name == RECORDED:
        if numerics is not None or device is not None:
            raise UnknownEngineError(
                "a recorded trace has its numerics and its device already",
                where=text,
                expected=f"recorded:{path}",
                found=text[: -len(path) - 1],
                hint="`apr trace recorded:PATH` shows what it was recorded with",
            )
        return EngineName(engine=RECORDED, numerics="", device="", path=path)
    spec = ENGINES.get(name)
    if spec is not None:
        numerics = spec.numerics[0] if numerics is None else numerics
        device = spec.devices[0] if device is None else device
        if numerics in spec.numerics and device in spec.devices:
            return EngineName(engine=name, numerics=numerics, device=device, path=path)
    if os.path.exists(text):  # noqa: PTH110 - unlike Path.exists, it never raises
        return _default_engine(text)
    if spec is None:
        raise _unknown("engine", text, (*ENGINES, RECORDED), name)
    if numerics not in spec.numerics:
        raise _unknown(f"numerics of {name}", text, spec.numerics, numerics)
    raise _unknown(f"device of {name}", text, spec.devices, device)


def _default_engine(path: str) -> EngineName:
    spec = ENGINES["native"]
    return EngineName(
        engine=spec.name, numerics=spec.numerics[0], device=spec.devices[0], path=path
    )


def create_engine(name: EngineName, model: LanguageModel) -> Engine:
    """Load the engine and hand it the model."""
    module, _, attribute = ENGINES[name.engine].target.partition(":")
    factory = getattr(importlib.import_module(module), attribute)
    engine: Engine = factory(model, numerics=name.numerics)
    return engine


def _unknown(kind: str, text: str, known: tuple[str, ...], found: str) -> UnknownEngineError:
    words = (*known, DEMO) if kind == "engine" else known
    close = difflib.get_close_matches(found[:80].lower(), words, n=1)
    meant = f"did you mean {close[0]}? " if close and close[0] != found else ""
    return UnknownEngineError(
        f"there is no {kind} {found!r}",
        where=text,
        expected=", ".join(known),
        found=found,
        hint=f"{meant}[ENGINE[+numerics][@device]:]PATH, for example native+f32:model.gguf",
    )
