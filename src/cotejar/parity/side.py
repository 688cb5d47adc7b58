"""One side of a comparison: an engine and a model to run, or a trace made before.

This module and `run` are the only ones here that know engines; what judges sees traces.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cotejar.engines.registry import EngineName, create_engine, parse_engine_name
from cotejar.errors import UsageError
from cotejar.faults.catalogue import inject_fault
from cotejar.model.language_model import LanguageModel, open_language_model
from cotejar.trace.trace_file import read_trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.trace.forward_trace import Capture, ForwardTrace


class Side:
    """Something that can be asked for a trace of a prompt."""

    def __init__(self, name: EngineName, *, fault: str | None = None) -> None:
        """Open the model, or the trace.

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
            self._recorded = read_trace(Path(name.path))
            return
        self.model = open_language_model(name.path)
        runs = inject_fault(self.model, fault) if fault else self.model
        self._engine = create_engine(name, runs)

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

    def trace(
        self, token_ids: Sequence[int], *, capture: Capture, prompt: str | None
    ) -> ForwardTrace:
        """Run the tokens, or hand out the trace, whatever tokens it is of."""
        if self._recorded is not None:
            return self._recorded
        return self._engine.trace(token_ids, capture=capture, prompt=prompt)


def open_side(text: str, *, fault: str | None = None) -> Side:
    """Open what `[ENGINE[+numerics][@device]:]PATH` names."""
    return Side(parse_engine_name(text), fault=fault)
