"""How many of a prompt's tokens are fed one at a time, over the KV cache.

One pass over a prompt cannot show what goes wrong behind the cache. A trace in steps has the
same sites and rows, but what a step attends to came out of the cache.
"""

from __future__ import annotations

from cotejar.errors import UsageError

MOST = 0
"""Asks for all tokens but the first few."""
FIRST_TOKENS = 4
"""Of the first pass, where the prompt is long enough to leave as many to be fed singly."""


def choose_steps(asked: int | None, num_tokens: int) -> int:
    """How many tokens, the last ones, are fed one at a time.

    Args:
        asked: how many somebody wants; `MOST`, or None for one pass over all.
        num_tokens: of the prompt.

    Raises:
        UsageError: no token would be left for the first pass.
    """
    if asked is None or num_tokens == 0:
        return 0
    if not 0 <= asked < num_tokens or num_tokens == 1:
        raise UsageError(
            "the prompt has too few tokens to feed so many of them one at a time",
            where="--decode",
            expected=f"1..{num_tokens - 1}: the first pass takes at least 1 token"
            if num_tokens > 1
            else "a prompt of at least 2 tokens",
            found=f"{asked}, and {num_tokens} tokens" if asked else f"{num_tokens} tokens",
            hint="give a longer prompt, or a smaller number",
        )
    return asked or num_tokens - min(FIRST_TOKENS, num_tokens // 2)
