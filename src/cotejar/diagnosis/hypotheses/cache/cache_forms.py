"""Rows of a KV cache that some readers find in another form: whose rows, read by whom.

Steps alone may write their rows in a wrong form, or read all of them so; what a pass has just
computed it may read as it is, and only what earlier ones stored in the form of the cache. Every
form is tried with every such set of rows that only wrong queries see.

Shape letters: T tokens, N sampled queries, H heads, E head size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.attention.attended import weigh
from cotejar.diagnosis.hypotheses.cache.other_prompt import rows_of_other_tokens
from cotejar.diagnosis.hypotheses.cache.prefix_forms import prefix_forms, prefix_words
from cotejar.diagnosis.hypotheses.cache.row_forms import Form, every_form
from cotejar.diagnosis.hypotheses.numbers import factor_text, nice, search_number
from cotejar.trace.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Bool, Float64

    from cotejar.diagnosis.case import Case
    from cotejar.diagnosis.hypotheses.attention.attended import Attended
    from cotejar.diagnosis.hypotheses.cache.fed_tokens import FedTokens

_OFFERED = 6
"""The nearest, which are computed whole."""
_UNTOUCHED = 1
"""Right queries that may see such a row: a form may leave a row as it is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scope:
    """Which rows, read by whom."""

    words: str
    """With `{rows}`."""
    reads: Bool[np.ndarray, "T T"]
    """Does a query find this row in the form?"""


def form_alternatives(case: Case, attended: Attended, fed: FedTokens) -> Iterator[Alternative]:
    """The nearest forms of the nearest rows, and where one of them is scaled, by how much."""
    scopes = [scope for scope in _distinct(attended, fed) if _is_likely(attended, scope)]
    turns_unseen = case.recorded_at(Site("q_rope", case.operation.site.layer)) is None
    found: list[tuple[float, int, Form, _Scope]] = []
    for form in every_form(case, attended) if scopes else ():
        if form.factor:
            for scope in scopes:
                yield from _scaled(attended, form, scope)
            continue
        scores = _sampled_scores(attended, form)
        for scope in scopes:
            if _happened_elsewhere(attended, form, scope, turns_unseen=turns_unseen):
                continue
            context = _sampled_context(attended, form, scope, scores)
            left = float(attended.distance(context).max())
            if np.isfinite(left):
                found.append((left, len(found), form, scope))
    found.sort(key=lambda one: one[:2])
    for _, _, form, scope in found[:_OFFERED]:
        yield _alternative(attended, form, scope)


def prefix_alternatives(
    case: Case, attended: Attended, fed: FedTokens
) -> Iterator[Alternative]:
    """The nearest forms of the cache's first rows, however many, to the passes behind."""
    index, n = np.arange(len(fed.pass_of)), int(fed.last_of[0]) + 1
    found = sorted(prefix_forms(case, attended, fed), key=lambda one: one[0])
    for _, form, length in found[:_OFFERED]:
        reads = (index[:, None] >= n) & (index[None] < length) & attended.visible
        yield _alternative(attended, form, _Scope(words=prefix_words(length, fed), reads=reads))


def other_prompt_alternatives(
    case: Case, attended: Attended, fed: FedTokens
) -> Iterator[Alternative]:
    """Rows of the first pass that are other tokens', to the passes behind."""
    index, n = np.arange(len(fed.pass_of)), int(fed.last_of[0]) + 1
    form = rows_of_other_tokens(case, attended, n)
    if form is not None:
        behind = "to the passes behind" if fed.chunks else "to steps"
        reads = (index[:, None] >= n) & (index[None] < n) & attended.visible
        scope = _Scope(words=f"the {{rows}}, {behind},", reads=reads)
        yield _alternative(attended, form, scope)


def _alternative(attended: Attended, form: Form, scope: _Scope) -> Alternative:
    return Alternative(
        id=form.id,
        title=f"{scope.words.format(rows=form.rows)} {form.words}",
        output=_whole(attended, form, scope),
        parameters=form.numbers,
    )


def _scopes(fed: FedTokens) -> Iterator[tuple[str, Bool[np.ndarray, "T T"]]]:
    """The simpler first."""
    index = np.arange(len(fed.pass_of))
    query, key = index[:, None], index[None]
    by_step, of_step = fed.is_step[:, None], fed.is_step[None]
    read, wrote = fed.pass_of[:, None], fed.pass_of[None]
    yield "the {rows} of steps", of_step & (query >= key)
    yield "the {rows} of steps, but for a step's own,", of_step & (query > key)
    yield "the prompt's {rows}, to steps,", by_step & ~of_step
    yield "the {rows} that steps read", by_step & (query >= key)
    yield "the {rows} that steps read, but for a step's own,", by_step & (query > key)
    yield "a step's own {rows}, to itself,", by_step & (query == key)
    if not fed.chunks:
        return
    yield "the {rows} of the passes after the first", (wrote > 0) & (query >= 0)
    yield "the {rows} of later chunks", (wrote > 0) & ~of_step & (query >= 0)
    yield (
        "the {rows} of later chunks, to the passes behind,",
        (wrote > 0) & ~of_step & (read > wrote),
    )
    yield "the {rows} that a pass reads of those before it", read > wrote
    yield "the {rows} of the first pass, to those behind,", (wrote == 0) & (read > 0)
    yield "the {rows} that the passes after the first read", (read > 0) & (key >= 0)
    yield "the {rows} that later chunks read", (read > 0) & ~by_step & (key >= 0)
    for chunk in (fed.chunks[0], fed.chunks[-1])[: len(fed.chunks)]:
        of_chunk = (key >= chunk[0]) & (key <= chunk[-1])
        yield f"the {{rows}} of {fed.chunk_words(chunk)}", of_chunk & (query >= chunk[0])
        yield (
            f"the {{rows}} of {fed.chunk_words(chunk)}, to the passes behind,",
            of_chunk & (query > chunk[-1]),
        )


