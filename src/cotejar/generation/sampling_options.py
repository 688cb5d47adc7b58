"""What shapes the choice of the next token, and which values mean something."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cotejar.errors import UsageError

DEFAULT_SEED = 299792458

STAGES = ("top_k", "typical_p", "top_p", "min_p", "temperature")
"""What narrows and flattens a distribution, in llama.cpp's default order. Hugging Face's
`generate` goes temperature, top_k, top_p, min_p, typical_p."""

TRANSFORMERS_ORDER = ("temperature", "top_k", "top_p", "min_p", "typical_p")


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingOptions:
    """Greedy unless a temperature is given; every filter is off unless it is named.

    Raises:
        UsageError: a value that means nothing, with the option's name.
    """

    temperature: float = 0.0
    """0 is greedy: no filter, no draw. Penalties, biases and a constraint still act."""
    seed: int = DEFAULT_SEED
    top_k: int = 0
    """Keep the k most likely; 0 keeps all."""
    top_p: float = 1.0
    """Keep the fewest most likely tokens that make up this much probability."""
    min_p: float = 0.0
    """Keep tokens at least this likely, relative to the most likely one."""
    typical_p: float = 1.0
    """Keep the fewest tokens, nearest to the expected surprise first, that make up this much
    (Meister et al., 2022, arXiv:2202.00666)."""
    repetition_penalty: float = 1.0
    """Divides a positive logit and multiplies another of a token that was seen (Keskar et
    al., 2019, arXiv:1909.05858)."""
    presence_penalty: float = 0.0
    """Taken off the logit of a token that was seen."""
    frequency_penalty: float = 0.0
    """Taken off a token's logit once for each time that it was seen."""
    penalty_window: int = 64
    """How many of the last tokens, the prompt's included, count as seen; -1 for all."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, added to its logit); -inf forbids one."""
    order: tuple[str, ...] = STAGES
    """In which order filters and temperature act; every stage once."""

    def __post_init__(self) -> None:
        _require(
            math.isfinite(self.temperature) and self.temperature >= 0,
            "temperature",
            "a finite number of at least 0",
            self.temperature,
            "0 is greedy: the most likely token each time",
        )
        _require(
            self.seed >= 0,
            "seed",
            "a whole number of at least 0",
            self.seed,
            "leave it out for the same draws every time",
        )
        _require(self.top_k >= 0, "top-k", "at least 0", self.top_k, "0 keeps every token")
        for name, share in (("top-p", self.top_p), ("typical-p", self.typical_p)):
            _require(0 < share <= 1, name, "above 0, at most 1", share, "1 keeps every token")
        _require(0 <= self.min_p <= 1, "min-p", "0..1", self.min_p, "0 keeps every token")
        _require(
            math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0,
            "repetition-penalty",
            "a finite number above 0",
            self.repetition_penalty,
            "1 changes nothing; above 1 repeats less",
        )
        for name, penalty in (
            ("presence-penalty", self.presence_penalty),
            ("frequency-penalty", self.frequency_penalty),
        ):
            _require(
                math.isfinite(penalty), name, "a finite number", penalty, "0 changes nothing"
            )
        _require(
            self.penalty_window >= -1,
            "penalty-window",
            "a number of tokens, or -1",
            self.penalty_window,
            "-1 looks at the whole text",
        )
        for token, bias in self.logit_bias:
            _require(
                token >= 0 and not math.isnan(bias) and bias != math.inf,
                "logit-bias",
                "TOKEN=NUMBER, finite or -inf",
                f"{token}={bias}",
                "-inf forbids a token",
            )
        _require(
            sorted(self.order) == sorted(STAGES),
            "sampler-order",
            f"each once: {','.join(STAGES)}",
            ",".join(self.order),
            f"Hugging Face's is {','.join(TRANSFORMERS_ORDER)}",
        )


def _require(holds: bool, option: str, expected: str, found: object, hint: str) -> None:  # noqa: FBT001 - the claim itself
    if not holds:
        raise UsageError(
            f"the {option.replace('-', ' ')} cannot be used",
            where=f"--{option}",
            expected=expected,
            found=str(found),
            hint=hint,
        )
