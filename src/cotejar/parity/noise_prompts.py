"""What noise is measured over where nobody names a text: varied, since noise varies with it."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import NoTokenizerError, UnsupportedTokenizerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.model.language_model import LanguageModel

PROMPTS = (
    "What is 2+2?",
    "The capital of France is a city known for",
    "def fib(n):\n    if n < 2:\n        return n\n",
    "Q: 12345 * 6789 = ?\nA: 12345 times 6789 equals 83810205.",
    "Die Würde des Menschen ist unantastbar.",
    "北京是中华人民共和国的首都，也是一座历史悠久的城市。",  # noqa: RUF001 - Chinese has its own comma
    "🙂🙃 emoji, combining ñ é, and   many    spaces",
    "import numpy as np\nfor i in range(10):\n\tprint(i ** 2)  # tabs",
    "Hello",
    "SELECT name, COUNT(*) FROM users WHERE age > 30 GROUP BY name ORDER BY 2 DESC LIMIT 10;",
    "Once upon a time there was a small village at the foot of a mountain. Every morning the "
    "baker lit his oven before the sun came up, and the smell of bread woke the children. "
    "One day a stranger came along the road with a letter that nobody in the village could "
    "read, for it was written in a language that they had only heard in songs.",
)
"""Prose, code, digits, three languages, emoji, spaces; one token, and many."""

NUM_RANDOM_TOKENS = 24
"""Ids that make no text: users trace such, too."""


def token_lists(model: LanguageModel, prompts: Sequence[str] = ()) -> list[list[int]]:
    """The ids to run: of `prompts`, or else of `PROMPTS` and of ids that make no text.

    What is built in is cut to the model's context. A model without a tokenizer runs the ids
    alone.

    Raises:
        TokenizerError: prompts are given, and the model has no tokenizer for them.
    """
    if prompts:
        return [model.tokenizer.encode(prompt) for prompt in prompts]
    config = model.declared.config
    random = np.random.default_rng(0).integers(0, config.vocab_size, NUM_RANDOM_TOKENS)
    lists = [[1, 2, 3], [0], [int(i) for i in random]]
    with contextlib.suppress(NoTokenizerError, UnsupportedTokenizerError):
        lists = [model.tokenizer.encode(prompt) for prompt in PROMPTS] + lists
    in_vocabulary = [[i for i in ids if i < config.vocab_size] for ids in lists]
    return [ids[: config.context_length] for ids in in_vocabulary if ids]


def digest(token_ids: Sequence[int]) -> str:
    """SHA-256 of the ids in decimal, with commas between them."""
    return hashlib.sha256(",".join(map(str, token_ids)).encode()).hexdigest()
