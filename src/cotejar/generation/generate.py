"""The token loop: text in, tokens out as they are made."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cotejar.errors import UsageError
from cotejar.generation.finite import require_finite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from cotejar.engines.protocol import GeneratingEngine
    from cotejar.generation.sampler import Sampler


@dataclass(kw_only=True)
class Generation:
    """What one run of the loop made."""

    prompt_ids: tuple[int, ...]
    token_ids: list[int] = field(default_factory=list)
    seconds: float = 0.0
    """From the first prompt token to the last generated one."""
    ended: bool = False
    """Did the model end the text, or the limit?"""

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens over the whole time, the prompt's included."""
        return len(self.token_ids) / self.seconds if self.seconds > 0 else 0.0


def generate(
    engine: GeneratingEngine,
    prompt_ids: Sequence[int],
    *,
    sampler: Sampler,
    max_tokens: int,
    end_ids: AbstractSet[int],
    on_token: Callable[[int], None] = lambda _: None,
) -> Generation:
    """Continue the prompt until an end token or `max_tokens`; the end token is not kept.

    `on_token` is called with each token as soon as it is chosen.

    Raises:
        UsageError: `max_tokens` is below 1.
        ModelError: the logits are not finite.
        EmptyPromptError, TokenIdError, ContextLengthError: as the engine finds.
    """
    if max_tokens < 1:
        raise UsageError(
            "there is nothing to generate",
            where="--max-tokens",
            expected="at least 1",
            found=str(max_tokens),
            hint="to look at a prompt alone use `apr trace`",
        )
    made = Generation(prompt_ids=tuple(prompt_ids))
    start = time.perf_counter()
    for token in _tokens(engine, prompt_ids, sampler):
        if token in end_ids:
            made.ended = True
            break
        made.token_ids.append(token)
        made.seconds = time.perf_counter() - start
        on_token(token)
        if len(made.token_ids) == max_tokens:
            break
    made.seconds = time.perf_counter() - start
    return made


def _tokens(
    engine: GeneratingEngine, prompt_ids: Sequence[int], sampler: Sampler
) -> Iterator[int]:
    session = engine.start()
    history = list(prompt_ids)
    logits_V = session.append(prompt_ids)
    while True:
        require_finite(logits_V, f"logits after token {session.num_tokens - 1}")
        token = sampler.choose(logits_V, history)
        yield token
        history.append(token)
        logits_V = session.append([token])
