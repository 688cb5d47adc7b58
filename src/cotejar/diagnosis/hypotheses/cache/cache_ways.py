"""Ways to write and to read a KV cache that programs get wrong, slot by slot."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from cotejar.diagnosis.hypotheses.cache.cache_places import moved_rows, rolled_rows
from cotejar.diagnosis.hypotheses.cache.cache_reader import ZEROS, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cotejar.diagnosis.hypotheses.cache.cache_reader import CacheReader


_BLOCKS = (2, 4, 8, 16, 32, 64, 128, 256)


def every_way(reader: CacheReader) -> Iterator[Way]:
    """All of them, the simpler first; a few need what was wrong first."""
    yield from _rings(reader, near=True)
    yield from _lost_rows(reader)
    if reader.attended.step.window is not None:
        yield from _last_of_all(reader, reader.attended.step.window)
    yield from _rings(reader, near=False)
    yield from moved_rows(reader)
    yield from rolled_rows(reader)
    yield from _written_elsewhere(reader)
    yield from _writing_stops(reader)
    if reader.attended.step.window is not None:
        yield from _evicted(reader, reader.attended.step.window)
        yield from _ring_slots(reader, reader.attended.step.window)
        yield from _copied_to_a_ring(reader, reader.attended.step.window)


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
    for size in _BLOCKS:
        yield Way(
            id="cache-slots-unwritten",
            words=f"steps read {{rows}} of all slots up to the next multiple of {size}: behind "
            "their own those hold zeros",
            read=lambda position, size=size: with_zeros(  # type: ignore[misc]  # bound here
                position, -(position + 1) % size
            ),
        )
    for count in dict.fromkeys((*range(1, 9), *(b - tokens % b for b in (16, 32, 64, 256)))):
        yield Way(
            id="cache-slots-unwritten",
            words=f"steps read {{rows}} of {count} slots too many, which hold zeros",
            read=partial(with_zeros, count=count),
            numbers=1,
        )


def _rings(reader: CacheReader, *, near: bool) -> Iterator[Way]:
    """A ring of every size: the last rows alone. First those beside the right size."""
    tokens = len(reader.attended.q)
    for size in range(1, tokens):

        def last(position: int, size: int = size) -> list[int]:
            return list(range(max(0, position - size + 1), position + 1))

        ought = reader.attended.step.window
        if near != (ought is not None and abs(size - ought) == 1):
            continue
        yield Way(
            id="cache-ring-off-by-one" if near else "cache-ring",
            words=f"steps read the {{rows}} of the last {size} tokens"
            + (f" and ought to read {ought}" if ought else " and ought to read all"),
            read=last,
            numbers=int(not near),
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


def _copied_to_a_ring(reader: CacheReader, window: int) -> Iterator[Way]:
    """The prompt's last rows from slot 0 on, whatever their positions; steps by position.

    What steps write over is then not what has left the window.
    """
    n, tokens = reader.first, len(reader.attended.q)
    for size in (window, window - 1, window + 1):
        if not 0 < size < n or n % size == 0:
            continue  # there are no more rows than slots, or they stand where they ought to
        held = {slot: n - size + slot for slot in range(size)}
        read: dict[int, list[int]] = {}
        for position in range(n, tokens):
            held[position % size] = position
            read[position] = sorted(held.values())
        first, end = n % size, n - size + n % size
        words = (
            f"the prompt's last {size} {{rows}} stand in slots 0 to {size - 1} of the ring, "
            f"and a step writes its own to its position modulo {size}: those of token {end} "
            f"go first, those of {n - size}"
        )
        words += f" to {end - 1} stay" if first > 1 else " stays"
        for tail, hides in (("", False), (", hidden where they have left the window", True)):
            yield Way(
                id="cache-ring",
                words=f"{words}{tail}",
                read=partial(_in_window, reader, read) if hides else read.__getitem__,
                numbers=int(size != window),
            )


def _in_window(reader: CacheReader, read: dict[int, list[int]], position: int) -> list[int]:
    return [s for s in read[position] if s in reader.right(position)]


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
