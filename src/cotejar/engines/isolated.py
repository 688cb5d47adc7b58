"""An engine in a process of its own, as if it were here.

The child opens the same file, runs, and writes a trace file into a private folder; nothing it
sends is believed before it is held against what was asked for. What fails there fails here,
as an error with the engine's own words, and nothing else falls.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from cotejar.engines.child_process import ChildProcess
from cotejar.engines.protocol import check_token_ids
from cotejar.engines.trace_check import check_trace
from cotejar.errors import (
    CotejarError,
    EngineDataError,
    EngineError,
    EngineProtocolError,
    FileError,
    TraceError,
    UsageError,
)
from cotejar.trace.forward_trace import EngineInfo
from cotejar.trace.trace_file import read_trace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cotejar.engines.spec import EngineSpec
    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import Capture, ForwardTrace

# How long work may take before it counts as hanging: a machine hundreds of times slower than
# ours is still waited for. A floor for starting up, then per byte read and per weight used.
FLOOR_S = 60.0
OPEN_BYTES_PER_S = 20e6
WEIGHTS_PER_S = 50e6


class IsolatedEngine:
    """One model in one engine, in a child process that lives as long as this."""

    def __init__(
        self,
        spec: EngineSpec,
        model: LanguageModel,
        *,
        numerics: str,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Start the child, and let it open the model while this process goes on.

        What the engine refuses, or fails at, is raised when it is first asked for something.

        Raises:
            UsageError: the model was altered by a fault, which the child cannot see.
        """
        _require_as_stored(spec, model)
        self.model, self._spec = model, spec
        self._matrices = list(model.declared.weights.values())
        self._child = ChildProcess(spec.name)
        self._file_numbers = itertools.count()
        self.ended_sessions: list[int] = []
        """Contexts that nobody needs any more: the next request says so. A request of their
        own could fall, when Python collects them, into the middle of another."""
        self._numerics = numerics
        self._info: EngineInfo | None = None
        self._child.send(
            {
                "do": "open",
                "target": spec.target,
                "path": str(model.file.path.absolute()),
                "numerics": numerics,
                "options": dict(options or {}),
                "forget": [],
            }
        )

    @property
    def info(self) -> EngineInfo:
        """Which program, which arithmetic; waits until the model is open.

        Raises:
            EngineError: the engine fails at it.
            CotejarError: what the engine itself refuses.
        """
        if self._info is None:
            size = sum(matrix.raw.nbytes for matrix in self._matrices)
            answer = self._receive(FLOOR_S + size / OPEN_BYTES_PER_S, "opening the model")
            self._info = EngineInfo(
                name=self._spec.name,
                build=self._text(answer, "build"),
                numerics=self._numerics,
                device=self._text(answer, "device"),
            )
        return self._info

    def trace(
        self, token_ids: Sequence[int], *, capture: Capture, prompt: str | None = None
    ) -> ForwardTrace:
        """Run the tokens from position 0; arrays are read from the trace file when asked for.

        Raises:
            EngineError: it failed, or what it sent is not what was asked for.
        """
        return self.trace_steps(token_ids, num_steps=0, capture=capture, prompt=prompt)

    def trace_steps(
        self,
        token_ids: Sequence[int],
        *,
        num_steps: int,
        capture: Capture,
        prompt: str | None = None,
    ) -> ForwardTrace:
        """The same, the last `num_steps` tokens one at a time over the engine's KV cache."""
        self.check_ids(token_ids, num_before=0)
        path = self.new_path("trace")
        self.ask(
            {
                "do": "trace",
                "token_ids": list(map(int, token_ids)),
                "prompt": prompt,
                "num_steps": num_steps,
                "scopes": [scope.value for scope in capture.scopes],
                "slots": sorted(capture.array_slots),
                "layers": None if capture.layers is None else sorted(capture.layers),
                "out": str(path),
            },
            self.limit_s(len(token_ids)),
            f"tracing {len(token_ids)} tokens",
        )
        try:
            trace = read_trace(path)
        except CotejarError as error:
            if not isinstance(error, (TraceError, FileError)):
                raise
            raise EngineDataError(
                "the engine's trace cannot be read",
                where=f"engine {self._spec.name}",
                expected=error.parts["expected"],
                found=f"{error.problem}: {error.parts['found']}",
                hint="nothing was measured; the fault is the engine's",
            ) from None
        finally:
            # It is mapped by now: the arrays live on without the name.
            path.unlink(missing_ok=True)
        check_trace(
            trace,
            spec=self._spec,
            info=self.info,
            config=self.model.declared.config,
            token_ids=token_ids,
            num_steps=num_steps,
            capture=capture,
        )
        return trace

    def close(self) -> None:
        """End the child; nothing can be asked of it then."""
        self._child.close()

    def new_path(self, suffix: str) -> Path:
        """Where the child is to put the next of its data."""
        return self._child.folder / f"{next(self._file_numbers)}.{suffix}"

    def ask(self, request: dict[str, Any], timeout_s: float, what: str) -> dict[str, Any]:
        """Ask the child; raise what it raised there.

        Raises:
            EngineError: it failed, or has failed before.
            CotejarError: what the engine refuses.
        """
        if self._info is None:
            _ = self.info  # the answer to `open` comes first
        self._require_alive(what)
        forgets, self.ended_sessions = self.ended_sessions, []
        self._child.send(request | {"forget": forgets})
        return self._receive(timeout_s, what)

    def _require_alive(self, what: str) -> None:
        if not self._child.close.alive:
            raise EngineError(
                f"the engine's process has ended before: {self._spec.name}, {what}",
                where=f"engine {self._spec.name}",
                expected="a process that lives",
                found="one that failed, or was closed",
                hint="make the engine again",
            )

    def _receive(self, timeout_s: float, what: str) -> dict[str, Any]:
        self._require_alive(what)
        answer = self._child.receive(timeout_s=timeout_s, what=what)
        if "error" in answer:
            raise rebuilt_error(answer["error"], self._spec.name)
        if "failure" in answer:
            raise EngineError(
                f"the engine failed: {self._spec.name}, {what}",
                where=f"engine {self._spec.name}",
                expected="a run without an exception",
                found=str(answer["failure"])[:1000],
                hint="nothing was measured; the fault is the engine's, or its installation's",
            )
        return answer

    def check_ids(self, token_ids: Sequence[int], *, num_before: int) -> None:
        """Refuse ids that the model cannot run, before they are sent."""
        config = self.model.declared.config
        check_token_ids(
            token_ids,
            vocab_size=config.vocab_size,
            context_length=config.context_length,
            num_before=num_before,
        )

    def limit_s(self, num_tokens: int) -> float:
        """How long a pass over so many tokens may take."""
        num_weights = sum(matrix.rows * matrix.columns for matrix in self._matrices)
        return FLOOR_S + num_tokens * num_weights / WEIGHTS_PER_S

    def _text(self, answer: dict[str, Any], key: str) -> str:
        value = answer.get(key)
        if not isinstance(value, str):
            raise self._no_answer(f"{key!r}: a text", repr(value))
        return value

    def whole_number(self, answer: dict[str, Any], key: str) -> int:
        """A number of the child's answer."""
        value = answer.get(key)
        if type(value) is not int:
            raise self._no_answer(f"{key!r}: a whole number", repr(value))
        return value

    def _no_answer(self, expected: str, found: str) -> EngineProtocolError:
        return EngineProtocolError(
            "the engine's process left something out of its answer",
            where=f"engine {self._spec.name}",
            expected=expected,
            found=found[:200],
            hint="nothing was measured; the fault is the engine's",
        )

    def require(self, holds: bool, expected: str, found: str) -> None:  # noqa: FBT001 - a check
        """Refuse data that are not what was asked for."""
        if holds:
            return
        raise EngineDataError(
            "the engine sent other data than it was asked for",
            where=f"engine {self._spec.name}",
            expected=expected,
            found=found,
            hint="nothing was measured; the fault is the engine's",
        )


