"""Measure the noise of engines on one model: what `apr noise` does.

Each engine runs the same tokens as the float64 oracle, prompt by prompt; one prompt's
activations are held at a time. What is an engine's own decision, such as how to round
activations, is its noise; a fault in it would be measured as noise, too. A profile is a
statement about engines that are held to be sound.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cotejar.engines.oracle import OracleEngine
from cotejar.engines.plugins import find_plugins
from cotejar.engines.registry import create_engine, find_engine, parse_engine_name
from cotejar.engines.run_trace import require_text
from cotejar.engines.spec import ENGINES
from cotejar.errors import CotejarError, NothingMeasuredError, PluginError, UsageError
from cotejar.model.language_model import open_language_model
from cotejar.parity.noise import EXACT, EngineNoise, MeasuredPrompt, NoiseProfile
from cotejar.parity.noise_prompts import digest, token_lists
from cotejar.parity.noise_tally import NoiseTally
from cotejar.trace.forward_trace import (
    EVERY_ARRAY,
    Capture,
    EngineInfo,
    ModelInfo,
    Scope,
)
from cotejar.trace.host import describe_host

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cotejar.engines.protocol import Engine
    from cotejar.engines.registry import EngineName
    from cotejar.model.language_model import LanguageModel

EVERY_ENGINE = "all"
DEFAULT_ENGINES = ("native+f32", "native+q8")
MAX_REASON = 1000
CAPTURE = Capture(scopes=(Scope.ALL,), array_slots=EVERY_ARRAY)


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseRequest:
    """What is asked of `apr noise`."""

    model: str
    """A path, or `demo:NAME`."""
    engines: tuple[str, ...] = DEFAULT_ENGINES
    """`ENGINE[+numerics][@device]`; `all` for every numerics of what is installed."""
    prompts: tuple[str, ...] = ()
    """Instead of those that are built in."""


def measure_noise(
    request: NoiseRequest, on_progress: Callable[[str], None] = lambda _: None
) -> NoiseProfile:
    """Run every prompt in the oracle and in every engine.

    Raises:
        UsageError: no such engine, or one that is not held against the oracle.
        NothingMeasuredError: an engine that was named has no noise: it gives NaN; or of
            `all` none could run.
        CotejarError: as opening and running find, of an engine that was named.
    """
    for prompt in request.prompts:
        require_text(prompt)
    is_every = request.engines == (EVERY_ENGINE,)
    names, broken = every_engine() if is_every else (request.engines, {})
    sides: dict[EngineName, str] = {}
    for text in names:
        sides.setdefault(_parse(text, request.model), text)  # native is native+q8
    model = open_language_model(request.model)
    lists = token_lists(model, request.prompts)
    runs = _Runs(model, is_lenient=is_every, left_out=broken)
    for name, text in sides.items():
        runs.open(text, name)
    for number, ids in enumerate(lists, 1):
        runs.add(ids, f"prompt {number} of {len(lists)}, {len(ids)} tokens", on_progress)
    return runs.profile(lists)


def every_engine() -> tuple[tuple[str, ...], dict[str, str]]:
    """Every numerics of every engine but the oracle; and plugins that are broken, and why."""
    names = [name for name in ENGINES if name != EXACT]
    names += dict.fromkeys(plugin.name for plugin in find_plugins())
    found: list[str] = []
    broken: dict[str, str] = {}
    for name in names:
        try:
            spec = find_engine(name)
        except PluginError as error:
            broken[name] = _reason(error)
        else:
            found += [f"{name}+{numerics}" for numerics in spec.numerics] if spec else []
    return tuple(found), broken


def _reason(error: CotejarError) -> str:
    return f"{error.problem}: {error.parts['found']}"[:MAX_REASON]


def _parse(text: str, path: str) -> EngineName:
    if text == EVERY_ENGINE:
        raise UsageError(
            "all engines are named, and others beside them",
            where="--engines",
            expected=f"{EVERY_ENGINE} alone, or names",
            found=f"{EVERY_ENGINE} and others",
            hint="every numerics of every engine that is installed is in it",
        )
    name = parse_engine_name(f"{text}:{path}")
    if name.is_recorded or name.engine == EXACT or name.path != path:
        raise UsageError(
            f"{text!r} has no noise to measure",
            where=f"--engines {text}",
            expected="ENGINE[+numerics], for example native+q8 or llamacpp",
            found=text,
            hint="every noise is a distance from the oracle; `apr doctor` lists the engines",
        )
    return name


class _Runs:
    """The engines that still run, and what was measured of each."""

    def __init__(
        self, model: LanguageModel, *, is_lenient: bool, left_out: dict[str, str]
    ) -> None:
        self._model, self._is_lenient = model, is_lenient
        self._oracle = OracleEngine(model)
        self._engines: dict[str, Engine] = {}
        self._tallies: dict[str, NoiseTally] = {}
        self._infos: dict[str, EngineInfo] = {}
        self._left_out = dict(left_out)

    def open(self, text: str, name: EngineName) -> None:
        """Load an engine."""
        try:
            self._engines[text] = create_engine(name, self._model)
            self._tallies[text] = NoiseTally()
        except CotejarError as error:
            self._leave_out(text, error)

    def add(
        self, token_ids: Sequence[int], title: str, on_progress: Callable[[str], None]
    ) -> None:
        """Run one prompt in all of them."""
        if not self._engines:
            return
        on_progress(f"{title}: oracle")
        exact = self._oracle.trace(token_ids, capture=CAPTURE)
        for text, engine in list(self._engines.items()):
            on_progress(f"{title}: {text}")
            try:
                trace = engine.trace(token_ids, capture=CAPTURE)
                self._tallies[text].add(exact, trace)
                self._infos[text] = trace.engine
            except CotejarError as error:
                self._leave_out(text, error)

    def profile(self, lists: Sequence[Sequence[int]]) -> NoiseProfile:
        """What was measured, if anything was."""
        if not self._infos:
            raise NothingMeasuredError(
                "no engine could be measured",
                where=self._model.name,
                expected="at least one engine that runs the model",
                found="; ".join(f"{k}: {why}" for k, why in self._left_out.items()) or "none",
                hint="`apr doctor` shows which engines are installed",
            )
        model = self._model
        return NoiseProfile(
            name="",
            model=ModelInfo(
                name=model.name,
                format=model.file.format,
                architecture=model.declared.config.architecture,
                fingerprint=model.fingerprint,
            ),
            exact=self._oracle.info,
            engines=tuple(
                EngineNoise(engine=info, sites=self._tallies[text].sites)
                for text, info in self._infos.items()
            ),
            prompts=tuple(
                MeasuredPrompt(sha256=digest(ids), num_tokens=len(ids)) for ids in lists
            ),
            left_out=tuple(self._left_out.items()),
            host=describe_host(),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _leave_out(self, text: str, error: CotejarError) -> None:
        """Drop one of `all` engines, with what it measured; one that was named must run."""
        if not self._is_lenient:
            raise error
        self._engines.pop(text, None)
        self._infos.pop(text, None)
        self._left_out[text] = _reason(error)
