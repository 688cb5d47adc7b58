"""An engine of nobody's, sound until it is told to fail: what runs in the child in tests.

Its kind of failure is the option `fails`; it is imported in the child by its path's folder
on PYTHONPATH. Sound, it is the oracle under another name.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cotejar.engines.oracle import OracleEngine
from cotejar.errors import ConfigValueError
from cotejar.trace.forward_trace import (
    EVERY_ARRAY,
    Capture,
    EngineInfo,
    Scope,
    TraceRecorder,
)

NAN = float("nan")
HANGS = Path(os.environ["TMPDIR"], "hangs")
"""In the child's folder, where a test can see that the moment has come."""


class FakeEngine:
    """Fails in one way, at one moment."""

    def __init__(
        self, model: Any, *, numerics: str, fails: str = "", seconds: float = 60
    ) -> None:
        self._oracle = OracleEngine(model)
        self._fails, self._seconds = fails, seconds
        self.info = EngineInfo(name="fake", build="fake 1", numerics=numerics)
        if fails == "open":
            self._crash()
        if fails == "refuse":
            raise ConfigValueError(
                "no model of this kind",
                where="fake",
                expected="another",
                found="this one",
                hint="none",
            )

    def trace(self, token_ids: Any, *, capture: Any, prompt: Any = None) -> Any:
        self._fail_now()
        trace = self._oracle.trace(token_ids, capture=capture, prompt=prompt)
        return self._spoiled(replace(trace, engine=self.info))

    def _spoiled(self, trace: Any) -> Any:
        match self._fails:
            case "short":
                ids, positions = trace.token_ids[:-1], trace.positions[:-1]
                trace = replace(trace, token_ids=ids, positions=positions)
            case "last rows":
                trace = self._last_rows(trace)
            case "site":
                sites = {n: r for n, r in trace.sites.items() if n != "layer.1.ffn_up"}
                arrays = {n: a for n, a in trace.arrays.items() if n in sites}
                trace = replace(trace, sites=sites, arrays=arrays)
            case "arrays":
                arrays = {n: a for n, a in trace.arrays.items() if n != "logits"}
                trace = replace(trace, arrays=arrays)
            case "unobserved":
                trace = replace(trace, not_observed=frozenset({"ffn_up"}))
            case "nan":
                logits_TV = np.where(trace.arrays["logits"] > 0, NAN, trace.arrays["logits"])
                recorder = TraceRecorder(Capture(array_slots=EVERY_ARRAY))
                recorder.record("logits", logits_TV, None)
                sites = dict(trace.sites) | recorder.sites
                trace = replace(
                    trace, sites=sites, arrays=dict(trace.arrays) | dict(recorder.arrays)
                )
            case "engine":
                trace = replace(trace, engine=replace(self.info, build="another"))
        return trace

    def start(self) -> Any:
        return FakeSession(self)

    def _last_rows(self, trace: Any) -> Any:
        """The famous one: statistics of one token, given out as all of them."""
        sites = {
            n: replace(r, shape=(1, r.shape[1]), stats={Scope.LAST: r.stats[Scope.LAST]})
            for n, r in trace.sites.items()
        }
        return replace(trace, sites=sites, arrays={n: a[-1:] for n, a in trace.arrays.items()})

    def _fail_now(self) -> None:
        match self._fails:
            case "crash":
                self._crash()
            case "exit":
                print("cannot go on", file=sys.stderr, flush=True)  # noqa: T201
                os._exit(7)
            case "orphan":
                left = subprocess.Popen(["sleep", "60"])
                print(left.pid, file=sys.stderr, flush=True)  # noqa: T201
                os._exit(7)
            case "hang":
                HANGS.touch()
                time.sleep(self._seconds)
            case "hold":  # in a library that lets no other thread of Python's run
                HANGS.touch()
                ctypes.PyDLL(None).sleep(int(self._seconds))
            case "raise":
                raise RuntimeError("no memory for the cache")
            case "print":
                os.write(1, b"not an answer\n")  # a library that prints
            case "noise":
                os.write(2, b"x" * 1_000_000 + b"\n")

    def _crash(self) -> None:
        print("about to fall", file=sys.stderr, flush=True)  # noqa: T201
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)


class FakeSession:
    """Logits that count the tokens so far."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.num_tokens = 0

    def append(self, token_ids: Any) -> np.ndarray:
        self._engine._fail_now()
        self.num_tokens += len(token_ids)
        size = self._engine._oracle.model.config.vocab_size
        logits_V = np.full(size, self.num_tokens, np.float32)
        if self._engine._fails == "nan":
            logits_V[3] = NAN
        if self._engine._fails == "forgets":
            self.num_tokens = 0
        return logits_V[:-1] if self._engine._fails == "short" else logits_V

    def append_all(self, token_ids: Any) -> np.ndarray:
        rows = [self.append([token]) for token in token_ids]
        if self._engine._fails == "one row":
            rows = rows[-1:]
        if self._engine._fails == "a row more":
            rows.append(rows[-1])
        wide = self._engine._fails == "wide" or (
            self._engine._fails == "wider later" and self.num_tokens > len(token_ids)
        )
        return np.stack(rows).astype(np.float64 if wide else np.float32)


def failing(fails: str) -> Any:
    """For a spec's target, which takes no options from a command line."""
    return functools.partial(FakeEngine, fails=fails)


crash, hang, nan = failing("crash"), failing("hang"), failing("nan")
