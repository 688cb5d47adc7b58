"""What a child process does: runs one engine on one model, request by request.

| `do` | with | the answer |
| --- | --- | --- |
| `open` | `target` `path` `numerics` `options` | `build`, `device` |
| `trace` | `token_ids` `num_steps` `prompt` `scopes` `slots` `layers` `out` | a trace file |
| `start` | | `session` |
| `append` | `session` `token_ids` `out` | `num_tokens` `dtype`; raw logits at `out` |
| `append_all` | the same | the same, logits after each of the tokens |
| `open_tokenizer` | `target` `path` | `build` `bos_id` `eos_id` `takes_bytes` `renders` |
| `tokenize` | `data` `add_special` `parse_special` | `ids` `spellings` `special_ids`, in hex |
| `render` | `messages` | `text`, or null |

Each request may `forget` sessions. An answer may instead hold an `error`, the parts of one of
our errors, or a `failure`, what any other exception said.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cotejar.errors import CotejarError, WriteError
from cotejar.model.language_model import open_language_model
from cotejar.trace.forward_trace import Capture, Scope
from cotejar.trace.trace_file import encode_trace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cotejar.engines.protocol import GeneratingEngine, Session, SteppingEngine
    from cotejar.model.language_model import LanguageModel

_KEPT_TRACEBACK_CHARACTERS = 2000


class Worker:
    """The engine, once it is open, and its sessions."""

    def __init__(self) -> None:
        self._engine: GeneratingEngine | None = None
        self._model: LanguageModel | None = None
        self._sessions: dict[int, Session] = {}
        self._num_sessions = 0
        self._tokenizer: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked; whatever goes wrong becomes part of the answer."""
        try:
            for session in request["forget"]:
                self._sessions.pop(session, None)
            answer: dict[str, Any] = getattr(self, f"_{request['do']}")(request)
        except CotejarError as error:
            return {"error": error.as_json()}
        except BaseException as error:  # noqa: BLE001 - it is the parent's to report
            trail = "".join(traceback.format_exception(error))
            sys.stderr.write(trail[-_KEPT_TRACEBACK_CHARACTERS:])
            return {"failure": f"{type(error).__name__}: {error}"[:_KEPT_TRACEBACK_CHARACTERS]}
        return answer

    def use_the_wait(self) -> None:
        """Read the weights for the fingerprint, which the first trace needs."""
        if self._model is not None:
            with contextlib.suppress(Exception):  # the trace will meet it again, and say it
                _ = self._model.fingerprint

    def _open(self, request: dict[str, Any]) -> dict[str, Any]:
        module, _, attribute = request["target"].partition(":")
        factory = getattr(importlib.import_module(module), attribute)
        model = open_language_model(request["path"])
        engine = factory(model, numerics=request["numerics"], **request["options"])
        self._engine, self._model = engine, model
        return {"build": engine.info.build, "device": engine.info.device}

    def _trace(self, request: dict[str, Any]) -> dict[str, Any]:
        layers = request["layers"]
        capture = Capture(
            scopes=tuple(map(Scope, request["scopes"])),
            array_slots=frozenset(request["slots"]),
            layers=None if layers is None else frozenset(layers),
        )
        engine, ids, steps = self._opened(), request["token_ids"], request.get("num_steps", 0)
        if steps:
            stepping = cast("SteppingEngine", engine)
            trace = stepping.trace_steps(
                ids, num_steps=steps, capture=capture, prompt=request["prompt"]
            )
        else:
            trace = engine.trace(ids, capture=capture, prompt=request["prompt"])
        _write(request["out"], encode_trace(trace))
        return {}

    def _start(self, _: dict[str, Any]) -> dict[str, Any]:
        self._sessions[self._num_sessions] = self._opened().start()
        self._num_sessions += 1
        return {"session": self._num_sessions - 1}

    def _append(self, request: dict[str, Any]) -> dict[str, Any]:
        session = self._sessions[request["session"]]
        return _write_logits(request["out"], session, session.append(request["token_ids"]))

    def _append_all(self, request: dict[str, Any]) -> dict[str, Any]:
        session = self._sessions[request["session"]]
        return _write_logits(request["out"], session, session.append_all(request["token_ids"]))

    def _open_tokenizer(self, request: dict[str, Any]) -> dict[str, Any]:
        module, _, attribute = request["target"].partition(":")
        tokenizer = getattr(importlib.import_module(module), attribute)(request["path"])
        self._tokenizer = tokenizer
        return {
            **tokenizer.facts(),
            "takes_bytes": tokenizer.takes_bytes,
            "renders": tokenizer.renders,
        }

    def _tokenize(self, request: dict[str, Any]) -> dict[str, Any]:
        tokenizer, data = self._tokenizer, bytes.fromhex(request["data"])
        ids = tokenizer.encode(
            data if tokenizer.takes_bytes else data.decode(),
            add_special=request["add_special"],
            parse_special=request["parse_special"],
        )
        return {
            "ids": ids,
            "spellings": [tokenizer.spell(i).hex() for i in ids],
            "special_ids": [i for i in set(ids) if tokenizer.is_special(i)],
        }

    def _render(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"text": self._tokenizer.render(request["messages"])}

    def _opened(self) -> GeneratingEngine:
        assert self._engine is not None, "the parent opens first"
        return self._engine


def _write_logits(path: str, session: Session, logits: np.ndarray) -> dict[str, Any]:
    """In float64 if they are, else in float32; little-endian, row by row."""
    dtype = "float64" if logits.dtype == np.float64 else "float32"
    wire = np.ascontiguousarray(logits, np.dtype(dtype).newbyteorder("<"))
    _write(path, [wire.data])
    return {"num_tokens": session.num_tokens, "dtype": dtype}


def _write(path: str, parts: Iterable[bytes | memoryview]) -> None:
    num_bytes = 0
    try:
        with Path(path).open("wb") as file:
            for part in parts:
                num_bytes += memoryview(part).nbytes
                file.write(part)
    except OSError as error:  # no fault of the engine's
        raise WriteError(
            "an engine's data could not be written whole",
            where=path,
            expected=f"room for {num_bytes} bytes and more",
            found=f"{error.strerror}",
            hint="free some space, or let TMPDIR name a folder on another disk",
        ) from None


def answer_requests() -> None:
    """Answer on stdout what is asked on stdin, until that ends."""
    answers = os.fdopen(os.dup(1), "wb", 0)
    os.dup2(2, 1)  # what a library prints is no answer
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    # A thread of its own: the end of stdin, which is the end of the parent, is then seen
    # while an engine computes or hangs.
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    worker = Worker()
    while True:
        answer = worker.answer(json.loads(requests.get()))
        answers.write(json.dumps(answer).encode() + b"\n")
        if requests.empty():
            worker.use_the_wait()


def _read_requests(requests: queue.SimpleQueue[bytes]) -> None:
    with open(0, "rb", closefd=False) as stdin:
        for line in stdin:
            requests.put(line)
    os._exit(0)  # the parent is gone, or wants no more
