"""Two lists of token ids that differ: a BOS too many or too few, a template, other tokens.

What differs here differs before anything is computed, so no operation can be blamed; the ids
alone say what happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_FEWEST_TOKENS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenCause:
    """How one list came of the other."""

    id: str
    title: str


def explain_tokens(right: Sequence[int], used: Sequence[int]) -> TokenCause | None:
    """How `used` came of `right`; None where they are equal or have nothing in common."""
    right, used = list(right), list(used)
    if right == used or not (right and used):
        return None
    return _moved(right, used) or _put_around(right, used) or _replaced(right, used)


def _moved(right: list[int], used: list[int]) -> TokenCause | None:
    """Tokens more or fewer at an end."""
    more = len(used) - len(right)
    if used[1:] == right:
        return TokenCause(
            id="bos-extra", title=f"one token too many in front, {used[0]} (a second BOS?)"
        )
    if used == right[1:]:
        return TokenCause(
            id="bos-missing", title=f"the first token, {right[0]}, is left out (the BOS?)"
        )
    if used == right[: len(used)]:
        return TokenCause(id="tokens-dropped", title=f"the last {-more} tokens are left out")
    if len(used) >= _FEWEST_TOKENS and used == right[-len(used) :]:
        title = f"the first {-more} tokens are cut off (truncated on the left?)"
        return TokenCause(id="tokens-dropped", title=title)
    if right == used[: len(right)]:
        return TokenCause(id="tokens-added", title=f"{more} tokens are added at the end")
    return None


def _put_around(right: list[int], used: list[int]) -> TokenCause | None:
    place = _inside(right, used)
    if place is not None:
        before, more = place
        return TokenCause(
            id="template",
            title=f"{more} tokens are put around the prompt, {before} of them before it "
            "(a chat template?)",
        )
    place = _inside(used, right)
    if place is None:
        return None
    before, more = place
    return TokenCause(
        id="template-missing",
        title=f"{more} tokens around the prompt are left out, {before} of them before it "
        "(a chat template?)",
    )


def _replaced(right: list[int], used: list[int]) -> TokenCause:
    if len(right) != len(used):
        return TokenCause(
            id="tokenizer",
            title=f"the text was cut into {len(used)} tokens, not {len(right)}: another "
            "tokenizer or pre-tokenizer?",
        )
    wrong = [i for i, (a, b) in enumerate(zip(right, used, strict=True)) if a != b]
    i = wrong[0]
    return TokenCause(
        id="tokens",
        title=f"{len(wrong)} of {len(right)} tokens are others, the first token {i}: "
        f"{used[i]}, not {right[i]}",
    )


def _inside(part: Sequence[int], whole: Sequence[int]) -> tuple[int, int] | None:
    """How many tokens of `whole` stand before `part`, and around it.

    The first token of `part` may be a BOS that the other has elsewhere or not at all.
    """
    for core in (part, part[1:]):
        if len(core) < _FEWEST_TOKENS:
            continue
        for start in range(len(whole) - len(core) + 1):
            if whole[start : start + len(core)] == core:
                return start, len(whole) - len(core)
    return None
