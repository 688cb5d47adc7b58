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
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.attention.attended import Attended, weigh
from cotejar.diagnosis.hypotheses.attention.attention_heads import rows_of_layers
from cotejar.diagnosis.hypotheses.attention.attention_masks import best_slot
from cotejar.diagnosis.hypotheses.cache.cache_forms import (
    form_alternatives,
    other_prompt_alternatives,
    prefix_alternatives,
)
from cotejar.diagnosis.hypotheses.cache.cache_layouts import layout_alternatives
from cotejar.diagnosis.hypotheses.cache.cache_passes import pass_ways
from cotejar.diagnosis.hypotheses.cache.cache_reader import ZEROS, CacheReader
from cotejar.diagnosis.hypotheses.cache.cache_slots import slots_one_by_one
from cotejar.diagnosis.hypotheses.cache.cache_ways import every_way
from cotejar.diagnosis.hypotheses.cache.fed_tokens import FedTokens
from cotejar.diagnosis.hypotheses.cache.foreign_rows import foreign_rows
from cotejar.diagnosis.hypotheses.cache.pass_masks import mask_alternatives
from cotejar.diagnosis.hypotheses.cache.row_forms import WHICH, cache_roundings
from cotejar.diagnosis.hypotheses.cache.seen_rows import solved_rows
from cotejar.diagnosis.hypotheses.cache.split_reads import split_alternatives
from cotejar.diagnosis.some_rows import RowsCase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case
    from cotejar.diagnosis.hypotheses.cache.cache_reader import Reading, Way

_MOST_TOKENS = 256
"""Of a longer text there are too many ways."""
_SCREENED = 24
"""Ways that the first and the last wrong step leave."""
_ASSUMED = 2
"""Numbers that it takes to say of tokens, of which nobody has said so, that they were steps:
a mask that explains as much is the simpler reading."""
_OFFERED = 6
"""Of those, the nearest, which are computed whole."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of the attention of tokens that were fed one at a time, where those alone are wrong.

    Of a trace that does not say how tokens were fed: of the last ones, where they are wrong.
    """
    attended = Attended.of(case)
    if attended is None or len(attended.q) > _MOST_TOKENS or not len(attended.wrong):
        return
    if isinstance(case, RowsCase):
        return  # the whole case was asked, and tells as much
    explained = False
    for one in chain(_of_steps(case, attended), _by_pass(case, attended)):
        explained = explained or case.judge(one.output, one.slack).accepted
        yield one
    fed = FedTokens.of(case)
    if not explained and fed is not None and fed.pass_of[attended.wrong[0]] > 0:
        yield from other_prompt_alternatives(case, attended, fed)


def _of_steps(case: Case, attended: Attended) -> Iterator[Alternative]:
    """Every way of every step, where steps alone are wrong."""
    first, passes, suffix = _first_step(case, attended)
    if first < 1 or int(attended.wrong[0]) < first:
        return
    reader = CacheReader(attended, first, passes)
    counted = () if suffix else solved_rows(reader)  # of a mask, else: hidden_ranges
    for family in (
        _ways(reader, every_way(reader)),
        _one_slot(reader),
        _rounded(case, reader),
        _other_heads(reader),
        _other_layers(case, reader),
        layout_alternatives(reader),
        slots_one_by_one(reader),
        counted,
        split_alternatives(reader),
        foreign_rows(reader),
    ):
        for one in family:
            if suffix:  # where steps began was fitted too, and that there were any assumed
                numbers = one.parameters + _ASSUMED
                one = replace(one, title=f"{one.title}{suffix}", parameters=numbers)  # noqa: PLW2901 - the same one
            yield one


def _first_step(case: Case, attended: Attended) -> tuple[int, tuple[int, ...], str]:
    """The first token that is a step, passes that tell more, and what a title says of it.

    Token 0 for none.
    """
    trace, tokens = case.observed.trace, len(attended.q)
    began, steps = int(attended.wrong[0]), trace.num_steps
    first = tokens - steps
    first -= int(began == first - 1)  # that of the first pass reads the newest rows too
    if steps and began >= first:
        return first, (), ""
    passes = trace.passes if sum(trace.passes) == tokens else ()
    if len(passes) > 1 and began >= passes[0]:
        return passes[0], passes, " (a step: each token of the passes after the first)"
    if steps or len(attended.wrong) < tokens - began or began <= tokens // 2:
        return 0, (), ""
    return began, (), f" (a step: each token from {began} on)"


