"""What each token that was fed alone read from the KV cache.

Attention does not know in which order it reads the cache, for keys are turned before they are
stored: what a step read is which token's key and which token's value it found in each slot
that it looked at. Every way to write and to read a cache that programs get wrong is played
through, slot by slot, for keys, for values and for both; failing that, the one slot that is
wrong is searched over all slots and tokens.

Shape letters: T tokens, N sampled steps, H heads, E head size, L slots read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.arithmetic import ROUNDINGS, can_round
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.attended import Attended, weigh
from cotejar.diagnosis.hypotheses.attention_masks import best_slot
from cotejar.diagnosis.some_rows import RowsCase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case

ZEROS = -1
"""Stands for a token in a slot that nobody has written."""
_MOST_TOKENS = 256
"""Of a longer text there are too many ways."""
_SCREENED = 24
"""Ways that the first and the last wrong step leave."""
_OFFERED = 6
"""Of those, the nearest, which are computed whole."""
_COMPARED_STEPS = 12
"""At which two ways are told apart."""
_SHIFTS = (1, -1, 2, -2)

Reading: TypeAlias = "Callable[[int], list[int]]"
"""Of a step's position: the tokens whose rows it finds, slot by slot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way to keep or read the cache."""

    id: str
    words: str
    """With `{rows}` for keys, values or both."""
    read: Reading
    numbers: int = 0
    """That were fitted."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of the attention of tokens that were fed one at a time, where those alone are wrong.

    Of a trace that does not say how tokens were fed: of the last ones, where they are wrong.
    """
    steps = case.observed.trace.num_steps
    attended = Attended.of(case)
    if attended is None or len(attended.q) > _MOST_TOKENS or not len(attended.wrong):
        return
    if isinstance(case, RowsCase):
        return  # the whole case was asked, and tells as much
    began, tokens = int(attended.wrong[0]), len(attended.q)
    # The last token of the first pass reads the newest rows too.
    first = tokens - steps
    first -= int(began == first - 1)
    suffix = ""
    if not steps:
        if len(attended.wrong) < tokens - began or began <= tokens // 2:
            return
        first, suffix = began, f" (a step: each token from {began} on)"
    if first < 1 or began < first:
        return
    reader = _Reader(attended, first)
    for family in (_ways(reader), _one_slot(reader), _rounded(case, reader)):
        for one in family:
            if suffix:  # where steps began was fitted too
                numbers = one.parameters + 1
                one = replace(one, title=f"{one.title}{suffix}", parameters=numbers)  # noqa: PLW2901 - the same one
            yield one


class _Reader:
    """Computes what steps make of any rows, and keeps what came before them as it is."""

    def __init__(self, attended: Attended, first: int) -> None:
        self.attended = attended
        self.first = first
        scores = attended.sampled_scores
        # One slot more that holds zeros: its score is 0, and so is its value.
        self._scores = np.concatenate([scores, np.zeros_like(scores[..., :1])], axis=2)
        values = attended.sampled_values
        self._values = np.concatenate([values, np.zeros_like(values[:, :1])], axis=1)
        self.without_faults = exact.split_heads(attended.output(), attended.step.head_dim)

    def right(self, position: int) -> list[int]:
        """The tokens that a step ought to see."""
        window = self.attended.step.window
        return list(range(0 if window is None else max(0, position - window + 1), position + 1))

    def left(self, read_k: Reading, read_v: Reading, *, ends: bool = False) -> float:
        """The greatest relative distance of a sampled step; or of the first and last alone."""
        places = range(len(self.attended.sample))
        farthest = 0.0
        for place in dict.fromkeys((places[0], places[-1])) if ends else places:
            position = int(self.attended.sample[place])
            keys, values = read_k(position), read_v(position)
            if len(keys) != len(values) or not keys:
                return np.inf
            weights = weigh(self._scores[:, place, keys])
            context_HE = np.einsum("hl,hle->he", weights, self._values[:, values])
            wanted_HE = self.attended.recorded[position]
            off = np.linalg.norm(wanted_HE - context_HE)
            farthest = max(farthest, float(off) / max(float(np.linalg.norm(wanted_HE)), 1e-300))
        return farthest

    def told_by(self, read_k: Reading, read_v: Reading) -> tuple[object, ...]:
        """What some steps find, in whatever order: ways that agree in it are one."""
        steps = range(self.first, len(self.attended.q))
        at = np.linspace(0, len(steps) - 1, min(_COMPARED_STEPS, len(steps))).astype(int)
        compared = {*(steps[i] for i in at), *self.attended.sample.tolist()}
        return tuple(
            tuple(sorted(zip(read_k(t), read_v(t), strict=False))) for t in sorted(compared)
        )

    def output(self, read_k: Reading, read_v: Reading) -> Float64[np.ndarray, "T W"]:
        """Whole, the steps alone changed."""
        attended = self.attended
        context_THE = self.without_faults.copy()
        for position in range(self.first, len(context_THE)):
            keys, values = read_k(position), read_v(position)
            if keys == values == self.right(position):
                continue
            for head, kv_head in enumerate(attended.heads):
                k = np.concatenate([attended.k[:, kv_head], np.zeros_like(attended.k[:1, 0])])
                v = np.concatenate([attended.v[:, kv_head], np.zeros_like(attended.v[:1, 0])])
                scores = attended.scores(attended.q[position : position + 1, head], k[keys])
                weights = attended.round_weights(weigh(scores))
                context_THE[position, head] = (weights @ v[values])[0]
        return exact.join_heads(context_THE)


_WHICH = (("kv", "keys and values"), ("k", "keys"), ("v", "values"))


