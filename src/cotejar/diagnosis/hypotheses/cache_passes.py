"""A later chunk of the prompt, written to wrong slots of the KV cache."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from cotejar.diagnosis.hypotheses.cache_reader import ZEROS
from cotejar.diagnosis.hypotheses.cache_ways import Way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cotejar.diagnosis.hypotheses.cache_reader import CacheReader

_MOST_CHUNKS = 4
"""Of which each is tried alone; and all of them at once."""


def chunk_ways(reader: CacheReader, passes: Sequence[int]) -> Iterator[Way]:
    """Of a trace whose passes are known, and of which one more than the first is a chunk."""
    ends = [sum(passes[: i + 1]) for i in range(len(passes))]
    spans = [range(end - size, end) for end, size in zip(ends, passes, strict=True)]
    chunks = [i for i, span in enumerate(spans) if i and len(span) > 1]
    sets = [(chunks, "each later chunk of the prompt", 0)] if len(chunks) > 1 else []
    sets += [
        (
            [i],
            f"the chunk of tokens {spans[i][0]} to {spans[i][-1]}",
            int(len(chunks) > 1),
        )
        for i in chunks[:_MOST_CHUNKS]
    ]
    for wrong, whose, numbers in sets:
        for where, slot in _slots(spans):
            held = _played(spans, wrong, slot)
            fills = [(", whose own slots hold zeros", False), ("", True)]
            if all(token in held[i] for i in wrong for token in spans[i]):
                fills = [("", False)]
            for fill, skips in fills:
                for alone, own in (("", False), ("; it reads its own as they are", True)):
                    yield Way(
                        id="cache-written-elsewhere",
                        words=f"the {{rows}} of {whose} are written {where}{fill}{alone}",
                        read=partial(
                            _read, reader, spans, held, wrong=wrong if own else [], skips=skips
                        ),
                        numbers=numbers,
                    )


def _slots(
    spans: Sequence[range],
) -> list[tuple[str, Callable[[int, int], int | None]]]:
    """Of a pass and one of its tokens: the slot that its rows are written to."""
    return [
        ("from slot 0 on again", lambda i, t: t - spans[i][0]),
        ("over those of the pass before", lambda i, t: spans[i - 1][0] + t - spans[i][0]),
        ("one slot early", lambda _, t: t - 1),
        ("one slot late", lambda _, t: t + 1),
        ("to its first slot, one over the other", lambda i, _: spans[i][0]),
        ("in reverse order", lambda i, t: spans[i][0] + spans[i][-1] - t),
        ("nowhere", lambda _i, _t: None),
    ]


def _played(
    spans: Sequence[range], wrong: Sequence[int], slot: Callable[[int, int], int | None]
) -> list[dict[int, int]]:
    """After each pass: of every slot that was written, the token whose rows it holds."""
    held: dict[int, int] = {}
    after = []
    for i, span in enumerate(spans):
        for token in span:
            to = slot(i, token) if i in wrong else token
            if to is not None:
                held[to] = token
        after.append(dict(held))
    return after


def _read(
    reader: CacheReader,
    spans: Sequence[range],
    held: Sequence[dict[int, int]],
    position: int,
    *,
    wrong: Sequence[int],
    skips: bool,
) -> list[int]:
    """What a token finds; those of the `wrong` passes find what they ought to."""
    i = next(i for i, span in enumerate(spans) if position in span)
    if i in wrong:
        return reader.right(position)
    found = [held[i].get(s, ZEROS) for s in reader.right(position)]
    return [s for s in found if s != ZEROS] if skips else found
