"""Rows of a later chunk of the prompt, or of steps, written to wrong slots of the KV cache.

Shape letters: T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from cotejar.diagnosis.hypotheses.cache.cache_reader import ZEROS, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cotejar.diagnosis.hypotheses.cache.cache_reader import CacheReader
    from cotejar.diagnosis.hypotheses.cache.fed_tokens import FedTokens


@dataclass(frozen=True, kw_only=True, slots=True)
class _Written:
    """Tokens whose rows go to wrong slots."""

    words: str
    spans: tuple[range, ...]
    """Of each of these passes; steps are passes of one token."""
    numbers: int = 0


def pass_ways(reader: CacheReader, fed: FedTokens) -> Iterator[Way]:
    """Of a trace whose passes are known: chunks written wrongly, and steps within a window."""
    yield from _read_too_soon(reader, fed)
    for written in _chunks(reader, fed):
        for id_, where, slot in _slots(fed, written):
            yield from _ways(reader, fed, written, id_, where, slot)
    if reader.attended.step.window is not None and fed.is_step.any():
        steps = tuple(range(t, t + 1) for t in range(fed.first_step, len(fed.pass_of)))
        written = _Written(words="steps", spans=steps)
        for id_, where, slot in _slots_of_steps(fed):
            yield from _ways(reader, fed, written, id_, where, slot)


def _read_too_soon(reader: CacheReader, fed: FedTokens) -> Iterator[Way]:
    """What a pass stores is there for the passes behind it, and not yet for itself.

    Of steps alone: see `moved_rows`.
    """

    def found(position: int, stands: Callable[[int], list[int]], end: int) -> list[int]:
        start = int(fed.start_of[position])
        early = start and position < end
        rows = reader.right(position)
        return [f for s in rows for f in (stands(s) if early and s >= start else [s])]

    tokens = len(fed.pass_of)
    whose = {
        "each pass after the first": tokens,
        "each later chunk of the prompt": fed.first_step,
    }
    for words, end in whose.items() if fed.chunks else ():
        for id_, what, stands in (
            ("cache-stale", "their slots hold zeros", _zeros),
            ("cache-stale", "they are not there", _nothing),
        ):
            yield Way(
                id=id_,
                words=f"{words} reads the {{rows}} in the cache before its own are written: "
                f"{what}",
                read=partial(found, stands=stands, end=end),
            )


def _zeros(_: int) -> list[int]:
    return [ZEROS]


def _nothing(_: int) -> list[int]:
    return []


def _chunks(reader: CacheReader, fed: FedTokens) -> Iterator[_Written]:
    """All later chunks; those from the first wrong one on; and that one, or the one before.

    A chunk that reads its own rows as they are shows only in the pass behind it.
    """
    chunks, first = fed.chunks, int(reader.attended.wrong[0])
    if len(chunks) > 1:
        yield _Written(words="each later chunk of the prompt", spans=tuple(chunks))
    began = [i for i, chunk in enumerate(chunks) if chunk[0] <= first]
    for i in began[::-1][:2]:
        words = fed.chunk_words(chunks[i])
        yield _Written(words=words, spans=(chunks[i],), numbers=int(len(chunks) > 1))
        if 0 < i < len(chunks) - 1:
            words = f"each chunk of the prompt from token {chunks[i][0]} on"
            yield _Written(words=words, spans=tuple(chunks[i:]), numbers=1)


def _slots(
    fed: FedTokens, written: _Written
) -> Iterator[tuple[str, str, Callable[[int], int | None]]]:
    """Id, words, and of a token the slot that its rows are written to."""
    start, last = fed.start_of, fed.last_of
    elsewhere = "cache-written-elsewhere"
    before = [int(start[start[t] - 1]) if start[t] else 0 for t in range(len(start))]
    yield elsewhere, "are written from slot 0 on again", lambda t: t - int(start[t])
    yield (
        elsewhere,
        "are written over those of the pass before",
        lambda t: before[t] + t - int(start[t]),
    )
    yield elsewhere, "are written one slot early", lambda t: t - 1
    yield elsewhere, "are written one slot late", lambda t: t + 1
    yield (
        elsewhere,
        "are written to its first slot, one over the other",
        lambda t: int(start[t]),
    )
    yield (
        elsewhere,
        "are written in reverse order, or its {others}",
        lambda t: int(start[t] + last[t]) - t,
    )
    yield (
        elsewhere,
        "are written one slot late, its last token's to its first slot, or its {others} early",
        lambda t: t + 1 if t < last[t] else int(start[t]),
    )
    yield (
        elsewhere,
        "are written one slot early, its first token's to its last slot, or its {others} late",
        lambda t: t - 1 if t > start[t] else int(last[t]),
    )
    yield elsewhere, "are written nowhere", lambda _t: None
    if all(len(span) > 1 for span in written.spans):
        unwritten = "cache-slots-unwritten"
        yield (
            unwritten,
            "are written but for its last token's",
            lambda t: t if t < last[t] else None,
        )
        yield (
            unwritten,
            "are written but for its first token's",
            lambda t: t if t > start[t] else None,
        )
        yield (
            unwritten,
            "are not written but for its last token's",
            lambda t: t if t == last[t] else None,
        )
        yield (
            unwritten,
            "are not written but for its first token's",
            lambda t: t if t == start[t] else None,
        )


def _slots_of_steps(
    fed: FedTokens,
) -> Iterator[tuple[str, str, Callable[[int], int | None]]]:
    """Likewise, of a window's last rows in a cache that keeps all."""
    n = fed.first_step
    id_ = "cache-written-elsewhere"
    yield id_, "are written one slot early", lambda t: t - 1
    yield id_, "are written one slot late", lambda t: t + 1
    yield (
        id_,
        f"are written to slot {n} whatever the step: the counter does not move",
        (lambda _: n),
    )
    yield (
        id_,
        f"are written to slot {n - 1} whatever the step: the counter does not move",
        (lambda _: n - 1),
    )
    yield id_, "are written from slot 0 on again", lambda t: t - n
    yield id_, "are written to slot 0 whatever the step", lambda _: 0
    yield id_, "are written two slots apart", lambda t: n + 2 * (t - n)
    yield id_, "are written nowhere", lambda _: None