def _ways(reader: _Reader) -> Iterator[Alternative]:
    """The nearest of every way, for keys, values and both."""
    found: list[_Tried] = []
    for way in _every_way(reader):
        for which, rows in _WHICH:
            read_k = way.read if "k" in which else reader.right
            read_v = way.read if "v" in which else reader.right
            left = reader.left(read_k, read_v, ends=True)
            if np.isfinite(left):
                found.append(_Tried(left, len(found), way, rows, read_k, read_v))
    found.sort(key=lambda one: (one.left, one.turn))
    few = [
        replace(one, left=reader.left(one.read_k, one.read_v))
        for one in _distinct(reader, found)
    ]
    for one in sorted(few, key=lambda one: (one.left, one.turn))[:_OFFERED]:
        yield Alternative(
            id=one.way.id,
            title=one.way.words.format(rows=one.rows),
            output=reader.output(one.read_k, one.read_v),
            parameters=one.way.numbers,
        )


@dataclass(frozen=True, slots=True)
class _Tried:
    left: float
    turn: int
    """In which it was offered: the simpler of two that are one comes first."""
    way: Way
    rows: str
    read_k: Reading
    read_v: Reading


def _distinct(reader: _Reader, found: list[_Tried]) -> list[_Tried]:
    """The nearest few; of those that find the same rows, the one offered first."""
    right = reader.told_by(reader.right, reader.right)
    told: dict[tuple[object, ...], _Tried] = {}
    for one in found:
        rows = reader.told_by(one.read_k, one.read_v)
        if rows != right and (rows not in told or told[rows].turn > one.turn):
            told[rows] = one
        if len(told) == _SCREENED:
            break
    return list(told.values())


def _every_way(reader: _Reader) -> Iterator[Way]:
    yield from _lost_rows(reader)
    yield from _rings(reader)
    yield from _moved_rows(reader)
    yield from _written_elsewhere(reader)


def _lost_rows(reader: _Reader) -> Iterator[Way]:
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


def _rings(reader: _Reader) -> Iterator[Way]:
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


def _moved_rows(reader: _Reader) -> Iterator[Way]:
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
    for shift in _SHIFTS:
        words = f"steps read the {{rows}} {abs(shift)} {'late' if shift > 0 else 'early'}"
        for fill, tail in ((None, ""), (ZEROS, ", behind zeros")):

            def moved(position: int, shift: int = shift, fill: int | None = fill) -> list[int]:
                rows = [s - shift for s in right(position)]
                ends = range(position + 1)
                return [
                    s if s in ends else (min(max(s, 0), position) if fill is None else fill)
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


def _written_elsewhere(reader: _Reader) -> Iterator[Way]:
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


def _one_slot(reader: _Reader) -> Iterator[Alternative]:
    """From some step on one slot holds another token's rows, or zeros."""
    attended = reader.attended
    began = int(attended.wrong[0])
    for which, rows in _WHICH:
        slot, source = best_slot(attended, which)
        source = ZEROS if source == len(attended.q) else source
        read = partial(_replaced, reader, slot, source, began)
        held = "zeros" if source == ZEROS else f"those of token {source}"
        yield Alternative(
            id="cache-slot",
            title=f"from token {began} on the slot of token {slot} in the cache holds {held} "
            f"({rows})",
            output=reader.output(
                read if "k" in which else reader.right, read if "v" in which else reader.right
            ),
            parameters=1 if source == ZEROS else 2,
        )


def _replaced(reader: _Reader, slot: int, source: int, began: int, position: int) -> list[int]:
    rows = reader.right(position)
    return rows if position < began else [source if s == slot else s for s in rows]


_CACHE_ROUNDINGS = ("f16", "bf16", "Q8_0", "int8 a row", "int8 by 32", "int4 a row")


def _rounded(case: Case, reader: _Reader) -> Iterator[Alternative]:
    """Rounded when it was stored; the prompt's own pass read it as it was."""
    k_TW, v_TW = case.inputs[1], case.inputs[2]
    attended, e = reader.attended, reader.attended.step.head_dim
    steps = np.arange(len(k_TW)) >= reader.first
    for how in _CACHE_ROUNDINGS:
        if not can_round(how, k_TW.shape[1]):
            continue
        k, v = (exact.split_heads(ROUNDINGS[how](a), e) for a in (k_TW, v_TW))
        for which, rows in _WHICH:
            changed = {name: array for name, array in (("k", k), ("v", v)) if name in which}
            whole_TW = attended.output(**changed)
            output_TW = np.where(
                steps[:, None], whole_TW, exact.join_heads(reader.without_faults)
            )
            yield Alternative(
                id="cache-rounded",
                title=f"{rows} that steps read are rounded to {how}",
                output=output_TW,
            )
            yield Alternative(
                id="cache-rounded",
                title=f"{rows} that steps read are rounded to {how}, but for a step's own",
                output=_own_exact(reader, changed, output_TW),
            )


def _own_exact(
    reader: _Reader, changed: dict[str, np.ndarray], output_TW: Float64[np.ndarray, "T W"]
) -> Float64[np.ndarray, "T W"]:
    """The same, with each step's own rows as they are."""
    attended = reader.attended
    own_TW = output_TW.copy()
    for position in range(reader.first, len(output_TW)):
        rows = reader.right(position)
        context = []
        for head, kv_head in enumerate(attended.heads):
            k = changed.get("k", attended.k)[rows, kv_head].copy()
            v = changed.get("v", attended.v)[rows, kv_head].copy()
            k[-1], v[-1] = attended.k[position, kv_head], attended.v[position, kv_head]
            scores = attended.scores(attended.q[position : position + 1, head], k)
            context.append((attended.round_weights(weigh(scores)) @ v)[0])
        own_TW[position] = np.concatenate(context)
    return own_TW