def _distinct(attended: Attended, fed: FedTokens) -> list[_Scope]:
    """Of those that find the same rows so, the first."""
    told: dict[bytes, _Scope] = {}
    for words, reads in _scopes(fed):
        found = reads & attended.visible
        if found.any():
            told.setdefault(found.tobytes(), _Scope(words=words, reads=found))
    return list(told.values())


def _is_likely(attended: Attended, scope: _Scope) -> bool:
    """Do the wrong queries, and hardly any other, find a row in the form?"""
    finds_T = scope.reads.any(axis=1)
    wrong_T = attended.ratios > 1
    return not (wrong_T & ~finds_T).any() and int((finds_T & ~wrong_T).sum()) <= _UNTOUCHED


def _happened_elsewhere(
    attended: Attended, form: Form, scope: _Scope, *, turns_unseen: bool
) -> bool:
    """Is it a query, or an operation that nobody recorded, that makes rows look so?"""
    if form.id == "rope-positions" and turns_unseen:
        return scope.words == "the {rows} of steps" or _is_all(attended, scope)
    gives_zeros = form.id == "cache-head" and bool(form.numbers) and form.v is not None
    return (form.heads is not None or gives_zeros) and _is_all(attended, scope)


def _is_all(attended: Attended, scope: _Scope) -> bool:
    """Do those that find a row in the form find all of theirs so?"""
    finds = scope.reads.any(axis=1)
    return bool((scope.reads == attended.visible)[finds].all())


def _sampled_scores(attended: Attended, form: Form) -> Float64[np.ndarray, "H N T"]:
    if form.k is None and form.q is None and form.heads is None:
        return attended.sampled_scores
    q = attended.q if form.q is None else form.q
    k = attended.k if form.k is None else form.k
    return np.stack(
        [
            attended.scores(q[attended.sample, head], k[:, kv_head])
            for head, kv_head in enumerate(form.heads or attended.heads)
        ]
    )


def _sampled_context(
    attended: Attended,
    form: Form,
    scope: _Scope,
    scores_HNT: Float64[np.ndarray, "H N T"],
) -> Float64[np.ndarray, "H N E"]:
    reads_NT, seen_NT = scope.reads[attended.sample], attended.visible[attended.sample]
    scores = np.where(reads_NT, scores_HNT, attended.sampled_scores)
    weights = weigh(np.where(seen_NT, scores, -np.inf))
    if form.v is None and form.heads is None:
        summed: np.ndarray = weights @ attended.sampled_values
        return summed
    v = attended.v if form.v is None else form.v
    values_HTE = v[:, list(form.heads or attended.heads)].swapaxes(0, 1)
    right = np.where(reads_NT, 0.0, weights) @ attended.sampled_values
    context: np.ndarray = right + np.where(reads_NT, weights, 0.0) @ values_HTE
    return context


def _whole(attended: Attended, form: Form, scope: _Scope) -> Float64[np.ndarray, "T W"]:
    """Of every query."""
    q = attended.q if form.q is None else form.q
    k = attended.k if form.k is None else form.k
    v = attended.v if form.v is None else form.v
    contexts = []
    for head, kv_head in enumerate(attended.heads):
        other = kv_head if form.heads is None else form.heads[head]
        scores = np.where(
            scope.reads,
            attended.scores(q[:, head], k[:, other]),
            attended.scores(attended.q[:, head], attended.k[:, kv_head]),
        )
        weights = attended.round_weights(weigh(np.where(attended.visible, scores, -np.inf)))
        contexts.append(
            np.where(scope.reads, 0.0, weights) @ attended.v[:, kv_head]
            + np.where(scope.reads, weights, 0.0) @ v[:, other]
        )
    return exact.join_heads(np.stack(contexts, axis=1))


_ONE = 1e-3
"""A factor as near to 1 is none."""


def _scaled(attended: Attended, form: Form, scope: _Scope) -> Iterator[Alternative]:
    """The same rows times one number, which is searched."""

    def times(factor: float) -> Form:
        changed = factor * getattr(attended, form.factor)
        return replace(form, **{form.factor: changed})

    def left(factor: float) -> float:
        one = times(factor)
        context = _sampled_context(attended, one, scope, _sampled_scores(attended, one))
        return float(attended.distance(context).sum())

    found = search_number(left, 1 / 64, 64.0)
    if abs(found - 1) < _ONE or left(found) > left(1.0) / 2:
        return
    if form.factor == "k" and _is_all(attended, scope):
        return  # it is the scores that are scaled
    for factor in dict.fromkeys((nice(found, 1), nice(found, 2), nice(found, 4), found)):
        one = replace(
            times(factor), words=f"are multiplied by {factor_text(factor)}", numbers=1
        )
        yield _alternative(attended, one, scope)
