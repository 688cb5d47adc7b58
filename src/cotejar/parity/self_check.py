"""Does one engine agree with itself? Nothing to compare with is needed.

However a text is cut, batched, kept and taken up again, the logits of a position are the
same. Each row of the check takes another way to what one pass over the whole text gave.

Shape letters: T tokens, V vocabulary, N compared positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from cotejar.engines.generating import open_generating
from cotejar.engines.native.engine import NativeEngine
from cotejar.errors import ContextLengthError, UsageError
from cotejar.kernels.instruction_set import num_threads, use_threads
from cotejar.parity.metrics import measure_distance
from cotejar.parity.self_noise import self_limit
from cotejar.trace.forward_trace import Capture, Scope
from cotejar.verdict import Verdict, worst

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jaxtyping import Float

    from cotejar.engines.protocol import GeneratingEngine
    from cotejar.model.language_model import LanguageModel

    Found = list[tuple[int, Float[np.ndarray, "V"]]]
    """Positions, each with the logits that another way gave there."""

MIN_TOKENS = 8
SMALL_WINDOW = 5
CHUNKS = (1, 7, 32)

TEXT = """\
Water boils at 100 degrees at sea level, and earlier on a mountain: at 3,000 m it is 90.
def mean(values):
    # of nothing there is no mean
    return sum(values) / len(values) if values else None
El agua hierve antes en la sierra. \u6c34\u306f\u5c71\u3067\u306f\u65e9\u304f\u6cb8\u304f\u3002
"""
"""What is run where no text is given: prose, digits, code, three languages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One way to the same logits."""

    id: str
    title: str
    verdict: Verdict
    bit_identical: bool
    first_difference: int | None
    """The first position with another bit, from 0; None where there is none."""
    rel_l2_max: float
    """Of the worst position: L2 norm of the difference over that of one pass's logits."""
    num_positions: int
    """Compared; 0 where the row broke before, which `error` then says."""
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfCheck:
    """Every row of one engine on one model."""

    engine: str
    numerics: str
    model: str
    num_tokens: int
    limit: float | None
    """On a row's `rel_l2_max`; None where nobody has measured what to expect."""
    limit_origin: str
    rows: tuple[Row, ...]
    left_out: tuple[tuple[str, str], ...]
    """Rows that this engine or model has no use for, with the reason."""

    @property
    def verdict(self) -> Verdict:
        """The worst row's; of none, INCOMPARABLE."""
        return worst([row.verdict for row in self.rows])


def check_engine(
    source: str,
    *,
    prompt: str | None = None,
    token_ids: Sequence[int] = (),
    limit: float | None = None,
    on_row: Callable[[str], None] = lambda _: None,
) -> SelfCheck:
    """Run every row that the engine can run.

    Args:
        source: `[ENGINE[+numerics][@device]:]PATH`.
        prompt: the text that is cut up; `TEXT` if neither it nor ids are given.
        token_ids: instead of a text.
        limit: on the relative L2 of a position, instead of the measured one.
        on_row: hears each row's title before it runs.

    Raises:
        UnknownEngineError: an engine that cannot continue a text.
        UsageError: fewer than `MIN_TOKENS` tokens.
        CotejarError: as opening and running find.
    """
    name, model, engine = open_generating(source)
    ids = list(token_ids) or model.tokenizer.encode(TEXT if prompt is None else prompt)
    if len(ids) < MIN_TOKENS:
        raise UsageError(
            "the text is too short to be cut up",
            where="--tokens" if token_ids else "--prompt",
            expected=f"at least {MIN_TOKENS} tokens",
            found=f"{len(ids)} tokens",
            hint="leave it out for a text of every kind",
        )
    judged_limit, origin = self_limit(name.engine, name.numerics)
    if limit is not None:
        judged_limit, origin = limit, "given"
    check = _Check(engine, model, ids, judged_limit)
    rows = []
    for row_id, title, way in check.ways():
        on_row(title)
        rows.append(check.judge(row_id, title, way))
    return SelfCheck(
        engine=name.engine,
        numerics=name.numerics,
        model=model.name,
        num_tokens=len(ids),
        limit=judged_limit,
        limit_origin=origin,
        rows=tuple(rows),
        left_out=tuple(check.left_out()),
    )


