"""From logits to the next token.

    logits -> biases -> penalties -> constraint -> filters and temperature -> draw

docs/sampling.md sets the order and the defaults beside llama.cpp's and Hugging Face's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from cotejar.errors import ModelError, TokenIdError
from cotejar.generation import filters
from cotejar.generation.filters import Candidates
from cotejar.generation.sampling_options import SamplingOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float32, Float64


class Constraint(Protocol):
    """Says which tokens a grammar allows next, and follows what was chosen."""

    def allowed(self) -> Bool[np.ndarray, "V"]:
        """True where a token may come next."""

    def accept(self, token: int) -> None:
        """A token was chosen."""


class Sampler:
    """Greedy at temperature 0; above it, a draw from what the filters leave."""

    def __init__(
        self, options: SamplingOptions | None = None, *, constraint: Constraint | None = None
    ) -> None:
        self.options = options or SamplingOptions()
        self._constraint = constraint
        self._random = np.random.default_rng(self.options.seed)

    def choose(self, logits_V: Float32[np.ndarray, "V"], history: Sequence[int] = ()) -> int:
        """The next token; of equally likely ones greedy takes the lowest id.

        Args:
            logits_V: after the last token.
            history: every token so far, the prompt's included; penalties look at it.

        Raises:
            TokenIdError: a bias names a token that the model has not.
            ModelError: biases and constraint leave no token.
        """
        adjusted_V = self.adjust(logits_V, history)
        if self.options.temperature == 0:
            token = int(adjusted_V.argmax())
        else:
            token = self._draw(self.narrow(adjusted_V))
        if self._constraint is not None:
            self._constraint.accept(token)
        return token

    def adjust(
        self, logits_V: Float32[np.ndarray, "V"], history: Sequence[int]
    ) -> Float32[np.ndarray, "V"]:
        """The logits with biases and penalties, -inf where the constraint forbids."""
        options = self.options
        if not self._changes:
            return logits_V
        adjusted_V = logits_V.copy()
        for token, bias in options.logit_bias:
            if token >= adjusted_V.size:
                raise TokenIdError(
                    f"token id {token} is not in the vocabulary",
                    where="--logit-bias",
                    expected=f"0..{adjusted_V.size - 1}",
                    found=str(token),
                    hint="`apr tokens` shows a model's own ids",
                )
            adjusted_V[token] += np.float32(bias)
        if self._penalizes:
            penalize(adjusted_V, history, options)
        if self._constraint is not None:
            adjusted_V[~self._constraint.allowed()] = -np.inf
        if not adjusted_V.max() > -np.inf:
            raise ModelError(
                "no token is left to choose from",
                where="sampling",
                expected="at least 1 token that biases and constraint allow",
                found=f"0 of {adjusted_V.size}",
                hint="forbid fewer tokens with --logit-bias",
            )
        return adjusted_V

    def narrow(self, logits_V: Float32[np.ndarray, "V"]) -> Candidates:
        """What filters and temperature leave of adjusted logits, in the options' order."""
        options = self.options
        possible = np.flatnonzero(logits_V > -np.inf)
        left = Candidates(possible, logits_V[possible].astype(np.float64))
        for stage in options.order:
            match stage:
                case "top_k":
                    left = filters.top_k(left, options.top_k)
                case "top_p":
                    left = filters.top_p(left, options.top_p)
                case "min_p":
                    left = filters.min_p(left, options.min_p)
                case "typical_p":
                    left = filters.typical_p(left, options.typical_p)
                case "temperature":
                    left = filters.heat(left, options.temperature)
        return left

    def _draw(self, left: Candidates) -> int:
        cumulative_N = np.cumsum(left.probabilities)
        point = self._random.random() * cumulative_N[-1]
        return int(left.ids[np.searchsorted(cumulative_N, point, side="right")])

    @property
    def takes_greatest(self) -> bool:
        """Is the next token the first of the greatest logits, whatever they are?"""
        return self.options.temperature == 0 and not self._changes

    @property
    def _changes(self) -> bool:
        """Does anything act on the logits before the filters?"""
        return self._constraint is not None or bool(self.options.logit_bias) or self._penalizes

    @property
    def _penalizes(self) -> bool:
        options = self.options
        return options.penalty_window != 0 and (
            options.repetition_penalty != 1
            or options.presence_penalty != 0
            or options.frequency_penalty != 0
        )


def penalize(
    logits_V: Float32[np.ndarray, "V"] | Float64[np.ndarray, "V"],
    history: Sequence[int],
    options: SamplingOptions,
) -> None:
    """Lower, in place, the logits of tokens that the window has seen.

    Repetition first, then frequency and presence, as llama.cpp does.
    """
    window = history if options.penalty_window < 0 else history[-options.penalty_window :]
    tokens, counts = np.unique(np.asarray(window, np.int64), return_counts=True)
    seen = logits_V[tokens]
    penalty = options.repetition_penalty
    seen = np.where(seen > 0, seen / penalty, seen * penalty)
    seen -= counts * options.frequency_penalty + options.presence_penalty
    logits_V[tokens] = seen
