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
Activation = Literal["silu", "gelu_tanh"]

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
    """`llama`, `qwen2`, `qwen3` or `gemma3`; Mistral is `llama`."""
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
    """RMSNorm over each head of q and k before RoPE (qwen3, gemma3)."""
    tied_embeddings: bool = False
    """The LM head is the embedding table."""
    sliding_window: int | None = None
    """A token sees itself and the `sliding_window - 1` before it; None for all."""
    global_layers: tuple[int, ...] = ()
    """With a window: the layers that have none, ascending."""
    local_rope: RopeConfig | None = None
    """RoPE of the layers with a window; None where it is `rope` (gemma3 has two)."""
    post_norms: bool = False
    """RMSNorms of what attention and the feed-forward give, before the residual (gemma3)."""
    activation: Activation = "silu"
    """Of the gate. `gelu_tanh` is GELU with tanh in it (Hendrycks and Gimpel, 2016,
    arXiv:1606.08415, section 2): 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    embedding_scale: float = 1.0
    """What rows of the embedding table are multiplied by: sqrt(D) for gemma3."""
    query_scalar: float | None = None
    """Scores are divided by its square root; None for `head_dim`."""
    final_softcap: float | None = None
    """Logits become cap * tanh(logits / cap); None where they stay."""

    def window_of(self, layer: int) -> int | None:
        """The sliding window of one layer."""
        return None if layer in self.global_layers else self.sliding_window

    def rope_of(self, layer: int) -> RopeConfig:
        """RoPE of one layer."""
        is_local = self.local_rope is not None and self.window_of(layer) is not None
        return self.local_rope if is_local and self.local_rope is not None else self.rope

    @property
    def queries_per_kv_head(self) -> int:
        """Query heads that share one key/value head (grouped-query attention)."""
        return self.num_heads // self.num_kv_heads

    def comparable(self) -> dict[str, object]:
        """What two files of one model must agree on.

        Left out: the row order of q and k, which each engine undoes; whether the LM head is
        stored once or twice, which the weights' fingerprint looks through; and of the parts
        that few models have, those that this one has not.
        """
        facts = asdict(self)
        facts.pop("tied_embeddings")
        for name, default in OPTIONAL_PARTS.items():
            if facts[name] == default:
                facts.pop(name)
        for name in ("rope", "local_rope"):
            if name in facts:
                rope = facts.pop(name)
                rope.pop("pairing")
                facts |= {f"{name}_{key}": value for key, value in rope.items()}
        return facts


OPTIONAL_PARTS: dict[str, object] = {
    "global_layers": (),
    "local_rope": None,
    "post_norms": False,
    "activation": "silu",
    "embedding_scale": 1.0,
    "query_scalar": None,
    "final_softcap": None,
}
"""Parts that few models have, with what stands for none."""


def check_config(config: DecoderConfig, *, where: str) -> DecoderConfig:
    """Return the configuration if it can be run.

    Raises:
        ConfigValueError: a size is not positive, heads do not divide, or a float is no
            usable number.
    """
    _check_sizes(config, where)
    for rope in filter(None, (config.rope, config.local_rope)):
        _check_rope(config, rope, where)
    positive = {"rms_eps": config.rms_eps, "embedding scale": config.embedding_scale}
    positive["query scalar"] = 1.0 if config.query_scalar is None else config.query_scalar
    positive["final softcap"] = 1.0 if config.final_softcap is None else config.final_softcap
    for key, value in positive.items():
        _require_positive(where, key, value)
    if config.sliding_window is not None and config.sliding_window < 1:
        _refuse(where, "sliding_window", "at least 1", str(config.sliding_window))
    return config


def _require_positive(where: str, key: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        _refuse(where, key, "a positive finite number", repr(value))


def _check_rope(config: DecoderConfig, rope: RopeConfig, where: str) -> None:
    if rope.dim < 2 or rope.dim % 2 or rope.dim > config.head_dim:  # noqa: PLR2004 - a pair
        _refuse(where, "rope dim", f"an even number in 2..{config.head_dim}", str(rope.dim))
    if rope.frequency_divisors and len(rope.frequency_divisors) != rope.dim // 2:
        _refuse(
            where,
            "rope frequency divisors",
            f"{rope.dim // 2}, one a pair",
            str(len(rope.frequency_divisors)),
        )
    _require_positive(where, "rope theta", rope.theta)
    for index, divisor in enumerate(rope.frequency_divisors):
        _require_positive(where, f"rope divisor {index}", divisor)


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
