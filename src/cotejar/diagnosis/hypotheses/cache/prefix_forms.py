"""The cache's first rows in another form: a prefix that was reused, or moved, or cleared.

Whose rows a prefix ends with is not known. Of a softmax the sums above and below run over the
rows: with the first m of them in the form and the others as they are, they are two running
sums, so that every m is tried at once.

Shape letters: T tokens, N sampled queries, H heads, E head size, M lengths of a prefix.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.hypotheses.cache.row_forms import WHICH, Form, every_form
from cotejar.diagnosis.operations import Rotate
from cotejar.trace.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case
    from cotejar.diagnosis.hypotheses.attention.attended import Attended
    from cotejar.diagnosis.hypotheses.cache.fed_tokens import FedTokens

_FARTHEST = 64
"""Positions by which keys may stand elsewhere."""
_SAMPLED = 3
"""Queries at which lengths are told apart."""


def prefix_forms(
    case: Case, attended: Attended, fed: FedTokens
) -> Iterator[tuple[float, Form, int]]:
    """How far the best prefix in each form is from what was recorded, and its length.

    Of a prefix that is the whole first pass those forms alone that `every_form` has not.
    """
    n = int(fed.last_of[0]) + 1
    places = np.unique(np.linspace(0, len(attended.sample) - 1, _SAMPLED).astype(int))
    places = places[attended.sample[places] >= n]
    if not len(places):
        return
    own = [*_zeros(attended), *_moved(case, attended)]
    for form in (*own, *every_form(case, attended)):
        if form.factor or form.heads is not None:
            continue
        left_M = _left(attended, form, places, n)
        left_M = left_M if form in own else left_M[:-1]
        if len(left_M) and np.isfinite(left_M.min()):
            length = int(left_M.argmin()) + 1
            numbers = form.numbers + int(length < n)
            yield float(left_M.min()), replace(form, numbers=numbers), length


def prefix_words(length: int, fed: FedTokens) -> str:
    """Which rows, for a title."""
    behind = "to the passes behind," if fed.chunks else "to steps,"
    if length == int(fed.last_of[0]) + 1:
        return "the {rows} of the first pass, to those behind,"
    if length == 1:
        return f"the {{rows}} of token 0, {behind}"
    return f"the {{rows}} of the first {length} tokens, {behind}"


def _zeros(attended: Attended) -> Iterator[Form]:
    for which, rows in WHICH:
        yield Form(
            id="cache-slots-unwritten",
            rows=rows,
            words="are zeros",
            k=np.zeros_like(attended.k) if "k" in which else None,
            v=np.zeros_like(attended.v) if "v" in which else None,
        )


def _moved(case: Case, attended: Attended) -> Iterator[Form]:
    """Keys that stand where they stood in another text, and were not turned back."""
    turn = case.observed.truth.operations.get(str(Site("k_rope", case.operation.site.layer)))
    if turn is None or not isinstance(turn.step, Rotate):
        return
    one_TP = np.tile(np.array(turn.step.frequencies), (len(attended.k), 1))
    for shift in (d for far in range(1, _FARTHEST + 1) for d in (far, -far)):
        far = f"{abs(shift)} position{'s' if abs(shift) > 1 else ''}"
        yield Form(
            id="rope-positions",
            rows="keys",
            words=f"are turned as if {far} {'later' if shift > 0 else 'earlier'}",
            k=exact.turn(attended.k, shift * one_TP),
            numbers=1,
        )


def _left(
    attended: Attended, form: Form, places: np.ndarray, n: int
) -> Float64[np.ndarray, "M"]:
    """Of the sampled query that is furthest off, with the first 1 to n rows in the form."""
    queries, heads = attended.sample[places], list(attended.heads)
    seen_NT = attended.visible[queries]
    right_HNT = np.where(seen_NT, attended.sampled_scores[:, places], -np.inf)
    other_HNT = right_HNT
    if form.k is not None or form.q is not None:
        q = (attended.q if form.q is None else form.q)[queries]
        k = attended.k if form.k is None else form.k
        pairs = enumerate(heads)
        scores = [attended.scores(q[:, head], k[:, kv_head]) for head, kv_head in pairs]
        other_HNT = np.where(seen_NT, np.stack(scores), -np.inf)
    v = attended.v if form.v is None else form.v
    values_HTE = v[:, heads].swapaxes(0, 1)
    greatest = np.maximum(right_HNT.max(axis=2), other_HNT.max(axis=2))[..., None]
    right_HNT, other_HNT = np.exp(right_HNT - greatest), np.exp(other_HNT - greatest)
    right_above = np.einsum("hnt,hte->hnte", right_HNT, attended.sampled_values)
    other_above = np.einsum("hnt,hte->hnte", other_HNT[..., :n], values_HTE[:, :n])
    below = right_HNT.sum(axis=2)[..., None] + np.cumsum(
        other_HNT[..., :n] - right_HNT[..., :n], axis=2
    )
    above = right_above.sum(axis=2)[:, :, None] + np.cumsum(
        other_above - right_above[:, :, :n], axis=2
    )
    context_NMHE = (above / below[..., None]).transpose(1, 2, 0, 3)
    wanted_NHE = attended.recorded[queries]
    off = wanted_NHE[:, None] - context_NMHE
    size_N1 = np.maximum(attended.size(wanted_NHE), 1e-300)[:, None]
    off_NM = attended.size(off.reshape(-1, *off.shape[2:])).reshape(off.shape[:2])
    left_M: np.ndarray = (off_NM / size_N1).max(axis=0)
    return left_M
