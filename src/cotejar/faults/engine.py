"""An engine with a fault in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from cotejar.engines.native.engine import NativeEngine
from cotejar.engines.registry import create_engine
from cotejar.engines.spec import ENGINES
from cotejar.errors import UsageError
from cotejar.faults.catalogue import inject_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from jaxtyping import Float32

    from cotejar.engines.protocol import Engine, GeneratingEngine, Session, SteppingEngine
    from cotejar.engines.registry import EngineName
    from cotejar.faults.fault import Injection
    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import Capture, EngineInfo, ForwardTrace


class FaultyEngine:
    """Runs other ids than it is given where that is the fault, and says so in its trace."""

    def __init__(self, engine: Engine, injection: Injection) -> None:
        self._engine = engine
        self._injection = injection

    @property
    def info(self) -> EngineInfo:
        """Of the engine, which takes itself for sound."""
        return self._engine.info

    def trace(
        self, token_ids: Sequence[int], *, capture: Capture, prompt: str | None = None
    ) -> ForwardTrace:
        """Run the tokens, wrongly."""
        if self._injection.change_ids is not None:
            token_ids = self._injection.change_ids(list(token_ids))
        return self._engine.trace(token_ids, capture=capture, prompt=prompt)

    def trace_steps(
        self,
        token_ids: Sequence[int],
        *,
        num_steps: int,
        capture: Capture,
        prompt: str | None = None,
    ) -> ForwardTrace:
        """Run the last tokens one at a time, wrongly."""
        if self._injection.change_ids is not None:
            token_ids = self._injection.change_ids(list(token_ids))
        steps = min(num_steps, len(token_ids) - 1)
        stepping = cast("SteppingEngine", self._engine)
        return stepping.trace_steps(token_ids, num_steps=steps, capture=capture, prompt=prompt)

    def start(self) -> Session:
        """Begin an empty context, if the engine generates."""
        session = cast("GeneratingEngine", self._engine).start()
        change_ids = self._injection.change_ids
        return session if change_ids is None else _FaultySession(session, change_ids)


class _FaultySession:
    """A context whose first tokens, the prompt's, are changed."""

    def __init__(self, session: Session, change_ids: Callable[[list[int]], list[int]]) -> None:
        self._session = session
        self._change_ids = change_ids

    @property
    def num_tokens(self) -> int:
        return self._session.num_tokens

    def append(self, token_ids: Sequence[int]) -> Float32[np.ndarray, "V"]:
        return self._session.append(self._changed(token_ids))

    def append_all(self, token_ids: Sequence[int]) -> Float32[np.ndarray, "T V"]:
        return self._session.append_all(self._changed(token_ids))

    def _changed(self, token_ids: Sequence[int]) -> Sequence[int]:
        return token_ids if self.num_tokens else self._change_ids(list(token_ids))


def faulty_engine(name: EngineName, model: LanguageModel, text: str) -> FaultyEngine:
    """The engine of that name, with the fault `ID[@LAYER][*STRENGTH]` in it.

    Raises:
        UsageError: no such fault, the model has nothing that it could break, or the engine
            is not one that it can be put into.
    """
    injection = inject_fault(model, text)
    if injection.forward is not None:
        if name.engine != "native":
            raise _wrong_engine(name, text, "native, whose operations can be exchanged")
        engine: Engine = NativeEngine(model, numerics=name.numerics, forward=injection.forward)
        return FaultyEngine(engine, injection)
    if injection.change_ids is None and ENGINES[name.engine].isolated:
        # Such an engine opens the file again, and would not see the fault.
        raise _wrong_engine(name, text, "one that runs in this process: native, oracle")
    return FaultyEngine(create_engine(name, injection.model), injection)


def _wrong_engine(name: EngineName, text: str, expected: str) -> UsageError:
    return UsageError(
        f"a fault cannot be injected into {name.engine}",
        where=f"--fault {text}",
        expected=expected,
        found=f"{name.engine}:{name.path}",
        hint="name the side native:PATH, or write a faulty GGUF: `apr faults --help`",
    )
