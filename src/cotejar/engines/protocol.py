"""What every engine offers. Results are compared; engines are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cotejar.errors import ContextLengthError, EmptyPromptError, TokenIdError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from jaxtyping import Float

    from cotejar.trace.forward_trace import Capture, EngineInfo, ForwardTrace


class Engine(Protocol):
    """Runs one model in one numerics on one device."""

    @property
    def info(self) -> EngineInfo:
        """Which program, which arithmetic."""

    def trace(
        self, token_ids: Sequence[int], *, capture: Capture, prompt: str | None = None
    ) -> ForwardTrace:
        """Run the tokens from position 0 in one pass and record every site.

        Raises:
            EmptyPromptError, TokenIdError, ContextLengthError: ids that cannot be run.
        """


class SteppingEngine(Engine, Protocol):
    """An engine that can also trace what it computes from its KV cache."""

    def trace_steps(
        self,
        token_ids: Sequence[int],
        *,
        num_steps: int,
        capture: Capture,
        prompt: str | None = None,
    ) -> ForwardTrace:
        """Run all but the last `num_steps` tokens in one pass, then those one at a time.

        The trace has the sites and rows of `trace`, and its `passes` say how it was taken.

        Raises:
            EmptyPromptError, TokenIdError, ContextLengthError: as `trace`.
        """


class GeneratingEngine(Engine, Protocol):
    """An engine that can also continue a text."""

    def start(self) -> Session:
        """Begin an empty context."""


class Session(Protocol):
    """One growing context. Logits are float32, or float64 where the engine computes in it."""

    @property
    def num_tokens(self) -> int:
        """Tokens in the context so far."""

    def append(self, token_ids: Sequence[int]) -> Float[np.ndarray, "V"]:
        """Add tokens to the context; return the logits after the last of them."""

    def append_all(self, token_ids: Sequence[int]) -> Float[np.ndarray, "T V"]:
        """Add tokens to the context; return the logits after each of them."""


def check_token_ids(
    token_ids: Sequence[int], *, vocab_size: int, context_length: int, num_before: int = 0
) -> None:
    """Refuse ids that the model cannot run.

    Raises:
        EmptyPromptError: there are none.
        TokenIdError: an id is outside 0..vocab_size - 1.
        ContextLengthError: with the `num_before` that are there, they are too many.
    """
    if not token_ids:
        raise EmptyPromptError(
            "there is no token to run",
            where="prompt",
            expected="at least 1 token",
            found="0 tokens",
            hint="give a text with --prompt, or ids with --tokens",
        )
    for index, token in enumerate(token_ids):
        if not 0 <= token < vocab_size:
            raise TokenIdError(
                f"token id {token} is not in the vocabulary",
                where=f"token {index} of {len(token_ids)}",
                expected=f"0..{vocab_size - 1}",
                found=str(token),
                hint="were the ids made by another model's tokenizer?",
            )
    total = num_before + len(token_ids)
    if total > context_length:
        raise ContextLengthError(
            "the text is longer than the model's context",
            where="prompt",
            expected=f"at most {context_length} tokens",
            found=f"{total} tokens",
            hint="shorten the prompt, or ask for fewer tokens",
        )
