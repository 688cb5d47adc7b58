"""Rows of a KV cache in the places of others: late writes, shifts, exchanges, pages."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from cotejar.diagnosis.hypotheses.cache.cache_reader import ZEROS, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cotejar.diagnosis.hypotheses.cache.cache_reader import CacheReader

_SHIFTS = (1, -1, 2, -2)


def moved_rows(reader: CacheReader) -> Iterator[Way]:
    """Rows in the place of others, for every step in the same way."""
    n, right = reader.first, reader.right

    def own(position: int, source: Callable[[int], int]) -> list[int]:
        return [*right(position)[:-1], source(position)]

    for words, source in (
        (
            "a step's own {rows} are not written: those of the token before are read",
            lambda t: t - 1,
        ),
        ("a step's own {rows} are not written: zeros are read", lambda _: ZEROS),
        (
            "a step's own {rows} are not written: those of the last prompt token are read",
            lambda _: n - 1,
        ),
        ("a step's own {rows} are not written: those of token 0 are read", lambda _: 0),
    ):
        yield Way(id="cache-stale", words=words, read=partial(own, source=source))
    for words, is_lost in (
        ("the prompt's {rows} are zeros to steps", lambda s, _: s < n),
        ("the {rows} of steps before are zeros", lambda s, t: n <= s < t),
        ("all {rows} but a step's own are zeros", lambda s, t: s < t),
    ):
        yield Way(
            id="cache-slots-unwritten",
            words=words,
            read=partial(_zeros_where, reader, is_lost),
        )
    for words, moved_to in (
        (
            "steps write the {rows} of the token before: they come one step late",
            lambda s: s - 1,
        ),
        ("steps write the {rows} of the last prompt token", lambda _: n - 1),
        ("steps write the {rows} of the first step, whatever the step", lambda _: n),
    ):
        yield Way(id="cache-stale", words=words, read=partial(_steps_moved, reader, moved_to))
    yield Way(
        id="cache-written-elsewhere",
        words="a step's {rows} are written over those of token 0 too",
        read=lambda position: [position if s == 0 else s for s in right(position)],
    )
    yield Way(
        id="cache-written-elsewhere",
        words="a step's {rows} are written over those of the token before too",
        read=partial(_over_the_one_before, reader),
    )
    yield from _prompt_rows(reader)
    yield from _exchanged(reader)
    yield from _pages(reader)
    yield from _late_rows(reader)
    yield from _rows_twice(reader)


def _rows_twice(reader: CacheReader) -> Iterator[Way]:
    """One row more than there ought to be, of any token before the step."""
    n, right = reader.first, reader.right

    def twice(position: int, source: int) -> list[int]:
        return [*right(position), source] if source < position else right(position)

    yield Way(
        id="cache-rows-twice",
        words="a step's own {rows} are written twice",
        read=lambda position: [*right(position), position],
    )
    names = {n - 1: "the last prompt token's {rows}", 0: "the {rows} of token 0"}
    for source in (*names, *range(1, n - 1), *range(n, len(reader.attended.q) - 1)):
        whose = names.get(source, f"the {{rows}} of token {source}")
        in_window = source in right(n)
        yield Way(
            id="cache-rows-twice",
            words=f"{whose} are written twice"
            if in_window
            else f"{whose} are read as well, outside the window",
            read=partial(twice, source=source),
            numbers=int(source not in names),
        )


def _late_rows(reader: CacheReader) -> Iterator[Way]:
    """All rows late or early; at the end the last again, or zeros."""
    right = reader.right
    for shift in _SHIFTS:
        words = f"steps read the {{rows}} {abs(shift)} {'late' if shift > 0 else 'early'}"
        for fill, tail in ((None, ""), (ZEROS, ", behind zeros")):

            def moved(position: int, shift: int = shift, fill: int | None = fill) -> list[int]:
                rows = [s - shift for s in right(position)]
                end = reader.end(position)
                return [
                    s if 0 <= s < end else (min(max(s, 0), end - 1) if fill is None else fill)
                    for s in rows
                ]

            yield Way(id="cache-shifted", words=f"{words}{tail}", read=moved)


def _prompt_rows(reader: CacheReader) -> Iterator[Way]:
    """The prompt's rows alone: some at an end that are zeros, and all rolled around."""
    n = reader.first
    for count in range(2, min(n, _MOST_LOST)):
        for words, first in (
            (f"the {{rows}} of the first {count} tokens are zeros to steps", 0),
            (f"the {{rows}} of the last {count} prompt tokens are zeros to steps", n - count),
        ):
            ends = range(first, first + count)
            yield Way(
                id="cache-slots-unwritten",
                words=words,
                read=partial(_zeros_where, reader, partial(_within, ends)),
                numbers=1,
            )
    for by in range(1, min(n, _MOST_ROLLED)):
        yield Way(
            id="cache-shifted",
            words=f"the prompt's {{rows}} are rolled by {by}, or its {{others}} by "
            f"-{by}, in its slots, to steps",
            read=partial(_prompt_rolled, reader, by),
        )


