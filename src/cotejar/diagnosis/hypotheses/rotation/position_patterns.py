"""Ways in which whole positions go wrong that have a name: backwards, in turn, halved, again.

Shape letters: T tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Int

_DIVISORS = (2, 3, 4, 8)
_JUMPS = (-2, -1, 1, 2, 3)


def position_patterns(tokens: int) -> Iterator[tuple[str, Int[np.ndarray, "T"]]]:
    """What is said of them, and the positions; the right ones are not among them."""
    index_T = np.arange(tokens)
    yield f"they run backwards from {tokens - 1}", tokens - 1 - index_T
    for divisor in _DIVISORS:
        if divisor < tokens:
            yield f"they are divided by {divisor} and rounded down", index_T // divisor
    for n in range(1, tokens):
        yield (
            f"they begin again at 0 from token {n} on",
            np.where(index_T < n, index_T, index_T - n),
        )
    for n in range(2, tokens // 2 + 1):
        yield f"they begin again at 0 every {n} tokens", index_T % n
    for n in range(tokens - 1):
        yield f"they stop at {n}", np.minimum(index_T, n)
    for jump in _JUMPS:
        for n in range(max(1, -jump), tokens):
            far = f"{abs(jump)} {'later' if jump > 0 else 'earlier'}"
            yield f"they are {far} from token {n} on", index_T + jump * (index_T >= n)


def pattern_words(found_T: Int[np.ndarray, "T"]) -> str:
    """`: they stop at 8`, of positions that have a name; else nothing."""
    for words, positions_T in position_patterns(len(found_T)):
        if np.array_equal(positions_T, found_T):
            return f": {words}"
    return ""
