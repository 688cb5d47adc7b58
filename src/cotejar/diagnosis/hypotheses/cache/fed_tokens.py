"""How the tokens of a trace were fed: passes, later chunks of the prompt, steps.

Shape letters: T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

    from cotejar.diagnosis.case import Case


@dataclass(frozen=True, kw_only=True, eq=False)
class FedTokens:
    """Which pass each token was fed in."""

    pass_of: Int[np.ndarray, "T"]
    """The number of each token's pass."""
    first_step: int
    """Of the tokens that were fed one at a time behind all others; T for none."""

    @classmethod
    def of(cls, case: Case) -> FedTokens | None:
        """As the trace says; None where it does not, or where there was one pass."""
        trace, tokens = case.observed.trace, len(case.recorded)
        if len(trace.passes) < 2 or sum(trace.passes) != tokens:  # noqa: PLR2004 - one pass
            return None
        pass_of = np.repeat(np.arange(len(trace.passes)), trace.passes)
        return cls(pass_of=pass_of, first_step=tokens - trace.num_steps)

    @cached_property
    def is_step(self) -> Bool[np.ndarray, "T"]:
        """Was the token fed alone, behind the prompt?"""
        steps: np.ndarray = np.arange(len(self.pass_of)) >= self.first_step
        return steps

    @cached_property
    def start_of(self) -> Int[np.ndarray, "T"]:
        """The first token of each one's pass."""
        starts: np.ndarray = np.searchsorted(self.pass_of, self.pass_of)
        return starts

    @cached_property
    def last_of(self) -> Int[np.ndarray, "T"]:
        """The last token of each one's pass."""
        ends: np.ndarray = np.searchsorted(self.pass_of, self.pass_of, side="right") - 1
        return ends

    @cached_property
    def chunks(self) -> list[range]:
        """Tokens of each later chunk of the prompt, in turn."""
        last = int(self.pass_of[self.first_step - 1])
        ends = np.searchsorted(self.pass_of, np.arange(last + 2))
        return [range(int(ends[i]), int(ends[i + 1])) for i in range(1, last + 1)]

    def chunk_words(self, chunk: range) -> str:
        """Of one of them, for a title."""
        if len(chunk) == 1:
            return f"the chunk of token {chunk[0]}"
        return f"the chunk of tokens {chunk[0]} to {chunk[-1]}"
