"""Which keys a query really saw: chunks, prefixes, misplaced masks, overwritten slots.

A pattern of one or two numbers is searched over all of them; failing that, the keys of each
wrong query are recovered one query at a time. A slot of the cache that holds another token,
or nothing, is searched over all slots and tokens.

Shape letters: T tokens, N sampled queries, H heads, E head size.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.attention.attended import Attended, weigh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Bool

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


_AS_NEAR = 1.01
"""Times the least distance: as near as that."""

_Pattern: TypeAlias = tuple[str, str, int, "Callable[[np.ndarray, np.ndarray], np.ndarray]"]
"""Id, title, numbers fitted, and which keys queries (N, 1) see of keys (1, T)."""


def mask_kinds(tokens: int) -> dict[str, list[_Pattern]]:
    """Every pattern with every number, by kind; a window, where there is one, stays."""
    found: dict[str, list[_Pattern]] = {}
    for n in _numbers(tokens):
        patterns: list[_Pattern] = [
            (
                "mask-chunks",
                f"a token sees its own chunk of {n} tokens alone",
                1,
                partial(_in_chunk, n=n),
            ),
            (
                "mask-prefix",
                f"the first {n} tokens see each other, those after them too (a prefix)",
                1,
                partial(_in_prefix, n=n),
            ),
            (
                "mask-top-left",
                f"the mask of the tokens from {n} on starts at key 0: it is aligned top left",
                1,
                partial(_from_the_corner, n=n),
            ),
            (
                "mask-no-past",
                f"the tokens from {n} on do not see those before (a chunk without its past)",
                1,
                partial(_without_past, n=n),
            ),
            (
                "mask-key-hidden",
                f"later tokens do not see token {n}",
                1,
                partial(_but_for_key, n=n),
            ),
            *_of_blocks(n),
        ]
        for number, pattern in enumerate([*patterns, *_with_sinks(n)]):
            found.setdefault(f"{pattern[0]} {number}", []).append(pattern)
    return found


def _of_blocks(n: int) -> list[_Pattern]:
    """Blocks that are whole, or that look one block back; keys at a stride."""
    found: list[_Pattern] = [
        (
            "mask-blocks",
            f"a token sees its whole block of {n} tokens, those after it too",
            1,
            partial(_to_the_end_of_its_block, n=n),
        ),
        (
            "mask-chunks",
            f"a token sees its own chunk of {n} tokens and the one before",
            1,
            partial(_in_two_chunks, n=n),
        ),
        (
            "mask-stride",
            f"a token sees itself and those {n}, {2 * n}, {3 * n} ... before it alone",
            1,
            partial(_at_a_stride, n=n),
        ),
    ]
    return found[: 2 if n == 1 else 3]  # one block of one is the causal mask


def _first(sinks: int) -> str:
    return "the first token" if sinks == 1 else f"the first {sinks} tokens"


def _with_sinks(n: int) -> list[_Pattern]:
    """A window, or a block at the end, that sees the first tokens as well."""
    return [
        (
            "mask-no-past",
            f"the tokens from {n} on see themselves and {_first(sinks)} alone",
            2,
            partial(_without_past, n=n, sinks=sinks),
        )
        for sinks in _SINKS
    ] + [
        (
            "window-sinks",
            f"a token sees a window of {n} and {_first(sinks)}",
            2,
            partial(_window_and_sinks, n=n, sinks=sinks),
        )
        for sinks in _SINKS
    ]


def _in_chunk(query: np.ndarray, key: np.ndarray, *, n: int) -> np.ndarray:
    seen: np.ndarray = (key <= query) & (query // n == key // n)
    return seen


def _in_prefix(query: np.ndarray, key: np.ndarray, *, n: int) -> np.ndarray:
    seen: np.ndarray = (key <= query) | ((query < n) & (key < n))
    return seen


def _from_the_corner(query: np.ndarray, key: np.ndarray, *, n: int) -> np.ndarray:
    return np.where(query >= n, key <= query - n, key <= query)


def _without_past(query: np.ndarray, key: np.ndarray, *, n: int, sinks: int = 0) -> np.ndarray:
    seen: np.ndarray = (key <= query) & ((query < n) | (key >= n) | (key < sinks))
    return seen


def _to_the_end_of_its_block(query: np.ndarray, key: np.ndarray, *, n: int) -> np.ndarray:
    seen: np.ndarray = (key <= query) | (query // n == key // n)
    return seen


def _in_two_chunks(query: np.ndarray, key: np.ndarray, *, n: int) -> np.ndarray:
    seen: np.ndarray = (key <= query) & (query // n - key // n <= 1)
    return seen


def _at_a_stride(query: np.ndarray, key: np.ndarray, *, n: int) -> np.ndarray:
    seen: np.ndarray = (key <= query) & ((query - key) % n == 0)
    return seen


def _but_for_key(query: np.ndarray, key: np.ndarray, *, n: int) -> np.ndarray:
    seen: np.ndarray = (key <= query) & ((key != n) | (query == n))
    return seen


def _window_and_sinks(query: np.ndarray, key: np.ndarray, *, n: int, sinks: int) -> np.ndarray:
    seen: np.ndarray = (key <= query) & ((query - key < n) | (key < sinks))
    return seen


def _patterns(attended: Attended) -> Iterator[Alternative]:
    """The best of every kind."""
    tokens, window = len(attended.q), attended.step.window
    key = np.arange(tokens)[None, :]
    right = np.setdiff1d(np.arange(tokens), attended.wrong)

    def visible(pattern: _Pattern, query: np.ndarray) -> np.ndarray:
        seen = pattern[3](query[:, None], key)
        if window is not None and pattern[0] != "window-sinks":
            seen = seen & (query[:, None] - key < window)
        return seen

    for patterns in mask_kinds(tokens).values():
        left = [float(attended.left(visible(p, attended.sample)).max()) for p in patterns]
        near = [p for p, off in zip(patterns, left, strict=True) if off <= _AS_NEAR * min(left)]
        # Of those that explain the wrong queries, the one that leaves the right ones alone.
        seen = attended.visible[right]
        best = min(
            near or patterns,
            key=lambda one: int((visible(one, right) != seen).any(axis=1).sum()),
        )
        id_, title, numbers, _ = best
        yield Alternative(
            id=id_,
            title=title,
            output=attended.output(visible_TT=visible(best, np.arange(tokens))),
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
        slot, source = best_slot(attended, which)
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


def best_slot(attended: Attended, which: str) -> tuple[int, int]:
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
        off = attended.size((wanted[:, None] - context).swapaxes(0, 1))
        off[slot] = np.inf
        source = int(off.argmin())
        if off[source] < least:
            best, least = (slot, source), float(off[source])
    return best
