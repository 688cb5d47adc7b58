"""The one thread that runs the engine, and what others may ask of it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING

from cotejar.errors import CotejarError, EngineError
from cotejar.generation.scheduler import DEFAULT_SLOTS, Finish, Job, Scheduler
from cotejar.trace.forward_trace import Capture
from cotejar.trace.trace_file import write_trace

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.engines.native.engine import NativeEngine

log = logging.getLogger(__name__)
MAX_WAITING = 256


class EngineThread:
    """Grows every text that is asked for; all methods may be called from any thread."""

    def __init__(
        self,
        engine: NativeEngine,
        *,
        slots: int = DEFAULT_SLOTS,
        trace_folder: Path | None = None,
        trace_every: int = 1,
    ) -> None:
        """Take an engine; `start` starts.

        Args:
            engine: used by this thread alone from now on.
            slots: texts that grow at once.
            trace_folder: where a trace of every n-th finished text goes.
            trace_every: the n.

        Raises:
            UsageError: fewer than 1 slot.
        """
        self._engine = engine
        self._scheduler = Scheduler(engine, slots=slots)
        self._trace_folder, self._trace_every = trace_folder, trace_every
        self._asked: deque[Job] = deque()
        self._finished: deque[Job] = deque()
        self._num_finished = 0
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to run what is asked for."""
        self._thread.start()

    def stop(self) -> None:
        """Cancel everything and end; returns when the pass that runs is over."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    @property
    def is_full(self) -> bool:
        """Does so much wait that more is to be refused?"""
        return len(self._asked) + self._scheduler.num_waiting >= MAX_WAITING

    @property
    def num_jobs(self) -> int:
        """Waiting and growing."""
        return len(self._asked) + self._scheduler.num_jobs

    def add(self, job: Job) -> None:
        """Take a job; its callbacks are called from the engine's thread."""
        on_finish = job.on_finish

        def finish(done: Job) -> None:
            on_finish(done)
            self._finished.append(done)

        job.on_finish = finish
        with self._wake:
            self._asked.append(job)
            self._wake.notify()

    def cancel(self, job: Job) -> None:
        """Leave a job out of the next pass; one that is done stays done."""
        job.cancelled = True
        with self._wake:
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._asked or self._scheduler.num_jobs or self._stopping):
                    self._wake.wait()
                if self._stopping:
                    break
                while self._asked:
                    self._scheduler.add(self._asked.popleft())
            try:
                self._scheduler.step()
            except Exception as error:  # every waiting client is told; the server lives
                log.exception("a pass failed")
                self._scheduler.abort(_failed(error))
            while self._finished:
                self._trace(self._finished.popleft())
        while self._asked:
            self._scheduler.add(self._asked.popleft())
        self._scheduler.abort(_failed(None))

    def _trace(self, job: Job) -> None:
        if job.finish not in {Finish.STOP, Finish.LENGTH}:
            return
        self._num_finished += 1
        if self._trace_folder is None or self._num_finished % self._trace_every:
            return
        path = self._trace_folder / f"request-{self._num_finished:06d}.trace"
        try:
            trace = self._engine.trace(
                [*job.prompt_ids, *job.token_ids[:-1]], capture=Capture()
            )
            write_trace(path, trace, overwrite=True)
        except CotejarError as error:
            log.warning("no trace: %s", error)


def _failed(error: Exception | None) -> CotejarError:
    if isinstance(error, CotejarError):
        return error
    return EngineError(
        "the engine failed" if error else "the server is going down",
        where="engine native",
        expected="a pass over all texts",
        found=f"{type(error).__name__}: {error}"[:200] if error else "the end of the server",
        hint="ask again; if it fails again, please report it" if error else "ask again later",
    )
