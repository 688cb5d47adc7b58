"""One reader a source: GGUF keys, `.apr` keys, Hugging Face's `config.json`.

Sources: the GGUF specification (ggml, docs/gguf.md) for `llama.*` and `qwen2.*` keys;
Hugging Face transformers' `LlamaConfig`, `MistralConfig`, `Qwen2Config`, `Qwen3Config`.
A file's tensors say what no key does: whether projections have biases.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cotejar.errors import ArchitectureError, ConfigValueError, MissingConfigError
from cotejar.model.config import (
    MAX_HEAD_DIM,
    DecoderConfig,
    RopeConfig,
    RopePairing,
    check_config,
)
from cotejar.model.config_keys import APR_KEYS, GGUF_KEYS
from cotejar.model.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from cotejar.formats.model_file import ModelFile

ARCHITECTURES = ("llama", "qwen2", "qwen3")
_ALIASES = {"mistral": "llama"}

ROPE_TYPE_ADJACENT = 0
"""`.apr` and ggml: NORM, neighbouring values form a pair."""
ROPE_TYPE_HALVES = 2
"""`.apr` and ggml: NEOX, a value pairs with the one half a head away."""


def read_config(
    file: ModelFile,
    canonical_names: AbstractSet[str],
    *,
    rope_divisors: tuple[float, ...],
    embedding_rows: int,
) -> DecoderConfig:
    """Read a file's configuration.

    Args:
        file: the opened file.
        canonical_names: its tensors by canonical name; they tell which biases exist.
        rope_divisors: the values of its `rope_freqs.weight`, or nothing.
        embedding_rows: rows of the embedding table, the vocabulary's size in a GGUF that
            has no key for it; 0 where there is no table.

    Raises:
        ArchitectureError: an architecture, or a scaling of RoPE, that is not known.
        MissingConfigError, ConfigValueError: a key is missing or cannot be.
    """
    where = str(file.path)
    if file.format == "gguf":
        config = _from_gguf(
            file.metadata, canonical_names, rope_divisors, embedding_rows, where
        )
    elif file.format == "apr":
        config = _from_apr(file.metadata, canonical_names, rope_divisors, where)
    else:
        config = _from_hugging_face(file.metadata, rope_divisors, where)
    return check_config(config, where=where)


def _optional_parts(architecture: str, names: AbstractSet[str]) -> dict[str, bool]:
    """What some models have: as the architecture demands, and else as the tensors show.

    A qwen2 without its biases, or a qwen3 without its norms, must not pass for whole.
    """
    layer = "model.layers.0."
    return {
        "qkv_bias": architecture == "qwen2" or layer + "self_attn.q_proj.bias" in names,
        "output_bias": layer + "self_attn.o_proj.bias" in names,
        "mlp_bias": layer + "mlp.down_proj.bias" in names,
        "qk_norm": architecture == "qwen3",
    }


def _known_architecture(name: str, where: str) -> str:
    name = _ALIASES.get(name, name)
    if name not in ARCHITECTURES:
        raise ArchitectureError(
            f"no engine here runs the architecture {name!r}",
            where=where,
            expected=", ".join([*ARCHITECTURES, *_ALIASES]),
            found=name,
            hint="`apr inspect` and `apr tensors` read any architecture",
        )
    return name


def _from_gguf(
    metadata: Mapping[str, object],
    names: AbstractSet[str],
    rope_divisors: tuple[float, ...],
    embedding_rows: int,
    where: str,
) -> DecoderConfig:
    keys = Keys(metadata, where)
    prefix = keys.text("general.architecture")
    architecture = _known_architecture(prefix, where)
    named = {field: [f"{prefix}.{key}" for key in names] for field, names in GGUF_KEYS.items()}
    hidden_size = keys.integer(*named["hidden_size"])
    num_heads = keys.integer(*named["num_heads"])
    head_dim = keys.integer(*named["head_dim"], default=hidden_size // max(num_heads, 1))
    rope_dim = keys.integer(f"{prefix}.rope.dimension_count", default=head_dim)
    window = keys.find(f"{prefix}.attention.sliding_window")
    return DecoderConfig(
        architecture=architecture,
        num_layers=keys.integer(*named["num_layers"]),
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=keys.integer(*named["num_kv_heads"], default=num_heads),
        head_dim=head_dim,
        ffn_size=keys.integer(*named["ffn_size"]),
        vocab_size=keys.integer(*named["vocab_size"], default=embedding_rows),
        context_length=keys.integer(*named["context_length"]),
        rms_eps=keys.real(*named["rms_eps"]),
        rope=RopeConfig(
            theta=keys.real(*named["rope_theta"], default=10000.0),
            dim=rope_dim,
            pairing="adjacent" if architecture == "llama" else "halves",
            frequency_divisors=rope_divisors or _gguf_divisors(keys, prefix, rope_dim),
        ),
        tied_embeddings="lm_head.weight" not in names,
        sliding_window=None
        if window is None
        else keys.integer(f"{prefix}.attention.sliding_window"),
        **_optional_parts(architecture, names),
    )


def _gguf_divisors(keys: Keys, prefix: str, rope_dim: int) -> tuple[float, ...]:
    # Of a factor alone llama.cpp takes linear scaling.
    kind = keys.text(f"{prefix}.rope.scaling.type", default="linear")
    factor = keys.real(
        f"{prefix}.rope.scaling.factor", f"{prefix}.rope.scale_linear", default=1.0
    )
    return _linear_divisors(kind, factor, rope_dim, keys.where)


def _from_apr(
    metadata: Mapping[str, object],
    names: AbstractSet[str],
    rope_divisors: tuple[float, ...],
    where: str,
) -> DecoderConfig:
    keys = Keys(metadata, where)
    architecture = _known_architecture(keys.text("architecture", "model_type"), where)
    hidden_size = keys.integer(*APR_KEYS["hidden_size"])
    num_heads = keys.integer(*APR_KEYS["num_heads"])
    head_dim = keys.integer(*APR_KEYS["head_dim"], default=hidden_size // max(num_heads, 1))
    rope_dim = keys.integer("rope_dim", default=head_dim)
    theta = keys.real(*APR_KEYS["rope_theta"])
    window = keys.find("sliding_window")
    return DecoderConfig(
        architecture=architecture,
        num_layers=keys.integer(*APR_KEYS["num_layers"]),
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=keys.integer(*APR_KEYS["num_kv_heads"], default=num_heads),
        head_dim=head_dim,
        ffn_size=keys.integer(*APR_KEYS["ffn_size"]),
        vocab_size=keys.integer(*APR_KEYS["vocab_size"]),
        context_length=keys.integer(*APR_KEYS["context_length"]),
        rms_eps=keys.real(*APR_KEYS["rms_eps"]),
        rope=RopeConfig(
            theta=theta,
            dim=rope_dim,
            pairing=_apr_pairing(keys),
            frequency_divisors=rope_divisors or _hugging_face_divisors(keys, theta, rope_dim),
        ),
        tied_embeddings="lm_head.weight" not in names,
        sliding_window=None if window is None else keys.integer("sliding_window"),
        **_optional_parts(architecture, names),
    )


def _apr_pairing(keys: Keys) -> RopePairing:
    """`.apr` says the pairing as ggml's rope type; a guess would be a silent wrong answer."""
    rope_type = keys.integer("rope_type")
    if rope_type == ROPE_TYPE_ADJACENT:
        return "adjacent"
    if rope_type == ROPE_TYPE_HALVES:
        return "halves"
    raise ConfigValueError(
        "an unknown pairing of RoPE",
        where=f"{keys.where}, metadata key rope_type",
        expected="0 (adjacent pairs) or 2 (halves)",
        found=str(rope_type),
        hint="import the model again with `apr import`",
    )


