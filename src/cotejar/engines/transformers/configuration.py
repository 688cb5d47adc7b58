"""A `DecoderConfig` as transformers' own configuration class has it.

transformers' classes hold fewer models than a `DecoderConfig` can say; what they have no
place for is refused, since a model without it would be another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import transformers

from cotejar.errors import ArchitectureError, ConfigValueError
from cotejar.formats.layer_windows import GLOBAL, WINDOWED, list_layers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cotejar.model.config import DecoderConfig, RopeConfig


def configuration_of(config: DecoderConfig, *, where: str) -> Any:
    """The configuration that makes transformers' model of the same architecture.

    RoPE divisors that are all one number are its linear scaling; others it has no words for,
    and `load` sets them in the model's table.

    Args:
        config: the model.
        where: its file, for errors.

    Raises:
        ArchitectureError: the architecture's class in transformers has no place for a part.
    """
    family = config.architecture
    if family == "llama" and config.sliding_window is not None:
        family = "mistral"
    _require_places(config, family, where)
    values: dict[str, object] = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.rms_eps,
        "hidden_act": "silu",
        "rope_parameters": _rope_values(config.rope),
        "tie_word_embeddings": config.tied_embeddings,
    }
    model_type = "gemma3_text" if family == "gemma3" else family
    return configuration_from(model_type, values | _own_values(config, family), where=where)


def configuration_from(model_type: str, values: Mapping[str, object], *, where: str) -> Any:
    """The configuration object of transformers for a `config.json`'s keys.

    Raises:
        ArchitectureError: this release has no such `model_type`.
        ConfigValueError: it refuses the values.
    """
    try:
        made = transformers.CONFIG_MAPPING[model_type]
    except KeyError:
        raise ArchitectureError(
            f"transformers {transformers.__version__} has no architecture {model_type!r}",
            where=where,
            expected="a model_type that this release knows",
            found=model_type,
            hint="install a newer release of transformers, or use another engine",
        ) from None
    # `auto_map` names code that lies beside the weights; none of it is ever run.
    kept = {key: value for key, value in values.items() if key != "auto_map"}
    try:
        return made.from_dict(kept)
    except Exception as error:  # noqa: BLE001 - a stranger's values, another's checks
        refuse_values(error, where)


def refuse_values(error: Exception, where: str) -> NoReturn:
    """Say that transformers cannot make a model of a configuration."""
    raise ConfigValueError(
        "transformers cannot make a model of this configuration",
        where=where,
        expected="a configuration that its class takes",
        found=f"{type(error).__name__}: {error!s:.200}",
        hint="compare with the model's original config.json",
    ) from error


BIASES = {
    "llama": {(False, False, False), (True, True, False), (False, False, True)}
    | {(True, True, True)},
    "mistral": {(False, False, False)},
    "qwen2": {(True, False, False)},
    "qwen3": {(False, False, False), (True, True, False)},
    "gemma3": {(False, False, False), (True, True, False)},
}
"""Which biases each class can have: on q, k and v; on attention's output; in the
feed-forward."""


def _require_places(config: DecoderConfig, family: str, where: str) -> None:
    if family not in BIASES:
        _refuse(where, f"the architecture {family}", ", ".join(BIASES), family)
    biases = (config.qkv_bias, config.output_bias, config.mlp_bias)
    if biases not in BIASES[family]:
        names = ("q, k, v", "the attention's output", "the feed-forward")
        found = [name for name, there in zip(names, biases, strict=True) if there]
        _refuse(
            where,
            f"these biases in {family}",
            "biases as its configuration can ask for them",
            f"biases on {'; '.join(found) or 'nothing'}",
        )
    is_gemma = family == "gemma3"
    scale = config.hidden_size**0.5 if is_gemma else 1.0
    ropes = [rope for rope in (config.rope, config.local_rope) if rope is not None]
    must: list[tuple[str, object, object]] = [
        ("qk_norm", family in {"qwen3", "gemma3"}, config.qk_norm),
        ("post_norms", is_gemma, config.post_norms),
        ("activation", "gelu_tanh" if is_gemma else "silu", config.activation),
        ("embedding_scale", scale, config.embedding_scale),
        *(("rope dim", config.head_dim, rope.dim) for rope in ropes),
    ]
    if not is_gemma:
        must += [
            ("local_rope", None, config.local_rope),
            ("query_scalar", None, config.query_scalar),
            ("final_softcap", None, config.final_softcap),
        ]
    elif any(len(set(rope.frequency_divisors)) > 1 for rope in ropes):
        _refuse(where, "these RoPE divisors in gemma3", "one number for all pairs", "several")
    if family in {"llama", "mistral"}:
        must.append(("global_layers", (), config.global_layers))
    for name, expected, found_value in must:
        if found_value != expected:
            _refuse(where, f"this {name} in {family}", f"{expected}", f"{found_value}")


def _rope_values(rope: RopeConfig) -> dict[str, object]:
    values: dict[str, object] = {"rope_type": "default", "rope_theta": rope.theta}
    divisors = set(rope.frequency_divisors)
    if len(divisors) == 1:
        values |= {"rope_type": "linear", "factor": divisors.pop()}
    return values


def _own_values(config: DecoderConfig, family: str) -> dict[str, object]:
    """Keys that one architecture has and others do not."""
    if family == "llama":
        return {"attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}
    if family == "mistral":
        return {"sliding_window": config.sliding_window}
    layers = range(config.num_layers)
    windowed = frozenset(n for n in layers if config.window_of(n) is not None)
    values: dict[str, object] = {
        "layer_types": list_layers(windowed, config.num_layers),
        "sliding_window": config.sliding_window,
    }
    if family != "qwen2":
        values["attention_bias"] = config.qkv_bias
    if family != "gemma3":
        return values | {"use_sliding_window": config.sliding_window is not None}
    scalar = config.head_dim if config.query_scalar is None else config.query_scalar
    if config.sliding_window is None:
        values.pop("sliding_window")
    return values | {
        "hidden_activation": "gelu_pytorch_tanh",
        "rope_parameters": {
            GLOBAL: _rope_values(config.rope),
            WINDOWED: _rope_values(config.local_rope or config.rope),
        },
        "query_pre_attn_scalar": int(scalar) if scalar == int(scalar) else scalar,
        "final_logit_softcapping": config.final_softcap,
    }


def _refuse(where: str, what: str, expected: str, found: str) -> NoReturn:
    raise ArchitectureError(
        f"transformers has no place for {what}",
        where=where,
        expected=expected,
        found=found,
        hint="use another engine: oracle and native run this model",
    )
