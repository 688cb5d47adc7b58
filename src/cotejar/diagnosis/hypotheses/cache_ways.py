"""Ways to write and to read a KV cache that programs get wrong, slot by slot."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from cotejar.diagnosis.hypotheses.cache_reader import ZEROS, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cotejar.diagnosis.hypotheses.cache_reader import CacheReader

_SHIFTS = (1, -1, 2, -2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way to keep or read the cache."""

    id: str
    words: str
    """With `{rows}` for keys, values or both, `{others}` for those that are read rightly."""
    read: Reading
    numbers: int = 0
    """That were fitted."""


def every_way(reader: CacheReader) -> Iterator[Way]:
    """All of them, the simpler first; a few need what was wrong first."""
    yield from _lost_rows(reader)
    if reader.attended.step.window is not None:
        yield from _last_of_all(reader, reader.attended.step.window)
    yield from _rings(reader)
    yield from _moved_rows(reader)
    yield from _rolled_rows(reader)
    yield from _written_elsewhere(reader)
    yield from _writing_stops(reader)
    if reader.attended.step.window is not None:
        yield from _evicted(reader, reader.attended.step.window)
        yield from _ring_slots(reader, reader.attended.step.window)


def _lost_rows(reader: CacheReader) -> Iterator[Way]:
    """Rows that a step does not see, or sees and ought not to."""
    n, tokens = reader.first, len(reader.attended.q)
    right = reader.right

    def without(position: int, lost: Callable[[int, int], bool]) -> list[int]:
        return [s for s in right(position) if not lost(s, position)]

    def is_slot(s: int, t: int, slot: int) -> bool:
        return s == slot != t

    def with_zeros(position: int, count: int) -> list[int]:
        return [*right(position), *([ZEROS] * count)]

    for words, lost in (
        ("a step does not read its own {rows}", lambda s, t: s == t),
        ("a step reads its own {rows} alone: those before are lost", lambda s, t: s != t),
        ("a step reads the {rows} of steps alone: the prompt's are lost", lambda s, _: s < n),
        ("a step reads the prompt's {rows} alone", lambda s, _: s >= n),
        (
            "a step reads the {rows} of token 0 alone: a mask aligned top left?",
            lambda s, _: s > 0,
        ),
        (
            "a step reads the prompt's {rows} and its own: those of steps before are lost",
            lambda s, t: n <= s < t,
        ),
        ("the {rows} of the step before are lost", lambda s, t: s == t - 1),
    ):
        yield Way(id="cache-rows-lost", words=words, read=partial(without, lost=lost))
    for slot in range(tokens - 1):
        yield Way(
            id="cache-rows-lost",
            words=f"steps do not read the {{rows}} of token {slot}",
            read=partial(without, lost=partial(is_slot, slot=slot)),
            numbers=1,
        )
    for count in dict.fromkeys((*range(1, 9), *(b - tokens % b for b in (16, 32, 64, 256)))):
        yield Way(
            id="cache-slots-unwritten",
            words=f"steps read {{rows}} of {count} slots too many, which hold zeros",
            read=partial(with_zeros, count=count),
            numbers=1,
        )


def _rings(reader: CacheReader) -> Iterator[Way]:
    """A ring of every size: the last rows alone."""
    tokens = len(reader.attended.q)
    for size in range(1, tokens):

        def last(position: int, size: int = size) -> list[int]:
            return list(range(max(0, position - size + 1), position + 1))

        ought = reader.attended.step.window
        near = ought is not None and abs(size - ought) == 1
        yield Way(
            id="cache-ring-off-by-one" if near else "cache-ring",
            words=f"steps read the {{rows}} of the last {size} tokens"
            + (f" and ought to read {ought}" if ought else " and ought to read all"),
            read=last,
            numbers=1,
        )


def _moved_rows(reader: CacheReader) -> Iterator[Way]:
    """Rows in the place of others, for every step in the same way."""
    n, right = reader.first, reader.right

    def own(position: int, source: Callable[[int], int]) -> list[int]:
        return [*right(position)[:-1], source(position)]

    def twice(position: int, source: Callable[[int], int]) -> list[int]:
        return [*right(position), source(position)]

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
    yield from _exchanged(reader)
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
    for words, again in (
        ("a step's own {rows} are written twice", lambda t: t),
        ("the last prompt token's {rows} are written twice", lambda _: n - 1),
        ("the {rows} of token 0 are written twice", lambda _: 0),
    ):
        yield Way(
            id="cache-rows-twice",
            words=words,
            read=partial(twice, source=again),
        )


