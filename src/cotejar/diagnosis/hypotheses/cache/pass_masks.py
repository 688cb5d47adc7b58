"""Masks that go wrong where a prompt comes in chunks: offsets, chunks as if they were alone.

Shape letters: T tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Bool

    from cotejar.diagnosis.hypotheses.attention.attended import Attended
    from cotejar.diagnosis.hypotheses.cache.fed_tokens import FedTokens

_BLOCKS = (2, 4, 8, 16, 32, 64)
_OFFERED = 4
"""The nearest, which are computed whole."""


def mask_alternatives(attended: Attended, fed: FedTokens) -> Iterator[Alternative]:
    """Of all later chunks, of the first wrong one from it on or alone, and of all passes."""
    found: list[tuple[float, int, str, Bool[np.ndarray, "T T"], str]] = []
    for who, ones, queries_T in _readers(attended, fed):
        for id_, words, seen_TT in _patterns(attended, fed):
            visible = np.where(queries_T[:, None], seen_TT, attended.visible)
            if (visible == attended.visible).all():
                continue
            left = float(attended.left(visible[attended.sample]).max())
            title = words.format(who=who, its=ones)
            found.append((left, len(found), id_, visible, title))
    found.sort(key=lambda one: one[:2])
    for _, _, id_, visible, title in found[:_OFFERED]:
        yield Alternative(id=id_, title=title, output=attended.output(visible_TT=visible))


def _readers(
    attended: Attended, fed: FedTokens
) -> Iterator[tuple[str, str, Bool[np.ndarray, "T"]]]:
    """Whose mask is wrong: in words, what one of them is, and which tokens."""
    first = int(attended.wrong[0])
    later = (fed.pass_of > 0) & ~fed.is_step
    if later.any():
        yield "a later chunk of the prompt", "chunk", later
    if fed.is_step.any():
        both = later.any()
        yield "a pass after the first" if both else "a step", "pass", fed.pass_of > 0
    for chunk in fed.chunks:
        if first in chunk and len(fed.chunks) > 1:
            index = np.arange(len(fed.pass_of))
            within = (index >= chunk[0]) & (index <= chunk[-1])
            yield fed.chunk_words(chunk), "chunk", within


def _patterns(
    attended: Attended, fed: FedTokens
) -> Iterator[tuple[str, str, Bool[np.ndarray, "T T"]]]:
    """Id, title, and which keys are seen; a window stays but where it is what is wrong."""
    index = np.arange(len(fed.pass_of))
    query, key, start = index[:, None], index[None], fed.start_of[:, None]
    right, window = attended.visible, attended.step.window
    same = fed.pass_of[:, None] == fed.pass_of[None]
    before = key < start
    yield (
        "mask-prefix",
        "{who} is not masked: its tokens see those behind them in the same {its} too",
        right | same,
    )
    yield (
        "mask-no-past",
        "{who} sees itself alone, not the tokens before it",
        right & same,
    )
    yield (
        "mask-top-left",
        "the mask of {who} leaves out where it starts: its token i sees keys 0 to i",
        right & (key <= query - start),
    )
    yield (
        "mask-no-past",
        "a token of {who} sees the tokens before that {its} and itself alone",
        right & (before | (query == key)),
    )
    yield (
        "mask-off-by-one",
        "{who} does not see the last token before it",
        right & (key != start - 1),
    )
    yield "mask-no-past", "{who} sees the tokens before it alone", right & before
    yield (
        "mask-no-past",
        "{who} does not see the first pass",
        right & (key >= np.searchsorted(fed.pass_of, 1)),
    )
    yield (
        "mask-no-past",
        "{who} sees itself and the pass before it alone",
        right & (fed.pass_of[:, None] - fed.pass_of[None] <= 1),
    )
    yield from _of_blocks(attended, fed)
    if window is None:
        return
    yield (
        "window-missing",
        f"{{who}} has no window and ought to have one of {window}",
        (key <= query),
    )
    by_step = fed.is_step[:, None]
    if fed.is_step.any():
        yield (
            "window",
            f"the window of {window} stays where it was at token {fed.first_step}: it does "
            "not move with {who}",
            np.where(
                fed.is_step[:, None], (key <= query) & (key > fed.first_step - window), right
            ),
        )
        yield (
            "window-sinks",
            f"{{who}} sees token 0 beside its window of {window}",
            np.where(by_step, right | (key == 0), right),
        )
    yield (
        "window",
        f"the window of {window} is counted back from the first token of {{who}}, for all "
        "its tokens",
        (key <= query) & (key > start - window),
    )
    yield (
        "window",
        f"the window of {window} holds for the tokens before {{who}} alone, counted from its "
        "last token",
        (key <= query) & (key > fed.last_of[:, None] - window),
    )


def _of_blocks(
    attended: Attended, fed: FedTokens
) -> Iterator[tuple[str, str, Bool[np.ndarray, "T T"]]]:
    """Slots that are read by whole blocks, where the last one is not full."""
    index = np.arange(len(fed.pass_of))
    query, key, right = index[:, None], index[None], attended.visible
    by_step = fed.is_step[:, None]
    for size in _BLOCKS:
        full = right & (key < (query + 1) // size * size)
        words = (
            f"{{who}} sees whole blocks of {size} slots alone, not the last that is not full"
        )
        yield "mask-blocks", words, np.where(by_step, full, right)
        yield (
            "mask-blocks",
            f"{words}, but for itself",
            np.where(by_step, full | (query == key), right),
        )