def _ways(
    reader: CacheReader,
    fed: FedTokens,
    written: _Written,
    id_: str,
    where: str,
    slot: Callable[[int], int | None],
) -> Iterator[Way]:
    """With what is read in slots that nobody wrote, and with what a pass reads of its own."""
    held = _played(fed, written, slot)
    wrong = {int(fed.pass_of[span[0]]) for span in written.spans}
    fills = [(", whose own slots hold zeros", False), ("", True)]
    whole = [held[p] for p in wrong]
    if all(t in h for span, h in zip(written.spans, whole, strict=False) for t in span):
        fills = [("", False)]
    steps = written.words == "steps"
    for fill, skips in fills:
        for alone, own in (("", False), ("; it reads its own as they are", True)):
            if own and steps:
                alone = "; a step reads its own as they are"  # noqa: PLW2901 - of steps
            yield Way(
                id=id_,
                words=f"the {{rows}} of {written.words} {where}{fill}{alone}",
                read=partial(
                    _read, reader, fed, held, own=wrong if own else set(), skips=skips
                ),
                numbers=written.numbers,
            )


def _played(
    fed: FedTokens, written: _Written, slot: Callable[[int], int | None]
) -> list[dict[int, int]]:
    """After each pass: of every slot that was written, the token whose rows it holds."""
    held: dict[int, int] = {}
    after: list[dict[int, int]] = []
    wrong = {t for span in written.spans for t in span}
    for token in range(len(fed.pass_of)):
        to = slot(token) if token in wrong else token
        if to is not None:
            held[to] = token
        if token == fed.last_of[token]:
            after.append(dict(held))
    return after


def _read(
    reader: CacheReader,
    fed: FedTokens,
    held: Sequence[dict[int, int]],
    position: int,
    *,
    own: set[int],
    skips: bool,
) -> list[int]:
    """What a token finds; those of the passes in `own` find their own pass's as they ought."""
    i = int(fed.pass_of[position])
    rows, start = reader.right(position), int(fed.start_of[position])
    if i not in own:
        found = [held[i].get(s, ZEROS) for s in rows]
    else:
        before = held[i - 1] if i else {}
        found = [s if s >= start else before.get(s, ZEROS) for s in rows]
    return [s for s in found if s != ZEROS] if skips else found
