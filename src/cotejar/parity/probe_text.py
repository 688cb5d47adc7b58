"""A text to probe with, as long as it must be."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cotejar.tokenizer.tokenizer import Tokenizer

PIECES = (
    "The capital of France is a city known for its river.",
    " Q: 12345 * 6789 = ?  A: 83810205.",
    "\ndef fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n",
    "Die Würde des Menschen ist unantastbar.",
    " 北京是中华人民共和国的首都。",
    " One day a stranger came along the road with a letter that nobody could read;",
    " naïve café, ñandú 🙂 and   many    spaces.\n",
    "SELECT name, COUNT(*) FROM users WHERE age > 30 GROUP BY name;\n",
)
"""Prose, digits, code, letters beyond ASCII, runs of spaces: what tokenizers part over."""


def longer_prompt(tokenizer: Tokenizer, prompt: str, num_tokens: int) -> tuple[str, list[int]]:
    """The prompt, continued until it has at least so many tokens; and its ids.

    A piece of text has at least one token, so the loop ends. Each round begins with its
    number, so that no two are the same.

    Raises:
        TokenizerError: the vocabulary cannot spell the text.
    """
    text, ids, index = prompt, tokenizer.encode(prompt), 0
    tokens_a_round = max(1, len(tokenizer.encode("".join(PIECES), add_special=False)))
    while len(ids) < num_tokens:
        # Whole rounds first: to encode all anew for each piece would take quadratic time.
        rounds = (num_tokens - len(ids)) // tokens_a_round
        for _ in range(max(1, rounds * len(PIECES))):
            number, place = divmod(index, len(PIECES))
            text += PIECES[place] if place else f" {number + 1}. {PIECES[0]}"
            index += 1
        text = text if prompt else text.lstrip()
        ids = tokenizer.encode(text)
    return text, ids