def _require_as_stored(spec: EngineSpec, model: LanguageModel) -> None:
    declared = model.declared
    if model.config == declared.config and model.weights is declared.weights:
        return
    raise UsageError(
        f"a fault cannot be injected into {spec.name}",
        where=f"engine {spec.name}",
        expected="an engine that runs in this process: native, oracle",
        found=f"{spec.name}, which opens the file again and would not see the fault",
        hint="inject it into the other side, or put it into a file of its own",
    )


def rebuilt_error(parts: Any, engine: str) -> CotejarError:
    """The error that the child raised, if it is one of ours; every part is checked."""
    found = parts if isinstance(parts, dict) else {}
    texts = {
        ours: found.get(theirs)
        for ours, theirs in (
            ("problem", "problem"),
            ("where", "where"),
            ("expected", "expected"),
            ("found", "found"),
            ("hint", "try"),
        )
    }
    kind = _errors_by_code(CotejarError).get(str(found.get("code")))
    if kind is None or not all(isinstance(text, str) for text in texts.values()):
        return EngineProtocolError(
            "the engine's process reported an error that is none of ours",
            where=f"engine {engine}",
            expected="code, problem, where, expected, found, try",
            found=repr(parts)[:200],
            hint="nothing was measured; the fault is the engine's",
        )
    problem = texts.pop("problem")
    return kind(problem, **texts)  # type: ignore[arg-type]  # all are texts


def _errors_by_code(kind: type[CotejarError]) -> dict[str, type[CotejarError]]:
    """Every error below a class that has a code of its own."""
    below = [_errors_by_code(sub) for sub in kind.__subclasses__()]
    own = {kind.code: kind} if "code" in vars(kind) else {}
    return {code: error for found in (own, *below) for code, error in found.items()}
