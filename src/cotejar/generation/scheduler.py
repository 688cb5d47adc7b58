"""Continuous batching: many texts grow side by side, and each joins and leaves when it may.

A pass reads every weight once for all texts in it. A new text's prompt is read in chunks
between the others' tokens, so that none of them waits long. In `native+q8` no text's numbers
depend on its neighbours: each gets what it would get alone.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import ContextLengthError, CotejarError, UsageError
from cotejar.generation.finite import require_finite
from cotejar.kernels.operations import first_greatest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Set as AbstractSet

    from jaxtyping import Float32

    from cotejar.engines.native.engine import NativeEngine, NativeSession
    from cotejar.generation.sampler import Sampler

DEFAULT_SLOTS = 8
PROMPT_TOKENS_AT_ONCE = 256
"""Of one prompt, in one pass: what the others wait for."""


class Finish(enum.Enum):
    """Why a text ended."""

    STOP = "stop"
    """The model ended it, or `on_token` did."""
    LENGTH = "length"
    """It is as long as was asked for, or as the context."""
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(kw_only=True, eq=False)
class Job:
    """One text that is asked for."""

    prompt_ids: Sequence[int]
    sampler: Sampler
    max_tokens: int
    end_ids: AbstractSet[int]
    on_token: Callable[[int, Float32[np.ndarray, "V"]], bool]
    """Hears each token that is not an end token, with the logits it was chosen from; True
    ends the text after it."""
    on_finish: Callable[[Job], None] = lambda _: None
    token_ids: list[int] = field(default_factory=list)
    """What was made, without the end token."""
    finish: Finish | None = None
    error: CotejarError | None = None
    num_reused: int = 0
    """Prompt tokens that another text had left in a cache."""
    cancelled: bool = False
    """Set it from anywhere; the next pass leaves the job out."""


@dataclass(eq=False)
class _Running:
    job: Job
    session: NativeSession
    unread: list[int]
    """Tokens that the session has not seen yet."""


class Scheduler:
    """Runs jobs over one engine, pass by pass. Not thread-safe but for `Job.cancelled`."""

    def __init__(self, engine: NativeEngine, *, slots: int = DEFAULT_SLOTS) -> None:
        """Take an engine.

        Args:
            engine: runs all texts.
            slots: texts that grow at once; the rest wait.

        Raises:
            UsageError: fewer than 1 slot.
        """
        if slots < 1:
            raise UsageError(
                "no text can grow so",
                where="--slots",
                expected="at least 1",
                found=str(slots),
                hint=f"{DEFAULT_SLOTS} is the default",
            )
        self._engine, self._slots = engine, slots
        self._waiting: deque[Job] = deque()
        self._running: list[_Running] = []
        self._idle: list[NativeSession] = []

    @property
    def num_jobs(self) -> int:
        """Waiting and running."""
        return len(self._waiting) + len(self._running)

    @property
    def num_waiting(self) -> int:
        """Not yet begun."""
        return len(self._waiting)

    def add(self, job: Job) -> None:
        """Take a job; it begins when a slot is free."""
        self._waiting.append(job)

    def step(self) -> None:
        """One pass over all that grow; does nothing where nothing waits or grows."""
        self._drop_cancelled()
        self._admit()
        if not self._running:
            return
        parts = [
            (running.session, running.unread[:PROMPT_TOKENS_AT_ONCE])
            for running in self._running
        ]
        logits_NV = self._engine.append_packed(parts)
        greatest = first_greatest(logits_NV)
        for running, logits_V, first, (_, read) in zip(
            list(self._running), logits_NV, greatest, parts, strict=True
        ):
            del running.unread[: len(read)]
            if not running.unread:
                self._choose(running, logits_V, first)

    def run_all(self) -> None:
        """Pass after pass until nothing is left."""
        while self.num_jobs:
            self.step()

    def abort(self, error: CotejarError) -> None:
        """End every job with an error; what its cache holds is not used again."""
        jobs = [*(running.job for running in self._running), *self._waiting]
        self._running, self._idle = [], []
        self._waiting.clear()
        for job in jobs:
            job.error, job.finish = error, Finish.ERROR
            job.on_finish(job)

    def _choose(
        self, running: _Running, logits_V: Float32[np.ndarray, "V"], greatest: int | None
    ) -> None:
        """Take the next token; `greatest` is where the greatest logit is, if all are finite."""
        job = running.job
        try:
            if greatest is None:
                require_finite(logits_V, f"logits after token {running.session.num_tokens - 1}")
            if greatest is not None and job.sampler.takes_greatest:
                token = greatest
            else:
                token = job.sampler.choose(logits_V, running.session.token_ids)
        except CotejarError as error:
            job.error = error
            self._finish(running, Finish.ERROR)
            return
        if token in job.end_ids:
            self._finish(running, Finish.STOP)
            return
        job.token_ids.append(token)
        if job.on_token(token, logits_V):
            self._finish(running, Finish.STOP)
        elif len(job.token_ids) >= job.max_tokens or self._is_full(running):
            self._finish(running, Finish.LENGTH)
        else:
            running.unread.append(token)

    def _is_full(self, running: _Running) -> bool:
        context = self._engine.model.declared.config.context_length
        return running.session.num_tokens >= context

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._slots:
            job = self._waiting.popleft()
            try:
                self._require_room(job)
                session = self._session_for(job)
            except CotejarError as error:
                job.error, job.finish = error, Finish.ERROR
                job.on_finish(job)
                continue
            unread = list(job.prompt_ids[session.num_tokens :])
            self._running.append(_Running(job, session, unread))

    def _require_room(self, job: Job) -> None:
        """Every reason why a pass could refuse the prompt, so that none stops the others."""
        self._engine.check(job.prompt_ids)
        if job.max_tokens < 1:
            raise ContextLengthError(
                "there is nothing to generate",
                where="max_tokens",
                expected="at least 1",
                found=str(job.max_tokens),
                hint="ask for one token or more",
            )

    def _session_for(self, job: Job) -> NativeSession:
        """The idle session that has most of the prompt, gone back to what the two share."""
        shared = [_num_shared(s.token_ids, job.prompt_ids) for s in self._idle]
        if shared and max(shared) > 0:
            session = self._idle.pop(int(np.argmax(shared)))
        elif len(self._idle) + len(self._running) < self._slots:
            return self._engine.start()
        else:
            session = self._idle.pop(0)
        job.num_reused = session.keep_common_prefix(job.prompt_ids)
        return session

    def _finish(self, running: _Running, why: Finish) -> None:
        running.job.finish = why
        self._running.remove(running)
        self._idle.append(running.session)
        running.job.on_finish(running.job)

    def _drop_cancelled(self) -> None:
        for running in [r for r in self._running if r.job.cancelled]:
            self._finish(running, Finish.CANCELLED)
        for job in [j for j in self._waiting if j.cancelled]:
            self._waiting.remove(job)
            job.finish = Finish.CANCELLED
            job.on_finish(job)


def _num_shared(ours: Sequence[int], theirs: Sequence[int]) -> int:
    count = 0
    for a, b in zip(ours, theirs, strict=False):
        if a != b:
            break
        count += 1
    return count
