"""One side of a comparison: an engine and a model to run, or a trace made before.

This module, `run` and `probe` are the only ones here that know engines; what judges sees
traces.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from cotejar.engines.registry import (
    EngineName,
    create_engine,
    find_engine,
    parse_engine_name,
    stepping_engines,
)
from cotejar.errors import NoTokenizerError, UsageError
from cotejar.faults.engine import faulty_engine
from cotejar.model.language_model import LanguageModel, open_language_model
from cotejar.trace.recorded_trace import read_recorded_trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.engines.protocol import Engine, GeneratingEngine, Session, SteppingEngine
    from cotejar.trace.forward_trace import Capture, ForwardTrace


class Side:
    """Something that can be asked for a trace of a prompt."""

    def __init__(
        self, name: EngineName, *, fault: str | None = None, beside: Side | None = None
    ) -> None:
        """Open the model, or the trace.

        Args:
            name: of the engine and the model, or of the trace.
            fault: to inject.
            beside: a side whose model, if it is the same file, need not be opened again.

        Raises:
            CotejarError: as opening finds; UsageError for a fault in a recorded trace.
        """
        self.name = name
        self._recorded: ForwardTrace | None = None
        self.model: LanguageModel | None = None
        if name.is_recorded:
            if fault:
                raise UsageError(
                    "a fault cannot be injected into what was recorded before",
                    where=f"--fault {fault}",
                    expected="a side that runs a model",
                    found=f"recorded:{name.path}",
                    hint="name the model instead of the trace",
                )
            self._recorded = read_recorded_trace(Path(name.path))
            return
        shared = beside.model if beside and beside.name.path == name.path else None
        self.model = shared or open_language_model(name.path)
        self._engine: Engine = (
            faulty_engine(name, self.model, fault) if fault else create_engine(name, self.model)
        )

    @property
    def recorded(self) -> ForwardTrace | None:
        """The trace, where this side is one."""
        return self._recorded

    def tokenize(self, prompt: str) -> list[int]:
        """The prompt as this side's own tokenizer sees it.

        Raises:
            NoTokenizerError: the model carries none.
        """
        assert self.model is not None, "a recorded side has its ids"
        return self.model.tokenizer.encode(prompt)

    @property
    def has_tokenizer(self) -> bool:
        """Can this side turn text into ids and back?"""
        try:
            return self.model is not None and self.model.tokenizer is not None
        except NoTokenizerError:
            return False

    def start(self) -> Session:
        """Begin an empty context of an engine that generates."""
        return cast("GeneratingEngine", self._engine).start()

    @property
    def can_step(self) -> bool:
        """Can it trace tokens fed one at a time, or was it recorded so?"""
        if self._recorded is not None:
            return self._recorded.num_steps > 0
        spec = find_engine(self.name.engine)
        return spec is not None and spec.steps

    def trace(
        self,
        token_ids: Sequence[int],
        *,
        capture: Capture,
        prompt: str | None,
        num_steps: int = 0,
    ) -> ForwardTrace:
        """Run the tokens, or hand out the trace, whatever tokens it is of.

        Args:
            token_ids: the tokens.
            capture: what is recorded.
            prompt: the text that they came from, where there was one.
            num_steps: of the tokens, those at the end that are fed one at a time, by a side
                that can; another runs one pass, whose rows are the same.
        """
        if self._recorded is not None:
            return self._recorded
        if num_steps and self.can_step:
            stepping = cast("SteppingEngine", self._engine)
            return stepping.trace_steps(
                token_ids, num_steps=num_steps, capture=capture, prompt=prompt
            )
        return self._engine.trace(token_ids, capture=capture, prompt=prompt)


def require_stepping(sides: Sequence[Side]) -> None:
    """Refuse tokens fed one at a time where nobody can feed them so.

    Raises:
        UsageError: neither side can.
    """
    if not any(side.can_step for side in sides):
        raise UsageError(
            "no side keeps a KV cache that can be traced",
            where="--decode",
            expected=f"on one side an engine of {', '.join(stepping_engines())}",
            found=" and ".join(side.name.engine for side in sides),
            hint="name one of them as the candidate; the oracle may stay the reference",
        )


def open_side(text: str, *, fault: str | None = None, beside: Side | None = None) -> Side:
    """Open what `[ENGINE[+numerics][@device]:]PATH` names; see `Side`."""
    return Side(parse_engine_name(text), fault=fault, beside=beside)
