"""A tiny random decoder: its sizes, and its weights.

Everything about it is chosen so that a fault shows. Norm weights are not 1, biases are not
0, eps is large, attention is far from uniform; there is more than one key/value head and
fewer than there are heads, so that repeating heads in the wrong order is another model;
no two sizes that a transposition would swap are equal. The weights depend on the seed and
on a tensor's name alone: two decoders that differ in one field share all other weights.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from cotejar.model.config import DecoderConfig, RopeConfig, RopePairing
from cotejar.model.inventory import EMBEDDING, LM_HEAD, tensor_shapes
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import decode, encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float32, UInt8

TinyArchitecture = Literal["llama", "mistral", "qwen2", "qwen3", "gemma3"]

_GAIN = 1.3
_EMBEDDING_STD = 0.5
_NORM_SPREAD = 0.3
_BIAS_STD = 0.5
_NORM_STEP = 2.0**-12
"""Of gemma3's norm weights: one less is then exact, as Hugging Face stores it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyDecoder:
    """What a tiny model is made of. The defaults fit block types of 32 values.

    For a K-quant, whose blocks have 256 values, every row must be a multiple of 256:
    `TinyDecoder(hidden_size=256, num_heads=8, ffn_size=512, block_type=BlockType.Q4_K)`.
    """

    architecture: TinyArchitecture = "llama"
    seed: int = 0
    num_layers: int = 2
    hidden_size: int = 96
    num_heads: int = 6
    num_kv_heads: int = 2
    head_dim: int | None = None
    """None: `hidden_size // num_heads`, and twice that for qwen3 and gemma3."""
    ffn_size: int = 160
    vocab_size: int = 320
    context_length: int = 64
    rms_eps: float = 2.0**-10
    """A float32 value, so that every format holds the same number."""
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, object] | None = None
    """As `config.json` has it: `{"rope_type": "linear", "factor": 4.0}`, or llama3's."""
    rope_divisors: tuple[float, ...] = ()
    """One a pair: what a GGUF stores for llama3's scaling, in its `rope_freqs.weight`."""
    sliding_window: int | None = None
    sliding_window_pattern: int = 6
    """Of gemma3: of so many layers the last has no window."""
    rope_local_theta: float = 10000.0
    """Of gemma3's layers with a window; linear `rope_scaling` is for the others."""
    query_scalar: float | None = None
    """Of gemma3: scores are divided by its square root; None for `head_dim`."""
    final_softcap: float | None = None
    """Of gemma3."""
    attention_bias: bool = False
    """On q, k, v and the output projection. qwen2 has those of q, k and v in any case."""
    mlp_bias: bool = False
    tied_embeddings: bool = False
    repeat_tied_head: bool = False
    """Store the tied table a second time, under the head's name."""
    block_type: BlockType = BlockType.F32
    """Of the matrices; vectors are F32."""
    tokenizer: bool = True
    """A byte-level BPE over all bytes, with a chat template; else token ids only."""

    def config(self, *, pairing: RopePairing) -> DecoderConfig:
        """The configuration that a file of this decoder must be read as.

        `rope_divisors` and a linear `rope_scaling` are part of it; llama3's figures are not.
        """
        head_dim = self.head_dim or self.hidden_size // self.num_heads
        if self.head_dim is None and self.architecture in {"qwen3", "gemma3"}:
            head_dim *= 2
        divisors = self.rope_divisors
        scaling = self.rope_scaling or {}
        if not divisors and scaling.get("rope_type") == "linear":
            divisors = (float(str(scaling["factor"])),) * (head_dim // 2)
        config = DecoderConfig(
            architecture="llama" if self.architecture == "mistral" else self.architecture,
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=head_dim,
            ffn_size=self.ffn_size,
            vocab_size=self.vocab_size,
            context_length=self.context_length,
            rms_eps=self.rms_eps,
            rope=RopeConfig(
                theta=self.rope_theta,
                dim=head_dim,
                pairing=pairing,
                frequency_divisors=divisors,
            ),
            qkv_bias=self.attention_bias or self.architecture == "qwen2",
            output_bias=self.attention_bias,
            mlp_bias=self.mlp_bias,
            qk_norm=self.architecture in {"qwen3", "gemma3"},
            tied_embeddings=self.tied_embeddings and not self.repeat_tied_head,
            sliding_window=self.sliding_window,
        )
        return self._as_gemma3(config) if self.architecture == "gemma3" else config

    def _as_gemma3(self, config: DecoderConfig) -> DecoderConfig:
        pattern = self.sliding_window_pattern
        layers = tuple(i for i in range(self.num_layers) if (i + 1) % pattern == 0)
        has_window = self.sliding_window is not None and len(layers) < self.num_layers
        local = replace(config.rope, theta=self.rope_local_theta, frequency_divisors=())
        return replace(
            config,
            sliding_window=self.sliding_window if has_window else None,
            global_layers=layers if has_window else (),
            local_rope=local if has_window else None,
            post_norms=True,
            activation="gelu_tanh",
            embedding_scale=math.sqrt(self.hidden_size),
            query_scalar=None if self.query_scalar == config.head_dim else self.query_scalar,
            final_softcap=self.final_softcap,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TinyTensor:
    """A weight under its canonical name, encoded."""

    name: str
    block_type: BlockType
    shape: tuple[int, ...]
    """Row-major."""
    raw: UInt8[np.ndarray, "num_bytes"]

    @property
    def values(self) -> Float32[np.ndarray, "..."]:
        """What the bytes decode to."""
        return decode(self.block_type, self.raw, math.prod(self.shape)).reshape(self.shape)


def make_tensors(decoder: TinyDecoder, *, pairing: RopePairing) -> list[TinyTensor]:
    """Every tensor of the decoder, with q and k rows in the order of `pairing`.

    Raises:
        EncodingError, TensorShapeError: the block type cannot be written, or no row of it
            fits the sizes.
    """
    config = decoder.config(pairing=pairing)
    tensors = []
    for name, shape in tensor_shapes(config).items():
        values = _draw(decoder.seed, name, shape)
        if decoder.architecture == "gemma3" and name.endswith("norm.weight"):
            values = (np.round(values / _NORM_STEP) * _NORM_STEP).astype(np.float32)
        if name == LM_HEAD and decoder.tied_embeddings:
            values = _draw(decoder.seed, EMBEDDING, shape)
        if pairing == "adjacent" and name.rpartition(".")[0].endswith(("q_proj", "k_proj")):
            values = _pairs_side_by_side(values, config.head_dim)
        block_type = decoder.block_type if len(shape) > 1 else BlockType.F32
        raw = encode(block_type, values.reshape(-1))
        tensors.append(TinyTensor(name=name, block_type=block_type, shape=shape, raw=raw))
    return tensors


def _draw(seed: int, name: str, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = rng.standard_normal(shape)
    if name.endswith(".bias"):
        values *= _BIAS_STD
    elif len(shape) == 1:
        values = 1 + _NORM_SPREAD * values
    elif name == EMBEDDING:
        values *= _EMBEDDING_STD
    else:
        values *= _GAIN / math.sqrt(shape[1])
    return values.astype(np.float32)


def _pairs_side_by_side(
    values: Float32[np.ndarray, "rows ..."], head_dim: int
) -> Float32[np.ndarray, "rows ..."]:
    """Reorder each head's rows from (first halves, second halves) to neighbouring pairs."""
    halves = values.reshape(-1, 2, head_dim // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)
