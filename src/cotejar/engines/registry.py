"""Which engines there are, and how a command line names one.

    [ENGINE[+numerics][@device]:]PATH

    model.gguf                  native, in the numerics it generates with
    native+f32:model.apr        our engine in float32
    oracle:demo:smollm2         the float64 oracle on the demo model
    llamacpp:model.gguf         llama.cpp, in a process of its own
    transformers+f64:FOLDER     Hugging Face transformers, likewise
    recorded:run.trace          a trace file

An engine's target is text, so that nothing of it loads until it is used.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotejar.engines.spec import DEMO, ENGINES, RECORDED, EngineSpec
from cotejar.errors import MissingExtraError, UnknownEngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cotejar.engines.protocol import Engine
    from cotejar.model.language_model import LanguageModel


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
    spec = find_engine(name)
    if spec is not None:
        numerics = spec.numerics[0] if numerics is None else numerics
        device = spec.devices[0] if device is None else device
        if numerics in spec.numerics and device in spec.devices:
            return EngineName(engine=name, numerics=numerics, device=device, path=path)
    if os.path.exists(text):  # noqa: PTH110 - unlike Path.exists, it never raises
        return _default_engine(text)
    if spec is None:
        raise _unknown("engine", text, (*ENGINES, RECORDED, *_plugin_names()), name)
    if numerics not in spec.numerics:
        raise _unknown(f"numerics of {name}", text, spec.numerics, numerics)
    raise _unknown(f"device of {name}", text, spec.devices, device)


def find_engine(name: str) -> EngineSpec | None:
    """The spec of an engine of ours, or of a plugin; None where nobody offers it.

    Raises:
        PluginError: a plugin of that name is broken.
    """
    if name in ENGINES:
        return ENGINES[name]
    from cotejar.engines.plugins import find_plugin  # which imports this module

    return find_plugin(name)


def stepping_engines() -> tuple[str, ...]:
    """Those of ours that can trace tokens fed one at a time."""
    return tuple(spec.name for spec in ENGINES.values() if spec.steps)


def _plugin_names() -> tuple[str, ...]:
    from cotejar.engines.plugins import find_plugins

    return tuple(dict.fromkeys(plugin.name for plugin in find_plugins()))


def _default_engine(path: str) -> EngineName:
    spec = ENGINES["native"]
    return EngineName(
        engine=spec.name, numerics=spec.numerics[0], device=spec.devices[0], path=path
    )


def create_engine(
    name: EngineName, model: LanguageModel, *, options: Mapping[str, Any] | None = None
) -> Engine:
    """Load the engine and hand it the model, in a process of its own if its spec says so.

    Args:
        name: which engine.
        model: what it is to run.
        options: an engine's own settings, such as `ubatch_tokens` of `llamacpp`.

    Raises:
        MissingExtraError: it needs a package that is not installed.
        CotejarError: it cannot run the model.
    """
    spec = find_engine(name.engine)
    assert spec is not None, "the name was read here"
    require_packages(spec)
    if spec.isolated:
        from cotejar.engines.isolated_session import open_isolated

        return open_isolated(spec, model, numerics=name.numerics, options=options)
    module, _, attribute = spec.target.partition(":")
    factory = getattr(importlib.import_module(module), attribute)
    engine: Engine = factory(model, numerics=name.numerics, **(options or {}))
    return engine


def require_packages(spec: EngineSpec) -> None:
    """Refuse an engine whose packages are not installed.

    Raises:
        MissingExtraError: it says which, and how to install them.
    """
    missing = [name for name in spec.packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"the engine {spec.name} is not installed",
            where=f"engine {spec.name}",
            expected=f"the package{'s'[: len(missing) - 1]} {', '.join(missing)}",
            found="no such package in this Python",
            hint=f"pip install 'cotejar[{spec.extra}]'" if spec.extra else "install it",
        )


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
