"""Forms in which rows of a KV cache can be other than they ought to be.

A form says what keys, values or both would be if all of them had it; which rows have it, and
who reads those, is the reader's question (`cache_forms`).

Shape letters: T tokens, H heads, K key/value heads, E head size, W width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.arithmetic import ROUNDINGS, can_round
from cotejar.diagnosis.hypotheses.attention.attention_heads import rows_of_layers
from cotejar.diagnosis.hypotheses.precision.undeclared_rounding import roundings_of_many_tokens
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Rotate, vector
from cotejar.trace.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case
    from cotejar.diagnosis.hypotheses.attention.attended import Attended

    Rounded = Callable[[np.ndarray], np.ndarray]

WHICH = (("kv", "keys and values"), ("k", "keys"), ("v", "values"))
_FEW_HEADS = 8
"""Key/value heads of which each is tried by itself."""
_CACHE_ROUNDINGS = (
    "f16",
    "bf16",
    "Q8_0",
    "int8 a row",
    "int8 by 32",
    "int4 a row",
    "int4 by 32",
)
_OF_HEADS = ("int8 a row", "int4 a row")


@dataclass(frozen=True, kw_only=True, eq=False)
class Form:
    """What rows are, and how a title ends that says so."""

    id: str
    rows: str
    """Which of the two, for a title."""
    words: str
    k: Float64[np.ndarray, "T K E"] | None = None
    """None where they are as they ought to be."""
    v: Float64[np.ndarray, "T K E"] | None = None
    q: Float64[np.ndarray, "T H E"] | None = None
    """Queries as those keys meet them, where that is not as they are."""
    numbers: int = 0
    heads: tuple[int, ...] | None = None
    """The key/value head that each query head reads there, where it is another."""
    factor: str = ""
    """`k` or `v`, where what is named is multiplied by a number that is still to be found."""


def every_form(case: Case, attended: Attended) -> Iterator[Form]:
    """All of them, the simpler first."""
    yield from _exchanged(attended)
    yield from _of_heads(attended)
    yield from _within_heads(attended)
    yield Form(
        id="token-shifted",
        rows="keys",
        words="are met by the queries of the token before: those come one step late",
        q=np.concatenate([attended.q[:1], attended.q[:-1]]),
    )
    yield from _turned(case, attended)
    yield from _of_layers(case, attended)
    yield from _rounded(case, attended)
    yield Form(id="cache-scaled", rows="keys", words="", factor="k")
    yield Form(id="cache-scaled", rows="values", words="", factor="v")


def _exchanged(attended: Attended) -> Iterator[Form]:
    k, v = attended.k, attended.v
    yield Form(id="key-value-swapped", rows="keys and values", words="change places", k=v, v=k)
    yield Form(id="key-for-value", rows="values", words="are the keys: those are in both", v=k)
    yield Form(id="value-for-key", rows="keys", words="are the values: those are in both", k=v)


def _of_heads(attended: Attended) -> Iterator[Form]:
    """Key/value heads in the place of others, or one that is not there."""
    count = attended.k.shape[1]
    if count == 1:
        yield from _zero_heads(attended)
        return
    heads_of = len(attended.heads)
    if count < heads_of:
        yield Form(
            id="head-order",
            rows="keys and values",
            words="are read by query heads in turn, not by neighbours together",
            heads=tuple(head % count for head in range(heads_of)),
        )
    maps = {
        "are those of the head before": np.roll(np.arange(count), 1),
        "are those of the head behind": np.roll(np.arange(count), -1),
        "are those of the heads in reverse order": np.arange(count)[::-1],
        "are those of head 0 in every head": np.zeros(count, int),
    }
    for words, heads in maps.items():
        for which, rows in WHICH:
            taken = {"k": attended.k[:, heads], "v": attended.v[:, heads]}
            yield _with(Form(id="cache-head", rows=rows, words=words), which, taken)
    yield from _zero_heads(attended)


def _zero_heads(attended: Attended) -> Iterator[Form]:
    for head in range(min(attended.k.shape[1], _FEW_HEADS)):
        taken = {"k": attended.k.copy(), "v": attended.v.copy()}
        for array in taken.values():
            array[:, head] = 0.0
        for which, rows in WHICH:
            words = f"of head {head} are zeros"
            yield _with(Form(id="cache-head", rows=rows, words=words, numbers=1), which, taken)


def _with(form: Form, which: str, taken: dict[str, np.ndarray]) -> Form:
    """Of the two, those that are named, from there."""
    return replace(
        form,
        k=taken["k"] if "k" in which else None,
        v=taken["v"] if "v" in which else None,
    )


def _within_heads(attended: Attended) -> Iterator[Form]:
    """The values of each head in another order."""
    e = attended.step.head_dim
    halves = exact.half_split_order(e, e - e % 2)
    orders = {
        "neighbours for halves": halves,
        "halves for neighbours": np.argsort(halves),
        "halves exchanged": np.roll(np.arange(e), e // 2),
        "in reverse": np.arange(e)[::-1],
    }
    for words, order in orders.items():
        taken = {"k": attended.k[..., order], "v": attended.v[..., order]}
        for which, rows in WHICH:
            form = Form(
                id="cache-layout", rows=rows, words=f"have each head in another order, {words}"
            )
            yield _with(form, which, taken)


def _turned(case: Case, attended: Attended) -> Iterator[Form]:
    """RoPE left out of keys, done twice, or by another position; norms of their heads."""
    operation = case.observed.truth.operations.get(
        str(Site("k_rope", case.operation.site.layer))
    )
    if operation is None or not isinstance(operation.step, Rotate):
        return
    angles_TP = np.outer(np.arange(len(attended.k)), operation.step.frequencies)
    k, v, still_k = attended.k, attended.v, exact.turn(attended.k, -angles_TP)
    form = partial(Form, rows="keys")
    yield form(id="rope-unused", words="are not turned by RoPE", k=still_k)
    yield form(id="rope-twice", words="are turned twice", k=exact.turn(k, angles_TP))
    yield form(
        id="rope-unused",
        words="are turned by the position of the query that reads them, not by their own",
        k=still_k,
        q=exact.turn(attended.q, -angles_TP),
    )
    one_TP = np.tile(np.array(operation.step.frequencies), (len(k), 1))
    for shift in (1, -1, 2, -2):
        far = f"{abs(shift)} position{'s' if abs(shift) > 1 else ''}"
        yield form(
            id="rope-positions",
            words=f"are turned as if {far} {'later' if shift > 0 else 'earlier'}",
            k=exact.turn(k, shift * one_TP),
            numbers=1,
        )
    yield Form(
        id="rope-on-values", rows="values", words="are turned by RoPE too",
        v=exact.turn(v, angles_TP),
    )  # fmt: skip
    yield from _normed(case, attended, operation.step, angles_TP)


def _normed(
    case: Case,
    attended: Attended,
    step: Rotate,
    angles_TP: Float64[np.ndarray, "T P"],
) -> Iterator[Form]:
    """Where the heads of keys are normed: left out, and behind RoPE."""
    truth = case.observed.truth
    operation = truth.operations[str(Site("k_rope", case.operation.site.layer))]
    given = replace(case.observed, _derived={}).inputs(operation)
    if step.norm is None or given is None or given.arrays[0].size != attended.k.size:
        return
    without = replace(operation, step=replace(step, norm=None))
    plain = replay(without, given.arrays, case.observed)
    plain_THE = exact.split_heads(plain, attended.step.head_dim)
    weight_E = vector(truth.weights, step.norm.weight)
    yield Form(
        id="head-norm-missing", rows="keys", words="are not normed head by head", k=plain_THE
    )
    yield Form(
        id="head-norm-missing",
        rows="keys",
        words="are neither normed head by head nor turned by RoPE",
        k=exact.turn(plain_THE, -angles_TP),
    )
    yield Form(
        id="head-norm-after-rope",
        rows="keys",
        words="are turned before their heads are normed",
        k=exact.rms_norm(plain_THE, weight_E, step.norm.eps),
    )


def _of_layers(case: Case, attended: Attended) -> Iterator[Form]:
    for other, found in rows_of_layers(case, attended):
        for which, rows in WHICH:
            if all(name in found for name in which):
                words = f"are those of layer {other}"
                form = Form(id="cache-other-layer", rows=rows, words=words)
                yield _with(form, which, found)


def _rounded(case: Case, attended: Attended) -> Iterator[Form]:
    e = attended.step.head_dim
    for how, rounded in cache_roundings(case, e).items():
        stored = {
            name: exact.split_heads(rounded(case.inputs[place]), e)
            for name, place in (("k", 1), ("v", 2))
        }
        for which, rows in WHICH:
            form = Form(id="cache-rounded", rows=rows, words=f"are rounded to {how}")
            yield _with(form, which, stored)


def cache_roundings(case: Case, e: int) -> dict[str, Rounded]:
    """Of all rows: each by itself, each head's, or many tokens' with one scale."""
    width = case.inputs[1].shape[1]
    found = {how: ROUNDINGS[how] for how in _CACHE_ROUNDINGS if can_round(how, width)}
    for how in _OF_HEADS:
        found[f"{how} of a head"] = partial(_each_row_of_a_head, rounded=ROUNDINGS[how], e=e)
    return found | roundings_of_many_tokens(case, e)


def _each_row_of_a_head(values_TW: np.ndarray, *, rounded: Rounded, e: int) -> np.ndarray:
    return rounded(values_TW.reshape(-1, e)).reshape(values_TW.shape)
