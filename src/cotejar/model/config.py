"""The configuration of a decoder-only transformer, the same whatever file it came from.

Shape letters, for the whole project: T tokens, D width, H heads, K key/value heads,
E head size, F feed-forward width, V vocabulary, L layers, N blocks.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

from cotejar.errors import ConfigValueError

RopePairing = Literal["halves", "adjacent"]

MAX_LAYERS = 4096
"""More layers than any model has; a larger count is a broken file."""
MAX_HEAD_DIM = 1 << 16
"""Likewise, for the values of a head."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeConfig:
    """Rotary position embedding (Su et al., 2021, arXiv:2104.09864).

    Pair i of a head turns by `position * theta ** (-2 i / dim) / frequency_divisors[i]`.
    """

    theta: float
    dim: int
    """How many of a head's E values turn; even."""
    pairing: RopePairing
    """How the *weights'* q and k rows are ordered: `halves` pairs i with i + dim/2 (Hugging
    Face), `adjacent` pairs 2i with 2i + 1 (a GGUF of architecture llama)."""
    frequency_divisors: tuple[float, ...] = ()
    """One a pair, as Llama 3's long-context scaling sets them; empty for none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """What the forward pass needs to know beside the weights."""

    architecture: str
    """`llama`, `qwen2` or `qwen3`; Mistral is `llama`."""
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_size: int
    vocab_size: int
    context_length: int
    rms_eps: float
    rope: RopeConfig
    qkv_bias: bool = False
    output_bias: bool = False
    """A bias on the attention's output projection."""
    mlp_bias: bool = False
    qk_norm: bool = False
    """RMSNorm over each head of q and k before RoPE (qwen3)."""
    tied_embeddings: bool = False
    """The LM head is the embedding table."""
    sliding_window: int | None = None
    """A token sees itself and the `sliding_window - 1` before it; None for all."""

    @property
    def queries_per_kv_head(self) -> int:
        """Query heads that share one key/value head (grouped-query attention)."""
        return self.num_heads // self.num_kv_heads

    def comparable(self) -> dict[str, object]:
        """What two files of one model must agree on.

        Left out: the row order of q and k, which each engine undoes, and whether the LM
        head is stored once or twice, which the weights' fingerprint looks through.
        """
        facts = asdict(self)
        rope = facts.pop("rope")
        facts.pop("tied_embeddings")
        rope.pop("pairing")
        return facts | {f"rope_{key}": value for key, value in rope.items()}


def check_config(config: DecoderConfig, *, where: str) -> DecoderConfig:
    """Return the configuration if it can be run.

    Raises:
        ConfigValueError: a size is not positive, heads do not divide, or a float is no
            usable number.
    """
    _check_sizes(config, where)
    rope = config.rope
    if rope.dim < 2 or rope.dim % 2 or rope.dim > config.head_dim:  # noqa: PLR2004 - a pair
        _refuse(where, "rope dim", f"an even number in 2..{config.head_dim}", str(rope.dim))
    if rope.frequency_divisors and len(rope.frequency_divisors) != rope.dim // 2:
        _refuse(
            where,
            "rope frequency divisors",
            f"{rope.dim // 2}, one a pair",
            str(len(rope.frequency_divisors)),
        )
    positive = {"rms_eps": config.rms_eps, "rope theta": rope.theta}
    positive |= {f"rope divisor {i}": v for i, v in enumerate(rope.frequency_divisors)}
    for key, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            _refuse(where, key, "a positive finite number", repr(value))
    if config.sliding_window is not None and config.sliding_window < 1:
        _refuse(where, "sliding_window", "at least 1", str(config.sliding_window))
    return config


def _check_sizes(config: DecoderConfig, where: str) -> None:
    sizes = {
        "num_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "ffn_size": config.ffn_size,
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
    }
    for key, size in sizes.items():
        if size < 1:
            _refuse(where, key, "a number of at least 1", str(size))
    for key, limit in (("num_layers", MAX_LAYERS), ("head_dim", MAX_HEAD_DIM)):
        if sizes[key] > limit:
            _refuse(where, key, f"at most {limit}", str(sizes[key]))
    if config.num_heads % config.num_kv_heads:
        _refuse(
            where,
            "num_kv_heads",
            f"a divisor of the {config.num_heads} query heads",
            str(config.num_kv_heads),
        )


def _refuse(where: str, key: str, expected: str, found: str) -> None:
    raise ConfigValueError(
        f"the configuration cannot be run: {key}",
        where=where,
        expected=expected,
        found=found,
        hint="`apr inspect` shows the file's own keys; convert the model again",
    )