def _by_pass(case: Case, attended: Attended) -> Iterator[Alternative]:
    """Where the trace says how tokens were fed: slots, masks and forms of rows by pass."""
    fed = FedTokens.of(case)
    if fed is None or fed.pass_of[attended.wrong[0]] == 0:
        return
    first = int(fed.last_of[0]) + 1
    reader = CacheReader(attended, first, case.observed.trace.passes)
    yield from _ways(reader, pass_ways(reader, fed))
    yield from mask_alternatives(attended, fed)
    yield from form_alternatives(case, attended, fed)
    yield from prefix_alternatives(case, attended, fed)
    if int(attended.wrong[0]) < fed.first_step:
        yield from slots_one_by_one(reader)
        yield from solved_rows(reader)


def _ways(reader: CacheReader, ways: Iterator[Way]) -> Iterator[Alternative]:
    """The nearest of these ways, for keys, values and both."""
    found: list[_Tried] = []
    for way in ways:
        for which, rows in WHICH:
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
    few = [one for one in few if np.isfinite(one.left)]
    for one in sorted(few, key=lambda one: (one.left, one.turn))[:_OFFERED]:
        yield Alternative(
            id=one.way.id,
            title=one.way.title(one.rows),
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


def _distinct(reader: CacheReader, found: list[_Tried]) -> list[_Tried]:
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


def _one_slot(reader: CacheReader) -> Iterator[Alternative]:
    """From some step on one slot holds another token's rows, or zeros."""
    attended = reader.attended
    began = int(attended.wrong[0])
    for which, rows in WHICH:
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


def _replaced(
    reader: CacheReader, slot: int, source: int, began: int, position: int
) -> list[int]:
    rows = reader.right(position)
    return rows if position < began else [source if s == slot else s for s in rows]


def _rounded(case: Case, reader: CacheReader) -> Iterator[Alternative]:
    """Rounded when it was stored; the prompt's own pass read it as it was."""
    k_TW, v_TW = case.inputs[1], case.inputs[2]
    attended, e = reader.attended, reader.attended.step.head_dim
    steps = np.arange(len(k_TW)) >= reader.first
    near: list[tuple[float, str, dict[str, np.ndarray], np.ndarray]] = []
    for how, rounded in cache_roundings(case, e).items():
        k, v = (exact.split_heads(rounded(a), e) for a in (k_TW, v_TW))
        for which, rows in WHICH:
            changed = {name: array for name, array in (("k", k), ("v", v)) if name in which}
            whole_TW = attended.output(**changed)
            output_TW = np.where(
                steps[:, None], whole_TW, exact.join_heads(reader.without_faults)
            )
            title = f"{rows} that steps read are rounded to {how}"
            left = float(np.linalg.norm(case.recorded - output_TW))
            near.append((left, title, changed, output_TW))
            yield Alternative(id="cache-rounded", title=title, output=output_TW)
    near.sort(key=lambda one: one[0])
    for _, title, changed, output_TW in near[:_OFFERED]:  # each takes a loop over the steps
        yield Alternative(
            id="cache-rounded",
            title=f"{title}, but for a step's own",
            output=_own_exact(reader, changed, output_TW),
        )


def _other_heads(reader: CacheReader) -> Iterator[Alternative]:
    """Steps write the rows of one key/value head where another's belong."""
    attended = reader.attended
    count, steps = attended.k.shape[1], slice(reader.first, None)
    maps = {
        "in reverse": tuple(reversed(range(count))),
        **{
            f"those of head {a} to the place of head {b}": tuple(
                a if h == b else h for h in range(count)
            )
            for a in range(min(count, _FEW_HEADS))
            for b in range(min(count, _FEW_HEADS))
            if a != b
        },
    }
    for where, heads in maps.items():
        if heads == tuple(range(count)):
            continue
        for which, rows in WHICH:
            changed = {name: getattr(attended, name).copy() for name in which}
            for array in changed.values():
                array[steps] = array[steps][:, list(heads)]
            yield Alternative(
                id="cache-head",
                title=f"steps write the {rows} of heads to other places: {where}",
                output=attended.output(**changed),
                parameters=0 if where == "in reverse" else 1,
            )


_FEW_HEADS = 4
"""Key/value heads of which every two are tried."""


def _other_layers(case: Case, reader: CacheReader) -> Iterator[Alternative]:
    """Steps read another layer's cache, and their own rows as they are."""
    attended = reader.attended
    for other, rows in rows_of_layers(case, attended):
        for which, names in WHICH:
            if all(name in rows for name in which):
                changed = {name: rows[name] for name in which}
                yield Alternative(
                    id="cache-other-layer",
                    title=f"the {names} that steps read are those of layer {other}, but for a "
                    "step's own",
                    output=_own_exact(reader, changed, exact.join_heads(reader.without_faults)),
                )


def _own_exact(
    reader: CacheReader, changed: dict[str, np.ndarray], output_TW: Float64[np.ndarray, "T W"]
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