def _zeros_where(
    reader: CacheReader, is_lost: Callable[[int, int], bool], position: int
) -> list[int]:
    return [ZEROS if is_lost(s, position) else s for s in reader.right(position)]


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


def _rolled_rows(reader: CacheReader) -> Iterator[Way]:
    """What leaves at one end comes in at the other.

    Of keys and values alike it changes nothing; keys late are values early, slot for slot.
    """
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


def _last_of_all(reader: CacheReader, window: int) -> Iterator[Way]:
    """The window is cut behind the fault: where a row is lost, one further back is read.

    Rows that are lost or too many, in a cache of which a window's last rows are read.
    """
    n, tokens = reader.first, len(reader.attended.q)

    def lost(position: int, slot: int) -> list[int]:
        return [s for s in range(position + 1) if s != slot or s == position][-window:]

    def extra(position: int, source: Callable[[int], int], count: int) -> list[int]:
        return [*range(position + 1), *([source(position)] * count)][-window:]

    for slot in range(tokens - 1):
        words = f"steps do not read the {{rows}} of token {slot}"
        if slot == n - 1:
            words = "the first step writes its {rows} over those of the last prompt token"
        yield Way(
            id="cache-written-elsewhere" if slot == n - 1 else "cache-rows-lost",
            words=f"{words}: the window reaches one further back",
            read=partial(lost, slot=slot),
            numbers=int(slot != n - 1),
        )
    for count in range(1, min(window, 9)):
        slots = "a slot" if count == 1 else f"{count} slots"
        yield Way(
            id="cache-slots-unwritten",
            words=f"steps read {{rows}} of {slots} too many at the end, which hold zeros, and "
            f"the window as many less",
            read=partial(extra, source=lambda _: ZEROS, count=count),
            numbers=int(count > 1),
        )
    yield Way(
        id="cache-rows-twice",
        words="a step's own {rows} are in the window twice",
        read=partial(extra, source=lambda t: t, count=1),
    )


def _evicted(reader: CacheReader, window: int) -> Iterator[Way]:
    """In a ring a slot still holds what has left the window, or has been cleared too soon."""

    def swapped(position: int, place: int, source: int, twice: int | None) -> list[int]:
        rows = reader.right(position)
        old = position - window if source < 0 else ZEROS
        if len(rows) < window or (source < 0 and old < 0):
            return rows
        rows[place] = old
        if twice is not None:
            rows[twice] = position
        return rows

    for words, place, twice in (
        ("a step's own {rows} are not written", -1, None),
        ("a step's own {rows} are written over those of the token before", -1, -2),
        ("the {rows} of the token before are not there", -2, None),
        ("the oldest {rows} of the window are gone", 0, None),
    ):
        for source, what in (
            (-1, "the slot holds those that have left the window"),
            (0, "the slot holds zeros"),
        ):
            if window <= abs(place) or (source < 0 and place == 0):
                continue
            yield Way(
                id="cache-ring",
                words=f"in the ring of {window} {words}: {what}",
                read=partial(swapped, place=place, source=source, twice=twice),
            )


def _ring_slots(reader: CacheReader, window: int) -> Iterator[Way]:
    """A ring whose slots steps take from another count than the prompt did."""
    n, tokens = reader.first, len(reader.attended.q)
    starts: list[tuple[str, Callable[[int], int]]] = [
        ("from slot 0 on again", lambda t: t - n),
        ("one slot early", lambda t: t - 1),
        ("one slot late", lambda t: t + 1),
        ("all to one slot: the counter does not move", lambda _: n),
        ("all to slot 0", lambda _: 0),
        ("behind the ring's own rows, which stand from slot 0 on", lambda t: t - n + window),
    ]
    for size in (window, window - 1, window + 1):
        for where, slot in starts:
            if size < 1:
                continue
            read: dict[int, list[int]] = {}
            held = {p % size: p for p in range(n)}
            for position in range(n, tokens):
                held[slot(position) % size] = position
                read[position] = sorted(held.values())
            if all(read[t] == reader.right(t) for t in range(n, tokens)):
                continue
            yield Way(
                id="cache-ring",
                words=f"a ring of {size} slots, and steps write their {{rows}} {where}",
                read=read.__getitem__,
                numbers=int(size != window),
            )


