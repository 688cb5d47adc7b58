"""One reader a source: GGUF keys, `.apr` keys, Hugging Face's `config.json`.

Sources: the GGUF specification (ggml, docs/gguf.md) for `llama.*` and `qwen2.*` keys;
Hugging Face transformers' `LlamaConfig`, `MistralConfig`, `Qwen2Config`, `Qwen3Config`.
A file's tensors say what no key does: whether projections have biases. What only gemma3 has
is added by `read_gemma3`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from cotejar.errors import ArchitectureError, ConfigValueError, MissingConfigError
from cotejar.formats.layer_windows import LAYER_TYPES_KEY, listed_layers, windowed_layers
from cotejar.model.config import (
    MAX_LAYERS,
    DecoderConfig,
    RopeConfig,
    RopePairing,
    check_config,
)
from cotejar.model.config_keys import APR_KEYS, GGUF_KEYS
from cotejar.model.keys import Keys
from cotejar.model.read_gemma3 import (
    DEFAULT_HEAD_DIM,
    MODEL_TYPE,
    complete_from_gguf,
    complete_from_words,
)
from cotejar.model.rope_scaling import linear_divisors, scaling_divisors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from cotejar.formats.model_file import ModelFile

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")
_WITH_HEAD_NORMS = {"qwen3", "gemma3"}
_ALIASES = {"mistral": "llama", MODEL_TYPE: "gemma3"}

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


class _OptionalParts(TypedDict):
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool


def _optional_parts(architecture: str, names: AbstractSet[str]) -> _OptionalParts:
    """What some models have: as the architecture demands, and else as the tensors show.

    A qwen2 without its biases, or a qwen3 without its norms, must not pass for whole.
    """
    layer = "model.layers.0."
    return {
        "qkv_bias": architecture == "qwen2" or layer + "self_attn.q_proj.bias" in names,
        "output_bias": layer + "self_attn.o_proj.bias" in names,
        "mlp_bias": layer + "mlp.down_proj.bias" in names,
        "qk_norm": architecture in _WITH_HEAD_NORMS,
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
    config = DecoderConfig(
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
    return complete_from_gguf(config, keys) if architecture == "gemma3" else config


def _gguf_divisors(keys: Keys, prefix: str, rope_dim: int) -> tuple[float, ...]:
    # Of a factor alone llama.cpp takes linear scaling.
    kind = keys.text(f"{prefix}.rope.scaling.type", default="linear")
    factor = keys.real(
        f"{prefix}.rope.scaling.factor", f"{prefix}.rope.scale_linear", default=1.0
    )
    return linear_divisors(kind, factor, rope_dim, keys.where)


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
    num_layers = keys.integer(*APR_KEYS["num_layers"])
    window, global_layers = _apr_window(keys, num_layers)
    config = DecoderConfig(
        architecture=architecture,
        num_layers=num_layers,
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
            frequency_divisors=rope_divisors or scaling_divisors(keys, theta, rope_dim),
        ),
        tied_embeddings="lm_head.weight" not in names,
        sliding_window=window,
        global_layers=global_layers,
        **_optional_parts(architecture, names),
    )
    return complete_from_words(config, keys) if architecture == "gemma3" else config


def _apr_window(keys: Keys, num_layers: int) -> tuple[int | None, tuple[int, ...]]:
    """The window, and the layers that have none; without a list all layers have it."""
    if keys.find("sliding_window") is None:
        return None, ()
    window, kinds = keys.integer("sliding_window"), keys.find(LAYER_TYPES_KEY)
    if kinds is None or not 0 < num_layers <= MAX_LAYERS:
        return window, ()
    windowed = listed_layers(kinds, num_layers, where=keys.where)
    return _window_and_rest(window, windowed, num_layers)


def _window_and_rest(
    window: int, windowed: AbstractSet[int], num_layers: int
) -> tuple[int | None, tuple[int, ...]]:
    if not windowed:
        return None, ()
    return window, tuple(layer for layer in range(num_layers) if layer not in windowed)


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
    if model_type == "gemma3":
        raise ArchitectureError(
            "no engine here runs the architecture 'gemma3' with its vision tower",
            where=keys.where,
            expected=f"{MODEL_TYPE}, the text model alone",
            found=model_type,
            hint="save its language model as a folder of its own",
        )
    _require_plain_layers(keys)
    hidden_size = keys.integer("hidden_size")
    num_heads = keys.integer("num_attention_heads")
    is_gemma = model_type == MODEL_TYPE
    head_dim = keys.integer(
        "head_dim", default=DEFAULT_HEAD_DIM if is_gemma else hidden_size // max(num_heads, 1)
    )
    rope_keys = _rope_keys(keys, "full_attention" if is_gemma else None)
    theta = rope_keys.real("rope_theta", default=1e6 if is_gemma else 10000.0)
    num_layers = keys.integer("num_hidden_layers")
    with_biases = {"llama", "qwen3", MODEL_TYPE}
    has_biases = model_type in with_biases and keys.flag("attention_bias", default=False)
    window, global_layers = _hugging_face_window(keys, model_type, num_layers)
    config = DecoderConfig(
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
            frequency_divisors=rope_divisors or scaling_divisors(rope_keys, theta, head_dim),
        ),
        qkv_bias=has_biases or model_type == "qwen2",
        output_bias=has_biases,
        mlp_bias=model_type == "llama" and keys.flag("mlp_bias", default=False),
        qk_norm=architecture in _WITH_HEAD_NORMS,
        tied_embeddings=keys.flag("tie_word_embeddings", default=is_gemma),
        sliding_window=window,
        global_layers=global_layers,
    )
    if not is_gemma:
        return config
    return complete_from_words(config, keys, local=_rope_keys(keys, "sliding_attention"))


def _rope_keys(keys: Keys, kind: str | None) -> Keys:
    """Where theta and scaling are: beside the rest, or in newer files in an object.

    Args:
        keys: of `config.json`.
        kind: whose RoPE, where a model has two; each then has an object of its own.
    """
    parameters = keys.find("rope_parameters")
    if isinstance(parameters, dict) and kind is not None:
        parameters = parameters.get(kind)
    if not isinstance(parameters, dict):
        return keys
    theta = parameters.get("rope_theta", keys.values.get("rope_theta"))
    return Keys({"rope_theta": theta, "rope_parameters": parameters}, keys.where)


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


def _hugging_face_window(
    keys: Keys, model_type: str, num_layers: int
) -> tuple[int | None, tuple[int, ...]]:
    """The window, and the layers that have none."""
    if model_type == "llama" or keys.find("sliding_window") is None:
        return None, ()
    window = keys.integer("sliding_window")
    if not 0 < num_layers <= MAX_LAYERS:
        return window, ()  # `check_config` refuses it
    windowed = windowed_layers(keys.values, model_type, num_layers, where=keys.where)
    return _window_and_rest(window, windowed, num_layers)
