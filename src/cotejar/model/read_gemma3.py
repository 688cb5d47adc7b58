"""What Gemma 3's text model has beside the rest: read from a GGUF, or from words.

Words are those of transformers' `Gemma3TextConfig`, which an `.apr` uses too. A GGUF says
less, and llama.cpp fills the rest in (`llama_model_loader`, architecture gemma3): every sixth
layer is global, windowed layers turn with theta 10000 and no scaling, and scores are divided
by the square root of a head's size, but of D / H in the model of 62 layers.

The scale of embeddings is sqrt(D), as the model's report has it and llama.cpp and
transformers in float32 do. transformers in bfloat16 rounds it to 8 bits first (33.94 becomes
34); that is a part of bfloat16's error and not of the model.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from cotejar.errors import ArchitectureError
from cotejar.formats.layer_windows import DEFAULT_PATTERN
from cotejar.model.config import MAX_LAYERS
from cotejar.model.rope_scaling import scaling_divisors

if TYPE_CHECKING:
    from cotejar.model.config import DecoderConfig
    from cotejar.model.keys import Keys

MODEL_TYPE = "gemma3_text"
"""Hugging Face's; `gemma3` is the model with a vision tower around it."""
DEFAULT_HEAD_DIM = 256
DEFAULT_LOCAL_THETA = 10000.0
LAYERS_OF_27B = 62
"""llama.cpp knows the model of 27 billion weights by them."""
ACTIVATION = "gelu_pytorch_tanh"


def complete_from_gguf(config: DecoderConfig, keys: Keys) -> DecoderConfig:
    """Add what only this architecture has.

    Raises:
        ArchitectureError: attention has a softcap.
        ConfigValueError: a value cannot be.
    """
    if keys.real("gemma3.attn_logit_softcapping", default=0.0):
        _refuse_softcap(keys, "gemma3.attn_logit_softcapping")
    pattern = keys.integer("gemma3.attention.sliding_window_pattern", default=DEFAULT_PATTERN)
    layers = range(config.num_layers if 0 < config.num_layers <= MAX_LAYERS else 0)
    global_layers = tuple(i for i in layers if pattern > 0 and (i + 1) % pattern == 0)
    has_window = bool(config.sliding_window) and len(global_layers) < config.num_layers
    scalar = float(config.head_dim)
    if config.num_layers == LAYERS_OF_27B and config.num_heads > 0:
        scalar = float(config.hidden_size // config.num_heads)
    return _complete(
        replace(
            config,
            sliding_window=config.sliding_window if has_window else None,
            global_layers=global_layers if has_window else (),
        ),
        local_theta=keys.real("gemma3.rope.freq_base_swa", default=DEFAULT_LOCAL_THETA),
        local_divisors=(),
        query_scalar=scalar,
        final_softcap=keys.real("gemma3.final_logit_softcapping", default=0.0) or None,
    )


def complete_from_words(
    config: DecoderConfig, keys: Keys, *, local: Keys | None = None
) -> DecoderConfig:
    """Add what only this architecture has.

    Args:
        config: all else.
        keys: of `config.json` or an `.apr`.
        local: where theta and scaling of the windowed layers are, if not among `keys`.

    Raises:
        ArchitectureError: another activation, attention in both directions or with a softcap.
        ConfigValueError: a value cannot be.
    """
    if keys.find("attn_logit_softcapping") is not None:
        _refuse_softcap(keys, "attn_logit_softcapping")
    activation = keys.text("hidden_activation", default=ACTIVATION)
    if activation != ACTIVATION or keys.find("use_bidirectional_attention"):
        raise ArchitectureError(
            "no engine here runs this gemma3",
            where=keys.where,
            expected=f"hidden_activation {ACTIVATION}, attention in one direction",
            found=f"{activation!r:.40}, use_bidirectional_attention "
            f"{keys.find('use_bidirectional_attention')!r:.20}",
            hint="another activation or mask would be another model",
        )
    theta = keys.real("rope_local_base_freq", default=DEFAULT_LOCAL_THETA)
    divisors: tuple[float, ...] = ()
    if local is not None and local is not keys:
        theta = local.real("rope_theta", default=theta)
        divisors = scaling_divisors(local, theta, config.rope.dim)
    default_scalar = config.head_dim if local is None else DEFAULT_HEAD_DIM
    return _complete(
        config,
        local_theta=theta,
        local_divisors=divisors,
        query_scalar=keys.real("query_pre_attn_scalar", default=float(default_scalar)),
        final_softcap=None
        if keys.find("final_logit_softcapping") is None
        else keys.real("final_logit_softcapping"),
    )


def _complete(
    config: DecoderConfig,
    *,
    local_theta: float,
    local_divisors: tuple[float, ...],
    query_scalar: float,
    final_softcap: float | None,
) -> DecoderConfig:
    local = replace(config.rope, theta=local_theta, frequency_divisors=local_divisors)
    return replace(
        config,
        local_rope=None if config.sliding_window is None else local,
        post_norms=True,
        activation="gelu_tanh",
        embedding_scale=math.sqrt(max(config.hidden_size, 0)),
        query_scalar=None if query_scalar == config.head_dim else query_scalar,
        final_softcap=final_softcap,
    )


def _refuse_softcap(keys: Keys, name: str) -> NoReturn:
    raise ArchitectureError(
        "no engine here caps attention's scores",
        where=keys.where,
        expected=f"no {name}",
        found=f"{keys.find(name)!r:.40}",
        hint="gemma3 has none; without the cap it would be another model",
    )