def _writing_stops(reader: CacheReader) -> Iterator[Way]:
    """From some step on nothing is written; what is wrong first tells which step it was.

    From the first step on zeros, or nothing: see `_written_elsewhere`. In the last alone: see
    `_one_slot`.
    """
    began, last = int(reader.attended.wrong[0]), len(reader.attended.q) - 1
    window = reader.attended.step.window

    def stopped(
        position: int, since: int, fill: Callable[[int], list[int]], *, own: bool
    ) -> list[int]:
        rows = reader.right(position)
        return [
            found
            for s in rows
            for found in ([s] if s < since or (own and s == position) else fill(s))
        ]

    for since, own, tail in (
        (began, False, ""),
        (began - 1, True, "; a step reads its own all the same"),
    ):
        if since < reader.first or began == last:
            continue
        fills: list[tuple[str, str, Callable[[int], list[int]]]] = [
            ("cache-slots-unwritten", "zeros are read", lambda _: [ZEROS]),
            ("cache-slots-unwritten", "they are not read", lambda _: []),
        ]
        if since == reader.first and not own:
            fills = []
        for old, whose in (
            (since - 1, "written last"),
            (0, "of token 0"),
            (reader.first - 1, "of the last prompt token"),
        ):
            fills.append(("cache-stale", f"those {whose} are read", partial(_always, old)))
        if window is not None:
            words = f"those that the ring of {window} held are read"
            fills.append(("cache-stale", words, partial(_before_it, window)))
        for id_, what, fill in fills:
            yield Way(
                id=id_,
                words=f"from token {since} on the {{rows}} are not written: {what}{tail}",
                read=partial(stopped, since=since, fill=fill, own=own),
            )


def _always(token: int, _: int) -> list[int]:
    return [token]


def _before_it(window: int, slot: int) -> list[int]:
    """Of which token a ring's slot held the rows until this one's were due."""
    return [slot - window if slot >= window else ZEROS]


def _written_elsewhere(reader: CacheReader) -> Iterator[Way]:
    """Rows written to a wrong slot, and all that comes of it in later steps."""
    n, tokens = reader.first, len(reader.attended.q)
    slots: list[tuple[str, Callable[[int], int | None]]] = [
        ("one slot early", lambda t: t - 1),
        ("one slot late", lambda t: t + 1),
        ("two slots late", lambda t: t + 2),
        (f"to slot {n} whatever the step: the counter does not move", lambda _: n),
        (f"to slot {n - 1} whatever the step: the counter does not move", lambda _: n - 1),
        ("from slot 0 on again", lambda t: t - n),
        ("to slot 0 whatever the step", lambda _: 0),
        ("two slots apart", lambda t: n + 2 * (t - n)),
        ("nowhere", lambda _: None),
    ]
    lengths: list[tuple[str, Callable[[int], int]]] = [
        ("", lambda t: t + 1),
        (", and a slot more is read", lambda t: t + 2),
        (", and a slot less is read", lambda t: t),
        (f", and {n} slots are read", lambda _: n),
        (f", and {n + 1} slots are read", lambda _: n + 1),
    ]
    right = [list(range(t + 1)) for t in range(tokens)]
    for where, slot in slots:
        for how_many, length in lengths:
            for skips in (False, True):
                read = _played(n, tokens, slot, length, skips=skips)
                if all(sorted(read[t]) == right[t] for t in range(n, tokens)):
                    continue
                unwritten = ", none that is unwritten" if skips else ""
                yield Way(
                    id="cache-written-elsewhere",
                    words=f"the {{rows}} of steps are written {where}{how_many}{unwritten}",
                    read=read.__getitem__,
                )


def _played(
    n: int,
    tokens: int,
    slot: Callable[[int], int | None],
    length: Callable[[int], int],
    *,
    skips: bool,
) -> dict[int, list[int]]:
    """What each step finds, if steps write to `slot` and read `length` slots from the first."""
    held = {position: position for position in range(n)}
    read = {}
    for position in range(n, tokens):
        to = slot(position)
        if to is not None:
            held[to] = position
        found = [held.get(s, ZEROS) for s in range(length(position))]
        read[position] = [s for s in found if s != ZEROS] if skips else found
    return read