def _from_hugging_face(
    metadata: Mapping[str, object],
    rope_divisors: tuple[float, ...],
    where: str,
) -> DecoderConfig:
    keys = _config_json(metadata, where)
    model_type = keys.text("model_type")
    architecture = _known_architecture(model_type, keys.where)
    _require_plain_layers(keys)
    hidden_size = keys.integer("hidden_size")
    num_heads = keys.integer("num_attention_heads")
    head_dim = keys.integer("head_dim", default=hidden_size // max(num_heads, 1))
    parameters = keys.find("rope_parameters")
    rope_keys = Keys(parameters, keys.where) if isinstance(parameters, dict) else keys
    theta = rope_keys.real("rope_theta", default=keys.real("rope_theta", default=10000.0))
    num_layers = keys.integer("num_hidden_layers")
    has_biases = model_type in {"llama", "qwen3"} and keys.flag("attention_bias", default=False)
    return DecoderConfig(
        architecture=architecture,
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=keys.integer("num_key_value_heads", default=num_heads),
        head_dim=head_dim,
        ffn_size=keys.integer("intermediate_size"),
        vocab_size=keys.integer("vocab_size"),
        context_length=keys.integer("max_position_embeddings"),
        rms_eps=keys.real("rms_norm_eps"),
        rope=RopeConfig(
            theta=theta,
            dim=head_dim,
            pairing="halves",
            frequency_divisors=rope_divisors or _hugging_face_divisors(keys, theta, head_dim),
        ),
        qkv_bias=has_biases or model_type == "qwen2",
        output_bias=has_biases,
        mlp_bias=model_type == "llama" and keys.flag("mlp_bias", default=False),
        qk_norm=model_type == "qwen3",
        tied_embeddings=keys.flag("tie_word_embeddings", default=False),
        sliding_window=_hugging_face_window(keys, model_type, num_layers),
    )


def _config_json(metadata: Mapping[str, object], where: str) -> Keys:
    config = metadata.get("config")
    if not isinstance(config, dict):
        raise MissingConfigError(
            "safetensors hold weights only, and there is no config.json beside them",
            where=where,
            expected="a config.json in the same folder",
            found="none",
            hint="open the folder that the model was saved to",
        )
    return Keys(config, f"{where}, config.json")


def _require_plain_layers(keys: Keys) -> None:
    """Refuse what would make another layer of these architectures than we compute."""
    for name, plain in (("hidden_act", {"silu", "swish"}), ("partial_rotary_factor", {1})):
        value = keys.find(name)
        if not (value is None or (isinstance(value, (str, float, int)) and value in plain)):
            raise ArchitectureError(
                f"no engine here runs this model with {name} {value!r:.40}",
                where=keys.where,
                expected=" or ".join(str(one) for one in sorted(plain, key=str)),
                found=f"{value!r:.40}",
                hint="another activation or rotation would be another model",
            )


def _hugging_face_window(keys: Keys, model_type: str, num_layers: int) -> int | None:
    """`LlamaConfig` has no window; Qwen's has one that may start at a later layer."""
    if model_type == "llama" or keys.find("sliding_window") is None:
        return None
    window = keys.integer("sliding_window")
    if model_type == "mistral":
        return window
    if not keys.flag("use_sliding_window", default=False):
        return None
    kinds = keys.find("layer_types")
    if isinstance(kinds, list):
        windowed = kinds.count("sliding_attention")
    else:
        windowed = num_layers - keys.integer("max_window_layers", default=28)
    if windowed <= 0:
        return None
    if windowed < num_layers:
        raise ArchitectureError(
            "no engine here runs a model whose layers differ in their window",
            where=keys.where,
            expected=f"a sliding window in all {num_layers} layers or in none",
            found=f"in {windowed} of them",
            hint="one window for all would give fluent nonsense, so it is refused",
        )
    return window


def _hugging_face_divisors(keys: Keys, theta: float, rope_dim: int) -> tuple[float, ...]:
    """Divisors from `rope_scaling` (or the newer `rope_parameters`)."""
    scaling = keys.find("rope_scaling", "rope_parameters")
    if not isinstance(scaling, dict):
        return ()
    inner = Keys(scaling, f"{keys.where}, rope_scaling")
    kind = inner.text("rope_type", "type", default="default")
    if kind == "llama3":
        factor = inner.real("factor")
        low, high = inner.real("low_freq_factor"), inner.real("high_freq_factor")
        if not (factor > 0 and low < high):
            raise ConfigValueError(
                "the figures of llama3's RoPE scaling cannot be",
                where=inner.where,
                expected="a positive factor, and low_freq_factor below high_freq_factor",
                found=f"factor {factor:g}, low {low:g}, high {high:g}",
                hint="compare with the model's original config.json",
            )
        if not theta > 0 or rope_dim > MAX_HEAD_DIM:
            return ()  # `check_config` refuses both
        context = inner.integer("original_max_position_embeddings")
        return _llama3_divisors(
            theta, rope_dim, factor=factor, low=low, high=high, original_context=context
        )
    return _linear_divisors(kind, inner.real("factor", default=1.0), rope_dim, inner.where)


def _linear_divisors(kind: str, factor: float, dim: int, where: str) -> tuple[float, ...]:
    if kind in {"none", "default"}:
        return ()
    if kind == "linear":
        # A size out of range is refused by `check_config`, and no table made of it before.
        return () if factor == 1.0 or dim > MAX_HEAD_DIM else (factor,) * (dim // 2)
    raise ArchitectureError(
        f"no engine here knows the RoPE scaling {kind!r}",
        where=where,
        expected="none, linear or llama3",
        found=kind,
        hint="a wrong scaling would give fluent nonsense, so it is refused",
    )


def _llama3_divisors(
    theta: float, dim: int, *, factor: float, low: float, high: float, original_context: int
) -> tuple[float, ...]:
    """Llama 3.1's scaling: long waves are slowed by `factor`, short ones are left alone.

    Between the two wave lengths the frequency is blended linearly; source: Meta's
    reference `apply_scaling`, as transformers' `_compute_llama3_parameters` has it.
    """
    divisors = []
    for pair in range(dim // 2):
        wave_length = 2 * math.pi * theta ** (2 * pair / dim)
        turns = original_context / wave_length
        if turns < low:
            divisors.append(factor)
        elif turns > high:
            divisors.append(1.0)
        else:
            blend = (turns - low) / (high - low)
            divisors.append(1 / ((1 - blend) / factor + blend))
    return tuple(divisors)