@dataclass(frozen=True, eq=False)
class _Check:
    engine: GeneratingEngine
    model: LanguageModel
    token_ids: list[int]
    limit: float | None

    def ways(self) -> Iterator[tuple[str, str, Callable[[], tuple[Found, Found]]]]:
        """Id, title, and what gives the expected and the found logits."""
        yield "cached", "token by token over the KV cache", partial(self._chunked, 1)
        yield "uncached", "prefixes, each as a text of its own", self._prefixes
        for size in CHUNKS:
            if size < len(self.token_ids):
                title = f"prefill in chunks of {size}"
                yield f"chunks-{size}", title, partial(self._chunked, size, every=True)
        yield "interleaved", "two contexts, turn by turn", self._interleaved
        if not isinstance(self.engine, NativeEngine):
            return
        native = self.engine
        yield (
            "batch-first",
            "before longer and shorter neighbours",
            (lambda: self._batch(native, place=0)),
        )
        yield (
            "batch-last",
            "after longer and shorter neighbours",
            (lambda: self._batch(native, place=-1)),
        )
        yield "threads", "1 thread and several", self._threads
        yield "save-restore", "a saved state, taken up again", lambda: self._restored(native)
        yield "prefix-reuse", "a prefix of another text, kept", lambda: self._reused(native)
        yield "context-edge", "the last place of a context, and no further", self._edge
        if self.model.config.sliding_window is not None:
            yield "window-edge", f"a window of {SMALL_WINDOW} that moves on", self._window

    def left_out(self) -> Iterator[tuple[str, str]]:
        """What `ways` leaves out."""
        if not isinstance(self.engine, NativeEngine):
            reason = f"{self.engine.info.name} offers it not through this interface"
            for row in ("batch", "threads", "save-restore", "prefix-reuse", "edges"):
                yield row, reason
        elif self.model.config.sliding_window is None:
            yield "window-edge", "the model has no sliding window"

    def judge(self, row_id: str, title: str, way: Callable[[], tuple[Found, Found]]) -> Row:
        """Run one way and compare."""
        expected, found = way()
        if not found or [p for p, _ in expected] != [p for p, _ in found]:
            return Row(
                id=row_id,
                title=title,
                verdict=Verdict.FAIL,
                bit_identical=False,
                first_difference=None,
                rel_l2_max=float("nan"),
                num_positions=0,
                error="it gave logits at other positions than were asked for",
            )
        distance = measure_distance(*(np.stack([v for _, v in r]) for r in (expected, found)))
        first = next(
            (p for (p, a), (_, b) in zip(expected, found, strict=True) if (a != b).any()), None
        )
        worst_l2 = distance.rel_l2_max
        if self.limit is None and not distance.bit_identical:
            verdict = Verdict.INCOMPARABLE
        else:
            passed = worst_l2 <= (self.limit or 0)
            verdict = Verdict.PASS if passed else Verdict.FAIL
        return Row(
            id=row_id,
            title=title,
            verdict=verdict,
            bit_identical=distance.bit_identical,
            first_difference=first,
            rel_l2_max=worst_l2,
            num_positions=len(found),
        )

    # --- the ways -----------------------------------------------------------------------

    def _whole(self, positions: Sequence[int]) -> Found:
        """Of one pass over the whole text."""
        return [(position, self._one_pass[position]) for position in positions]

    @cached_property
    def _one_pass(self) -> Float[np.ndarray, "T V"]:
        return self._run(self.engine)

    def _run(self, engine: GeneratingEngine) -> Float[np.ndarray, "T V"]:
        capture = Capture(scopes=(Scope.ALL,), array_slots=frozenset({"logits"}))
        return engine.trace(self.token_ids, capture=capture).arrays["logits"]

    def _chunked(self, size: int, *, every: bool = False) -> tuple[Found, Found]:
        session, found = self.engine.start(), []
        append_all = getattr(session, "append_all", None) if every else None
        for start in range(0, len(self.token_ids), size):
            chunk = self.token_ids[start : start + size]
            if append_all is not None:
                found += list(enumerate(append_all(chunk), start))
            else:
                found.append((start + len(chunk) - 1, session.append(chunk)))
        return self._whole([position for position, _ in found]), found

    def _prefixes(self) -> tuple[Found, Found]:
        total = len(self.token_ids)
        ends = sorted({1, 2, total // 4, total // 2, total - 1, total})
        found = [(end - 1, self.engine.start().append(self.token_ids[:end])) for end in ends]
        return self._whole([position for position, _ in found]), found

    def _interleaved(self) -> tuple[Found, Found]:
        session, other, found = self.engine.start(), self.engine.start(), []
        for position, (token, opposite) in enumerate(
            zip(self.token_ids, reversed(self.token_ids), strict=True)
        ):
            found.append((position, session.append([token])))
            other.append([opposite])
        return self._whole(range(len(found))), found

    def _batch(self, engine: NativeEngine, place: int) -> tuple[Found, Found]:
        half = len(self.token_ids) // 2
        others = [
            self.token_ids[::-1],
            self.token_ids[:3],
            [*self.token_ids, self.token_ids[0]],
        ]
        prompts = [*others, self.token_ids[:half]]
        if place == 0:
            prompts.reverse()
        sessions = [engine.start() for _ in prompts]
        logits_NV = engine.append_packed(list(zip(sessions, prompts, strict=True)))
        found = [(half - 1, logits_NV[place])]
        for position in range(half, len(self.token_ids)):
            steps = [[self.token_ids[position]] for _ in sessions]
            logits_NV = engine.append_packed(list(zip(sessions, steps, strict=True)))
            found.append((position, logits_NV[place]))
        return self._whole([position for position, _ in found]), found

    def _threads(self) -> tuple[Found, Found]:
        before, rows = num_threads(), []
        try:
            for threads in (1, max(3, before)):
                use_threads(threads)
                rows.append(list(enumerate(self._run(self.engine))))
        finally:
            use_threads(before)
        return rows[0], rows[1]

    def _restored(self, engine: NativeEngine) -> tuple[Found, Found]:
        half, (first, second) = len(self.token_ids) // 2, (engine.start(), engine.start())
        first.append(self.token_ids[:half])
        second.cache.load_state(half, first.cache.state())
        rows_TV = second.append_all(self.token_ids[half:])
        found = list(enumerate(rows_TV, half))
        return self._whole([position for position, _ in found]), found

    def _reused(self, engine: NativeEngine) -> tuple[Found, Found]:
        half, session = len(self.token_ids) // 2, engine.start()
        session.append([*self.token_ids[:half], *self.token_ids[:half]])
        start = session.keep_common_prefix(self.token_ids)
        found = list(enumerate(session.append_all(self.token_ids[start:]), start))
        expected = self._whole([position for position, _ in found])
        return expected, found if start >= half else []

    def _edge(self) -> tuple[Found, Found]:
        """With the context declared as long as the text; the real one may be very long."""
        total = len(self.token_ids)
        declared = self.model.declared
        short = replace(declared, config=replace(declared.config, context_length=total))
        session = self._twin(replace(self.model, declared=short)).start()
        found = [(total - 2, session.append(self.token_ids[:-1]))]
        try:
            session.append(self.token_ids[-2:])
        except ContextLengthError:
            found.append((total - 1, session.append(self.token_ids[-1:])))
        return self._whole([total - 2, total - 1]), found

    def _window(self) -> tuple[Found, Found]:
        config = replace(self.model.config, sliding_window=SMALL_WINDOW)
        engine = self._twin(self.model.altered(config=config))
        session = engine.start()
        found = [(i, session.append([token])) for i, token in enumerate(self.token_ids)]
        return list(enumerate(self._run(engine))), found

    def _twin(self, model: LanguageModel) -> NativeEngine:
        assert isinstance(self.engine, NativeEngine), "rows of other engines need none"
        return self.engine.with_model(model)