def _prompt_rolled(reader: CacheReader, by: int, position: int) -> list[int]:
    n = reader.first
    return [(s - by) % n if s < n else s for s in reader.right(position)]


_MOST_ROLLED = 9
_MOST_LOST = 9
"""Tokens of the prompt's beginning or end of whose rows nothing may be there."""


def _within(ends: range, slot: int, _: int) -> bool:
    return slot in ends


def _zeros_where(
    reader: CacheReader, is_lost: Callable[[int, int], bool], position: int
) -> list[int]:
    return [ZEROS if is_lost(s, position) else s for s in reader.right(position)]


def _steps_moved(
    reader: CacheReader, moved_to: Callable[[int], int], position: int
) -> list[int]:
    return [moved_to(s) if s >= reader.first else s for s in reader.right(position)]


def _over_the_one_before(reader: CacheReader, position: int) -> list[int]:
    """Every step so far has written its own slot and the one before it."""
    last = reader.first - 1
    return [s + 1 if last <= s < position else s for s in reader.right(position)]


_PAGES = (2, 4, 8, 16, 32)
"""Tokens of a page."""
_MOST_PAGES = 8
"""Of which every two are tried."""


def _pages(reader: CacheReader) -> Iterator[Way]:
    """A table of pages with a wrong entry: one page in the place of another, or both."""
    tokens = len(reader.attended.q)

    def read(position: int, size: int, places: dict[int, int]) -> list[int]:
        rows = reader.right(position)
        pages = {a: b for a, b in places.items() if max(a, b) * size < reader.first}
        found = [pages.get(s // size, s // size) * size + s % size for s in rows]
        return [s if s <= position else ZEROS for s in found]

    for size in _PAGES:
        count = min(-(-tokens // size), _MOST_PAGES)
        for one in range(count):
            for other in range(count):
                if one == other:
                    continue
                pages = f"of {size} tokens: the {{rows}} of page {other}"
                yield Way(
                    id="cache-slot",
                    words=f"a table of pages {pages} are read in the place of page {one}",
                    read=partial(read, size=size, places={one: other}),
                    numbers=2,
                )
                if one < other:
                    yield Way(
                        id="cache-slot",
                        words=f"a table of pages {pages} and of page {one} change places",
                        read=partial(read, size=size, places={one: other, other: one}),
                        numbers=2,
                    )


_MOST_EXCHANGED = 32
"""Tokens among which every two are tried; of more, neighbours alone."""


def _exchanged(reader: CacheReader) -> Iterator[Way]:
    """Two slots change places, of keys or of values: of both it changes nothing."""
    tokens = len(reader.attended.q)

    def swapped(position: int, one: int, other: int) -> list[int]:
        if position < other:
            return reader.right(position)
        places = {one: other, other: one}
        return [places.get(s, s) for s in reader.right(position)]

    for one in range(tokens - 1):
        reach = tokens if tokens <= _MOST_EXCHANGED else one + 2
        for other in range(one + 1, reach):
            yield Way(
                id="cache-slot",
                words=f"the {{rows}} of tokens {one} and {other} change places in the cache",
                read=partial(swapped, one=one, other=other),
                numbers=2,
            )


def rolled_rows(reader: CacheReader) -> Iterator[Way]:
    """What leaves at one end comes in at the other.

    Of keys and values alike it changes nothing; keys late are values early, slot for slot.
    """
    yield Way(
        id="cache-shifted",
        words="steps read the {rows} in reverse order against the {others}",
        read=lambda position: [position - s for s in reader.right(position)],
    )
    for shift in (s for s in _SHIFTS if s > 0):

        def rolled(position: int, shift: int = shift) -> list[int]:
            rows = reader.right(position)
            return [rows[(place - shift) % len(rows)] for place in range(len(rows))]

        yield Way(
            id="cache-shifted",
            words=f"steps read the {{rows}} {shift} late against the {{others}}, around: "
            f"{{rows}} are rolled by {shift}, or {{others}} by -{shift}",
            read=rolled,
        )
