"""Which keys a query really saw: chunks, prefixes, misplaced masks, overwritten slots.

A pattern of one or two numbers is searched over all of them; failing that, the keys of each
wrong query are recovered one query at a time. A slot of the cache that holds another token,
or nothing, is searched over all slots and tokens.

Shape letters: T tokens, N sampled queries, H heads, E head size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.attended import Attended, weigh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Bool, Int

    from cotejar.diagnosis.case import Case

_SINKS = (1, 2, 4)
_MOST_TRIED = 256
"""Values of one number of a pattern; of a longer prompt, those near its ends."""
_FEW_QUERIES = 12
"""Wrong queries whose keys are recovered one by one."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site that is the weighted sum of values."""
    attended = Attended.of(case)
    if attended is None or len(attended.q) < 2:  # noqa: PLR2004 - nothing to hide
        return
    yield from _patterns(attended)
    yield from _one_by_one(attended)
    yield from _slots(attended)


def _numbers(tokens: int) -> list[int]:
    every = list(range(1, tokens))
    half = _MOST_TRIED // 2
    return every if len(every) <= _MOST_TRIED else every[:half] + every[-half:]


def _masks(
    tokens: int, right: Bool[np.ndarray, "T T"], query: Int[np.ndarray, "N"]
) -> Iterator[tuple[str, str, str, int, Bool[np.ndarray, "N T"]]]:
    """Kind, id, title, numbers fitted, and what those queries see."""
    q, key = query[:, None], np.arange(tokens)[None, :]
    causal, own = key <= q, right[query]
    for n in _numbers(tokens):
        if n > 1:
            title = f"a token sees its own chunk of {n} tokens alone"
            yield "chunk", "mask-chunks", title, 1, own & (q // n == key // n)
            title = f"the first {n} tokens see each other, those after them too (a prefix)"
            yield "prefix", "mask-prefix", title, 1, own | ((q < n) & (key < n))
        title = f"the mask of the tokens from {n} on starts at key 0: it is aligned top left"
        yield "corner", "mask-top-left", title, 1, np.where(q >= n, own & (key <= q - n), own)
        title = f"the tokens from {n} on do not see those before (a chunk without its past)"
        yield "past", "mask-no-past", title, 1, own & ((q < n) | (key >= n))
        title = f"later tokens do not see token {n}"
        yield "hidden", "mask-key-hidden", title, 1, own & ((key != n) | (q == n))
        for sinks in _SINKS:
            title = f"a token sees a window of {n} and the first {sinks}"
            seen = causal & ((q - key < n) | (key < sinks))
            yield f"sinks {sinks}", "window-sinks", title, 2, seen


def _patterns(attended: Attended) -> Iterator[Alternative]:
    """The best of every kind."""
    best: dict[str, tuple[float, str]] = {}
    tokens = len(attended.q)
    for kind, _, title, _, seen in _masks(tokens, attended.visible, attended.sample):
        left = float(attended.left(seen).max())
        if kind not in best or left < best[kind][0]:
            best[kind] = (left, title)
    titles = {title for _, title in best.values()}
    every = np.arange(tokens)
    for _, id_, title, numbers, seen in _masks(tokens, attended.visible, every):
        if title in titles:
            yield Alternative(
                id=id_,
                title=title,
                output=attended.output(visible_TT=seen),
                parameters=numbers,
            )


def _one_by_one(attended: Attended) -> Iterator[Alternative]:
    """The keys of each wrong query: a run of keys, or the right ones and one more or less."""
    wrong, tokens = attended.wrong, len(attended.q)
    if not 0 < len(wrong) <= _FEW_QUERIES or tokens > _MOST_TRIED:
        return
    visible, said = attended.visible.copy(), []
    for query in wrong.tolist():
        right = attended.visible[query]
        seen, words = _recover(attended, query, right)
        visible[query] = seen
        said.append(f"token {query} sees {words}")
    yield Alternative(
        id="mask-keys",
        title="a mask of some tokens is wrong: " + ", ".join(said[:3]),
        output=attended.output(visible_TT=visible),
        parameters=2 * len(wrong),
    )


def _recover(
    attended: Attended, query: int, right: Bool[np.ndarray, "T"]
) -> tuple[Bool[np.ndarray, "T"], str]:
    tokens = len(right)
    index = np.arange(tokens)
    masks = [(right ^ (index == key)) for key in range(tokens)]
    words = [f"not key {key}" if right[key] else f"key {key} as well" for key in range(tokens)]
    for last in range(tokens):
        for first in {0, *range(max(0, last - 32), last + 1)}:
            masks.append((index >= first) & (index <= last))
            words.append(f"keys {first} to {last}")
    scores = np.stack(
        [
            attended.scores(attended.q[query : query + 1, head], attended.k[:, kv_head])[0]
            for head, kv_head in enumerate(attended.heads)
        ]
    )
    best, least = 0, np.inf
    for number, mask in enumerate(masks):
        weights = weigh(np.where(mask, scores, -np.inf))
        context = np.einsum("ht,hte->he", weights, attended.sampled_values)
        off = float(np.linalg.norm(attended.recorded[query] - context))
        if off < least:
            best, least = number, off
    return masks[best], words[best]


# --- slots of the cache ----------------------------------------------------------------


def _slots(attended: Attended) -> Iterator[Alternative]:
    """One slot of keys, values or both holds another token's, or zeros."""
    tokens = len(attended.q)
    if tokens > _MOST_TRIED:
        return
    for which in ("k", "v", "kv"):
        slot, source = _best_slot(attended, which)
        rows = {name: getattr(attended, name).copy() for name in which}
        for array in rows.values():
            array[slot] = 0.0 if source == tokens else array[source]
        names = " and ".join("keys" if name == "k" else "values" for name in which)
        what = "are 0" if source == tokens else f"are those of token {source}"
        yield Alternative(
            id="cache-slot",
            title=f"the {names} of token {slot} in the cache {what}",
            output=attended.output(**rows),
            parameters=1 if source == tokens else 2,
        )


def _best_slot(attended: Attended, which: str) -> tuple[int, int]:
    """Slot and token (or T, for zeros) that leave least at one wrong query.

    Of the softmax's sums below and above, the slot's own part is taken out and another's put
    in: every pair of slot and token at once.
    """
    place = len(attended.sample) - 1
    query = int(attended.sample[place])
    scores = attended.sampled_scores[:, place]
    seen = np.flatnonzero(attended.visible[query])
    greatest = np.maximum(scores.max(axis=1, keepdims=True), 0.0)
    size = np.exp(np.concatenate([scores, np.zeros((len(scores), 1))], axis=1) - greatest)
    values = attended.sampled_values
    values = np.concatenate([values, np.zeros_like(values[:, :1])], axis=1)
    below = size[:, seen].sum(axis=1)
    above = np.einsum("ht,hte->he", size[:, seen], values[:, seen])
    wanted = attended.recorded[query]
    best, least = (int(seen[0]), 0), np.inf
    for slot in seen.tolist():
        own = size[:, slot : slot + 1]
        new = size if "k" in which else np.broadcast_to(own, size.shape)
        put = (
            values
            if "v" in which
            else np.broadcast_to(values[:, slot : slot + 1], values.shape)
        )
        total = (below[:, None] - own + new)[..., None]
        removed = own[..., None] * values[:, slot : slot + 1]
        context = (above[:, None] - removed + new[..., None] * put) / total
        off = np.linalg.norm(wanted[:, None] - context, axis=(0, 2))
        off[slot] = np.inf
        source = int(off.argmin())
        if off[source] < least:
            best, least = (slot, source), float(off[source])
    return best
