"""What only a gemma3 has, in the words of `.apr` (`Gemma3TextConfig`'s) and in GGUF's keys.

A GGUF has no key for what llama.cpp takes for granted: that every sixth layer has no window,
that windowed layers turn with theta 10000 and without scaling, and what scores are divided by.
An `.apr` says all of it. Its norms are stored as a GGUF stores them: see `norm_offset`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.errors import ConfigValueError
from cotejar.formats.convert.rope_rows import positive_number
from cotejar.formats.gguf.value import GgufValue, ValueType
from cotejar.formats.layer_windows import (
    DEFAULT_PATTERN,
    LAYER_TYPES_KEY,
    WINDOWED,
    list_layers,
    windowed_layers,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

ACTIVATION = "gelu_pytorch_tanh"
DEFAULT_LOCAL_THETA = 10000.0
_LAYERS_OF_27B = 62
_MAX_LAYERS = 4096
_SOFTCAP = "final_logit_softcapping"
_SCALAR = "query_pre_attn_scalar"
_LOCAL_THETA = "rope_local_base_freq"


def read_gemma3_keys(keys: Mapping[str, object], *, where: str) -> dict[str, object]:
    """The `.apr` keys of a GGUF's metadata; what else cannot be is for a reader of models.

    Raises:
        ConfigValueError: which layers have a window is not said by a number.
    """
    facts: dict[str, object] = {
        "hidden_activation": ACTIVATION,
        _LOCAL_THETA: keys.get("gemma3.rope.freq_base_swa", DEFAULT_LOCAL_THETA),
    }
    num_layers, heads = keys.get("gemma3.block_count"), keys.get("gemma3.attention.head_count")
    width, head_dim = (
        keys.get("gemma3.embedding_length"),
        keys.get("gemma3.attention.key_length"),
    )
    if head_dim is not None:
        facts[_SCALAR] = head_dim
    if isinstance(width, int) and isinstance(heads, int) and heads > 0:
        facts[_SCALAR] = _scalar_of_gguf(num_layers, width, heads, head_dim)
    pattern = keys.get("gemma3.attention.sliding_window_pattern", DEFAULT_PATTERN)
    if type(pattern) is not int:
        raise ConfigValueError(
            "the pattern of windows cannot be used",
            where=f"{where}, key gemma3.attention.sliding_window_pattern",
            expected="a whole number: of so many layers the last has no window",
            found=f"{pattern!r:.60}",
            hint="llama.cpp's gemma3 reads a number there too; convert the model again",
        )
    if isinstance(num_layers, int) and num_layers <= _MAX_LAYERS:
        windowed = {i for i in range(num_layers) if pattern <= 0 or (i + 1) % pattern}
        facts[LAYER_TYPES_KEY] = list_layers(frozenset(windowed), num_layers)
    if not keys.get("gemma3.attention.sliding_window"):
        facts["sliding_window"] = None  # llama.cpp's 0
    if keys.get(f"gemma3.{_SOFTCAP}"):
        facts[_SOFTCAP] = keys[f"gemma3.{_SOFTCAP}"]
    if keys.get("gemma3.attn_logit_softcapping"):
        facts["attn_logit_softcapping"] = keys["gemma3.attn_logit_softcapping"]
    return facts


def read_gemma3_config(config: Mapping[str, object], *, where: str) -> dict[str, object]:
    """The `.apr` keys of a `config.json`.

    Raises:
        ConfigValueError: its layers cannot be.
    """
    parameters = config.get("rope_parameters")
    local = parameters.get("sliding_attention") if isinstance(parameters, dict) else None
    local_theta = local.get("rope_theta") if isinstance(local, dict) else None
    if isinstance(local, dict) and local.get("rope_type", "default") != "default":
        raise ConfigValueError(
            "layers with a window have a scaling of RoPE",
            where=where,
            expected="rope_parameters.sliding_attention of rope_type default",
            found=f"{local.get('rope_type')!r:.60}",
            hint="neither `.apr` nor GGUF can say so",
        )
    facts: dict[str, object] = {
        "hidden_activation": _value(config, "hidden_activation", ACTIVATION),
        _LOCAL_THETA: local_theta or _value(config, _LOCAL_THETA, DEFAULT_LOCAL_THETA),
        _SCALAR: _value(config, _SCALAR, 256),
    }
    num_layers = config.get("num_hidden_layers")
    if isinstance(num_layers, int) and 0 < num_layers <= _MAX_LAYERS:
        windowed = windowed_layers(config, "gemma3_text", num_layers, where=where)
        facts[LAYER_TYPES_KEY] = list_layers(windowed, num_layers)
    for name in (_SOFTCAP, "attn_logit_softcapping", "use_bidirectional_attention"):
        if config.get(name):
            facts[name] = config[name]
    return facts


def build_gemma3_keys(
    metadata: Mapping[str, object],
    *,
    num_layers: int,
    hidden_size: int,
    num_heads: int,
    head_dim: int,
    where: str,
) -> dict[str, GgufValue]:
    """The GGUF keys, without `gemma3.`, of an `.apr`'s metadata.

    Raises:
        ConfigValueError: llama.cpp would compute something else, and there is no key to tell.
    """
    scalar = metadata.get(_SCALAR, head_dim)
    implied = _scalar_of_gguf(num_layers, hidden_size, num_heads, head_dim)
    if scalar != implied:
        raise _unsayable(
            where, _SCALAR, f"{implied}, what llama.cpp takes for these sizes", scalar
        )
    for name in ("attn_logit_softcapping", "use_bidirectional_attention"):
        if metadata.get(name):
            raise _unsayable(
                where, name, "nothing: llama.cpp's gemma3 has no such thing", metadata[name]
            )
    if metadata.get("hidden_activation", ACTIVATION) != ACTIVATION:
        raise _unsayable(where, "hidden_activation", ACTIVATION, metadata["hidden_activation"])
    integers = {}
    pattern = _pattern_of(metadata, num_layers, where)
    if pattern != DEFAULT_PATTERN:
        integers["attention.sliding_window_pattern"] = pattern
    reals = {}
    local_theta = positive_number(metadata.get(_LOCAL_THETA, DEFAULT_LOCAL_THETA))
    if local_theta is None:
        raise _unsayable(
            where, _LOCAL_THETA, "a positive finite number", metadata[_LOCAL_THETA]
        )
    if local_theta != DEFAULT_LOCAL_THETA:
        reals["rope.freq_base_swa"] = local_theta
    if metadata.get(_SOFTCAP) is not None:
        cap = positive_number(metadata[_SOFTCAP])
        if cap is None:
            raise _unsayable(where, _SOFTCAP, "a positive finite number", metadata[_SOFTCAP])
        reals[_SOFTCAP] = cap
    keys = {n: GgufValue.encode(ValueType.UINT32, value) for n, value in integers.items()}
    return keys | {n: GgufValue.encode(ValueType.FLOAT32, value) for n, value in reals.items()}


def _value(config: Mapping[str, object], name: str, default: object) -> object:
    """A value, or the default where it is left out or null."""
    value = config.get(name)
    return default if value is None else value


def _scalar_of_gguf(num_layers: object, width: int, heads: int, head_dim: object) -> object:
    """llama.cpp: a head's size, but D / H in the model of 27 billion weights."""
    whole = width // heads
    return whole if num_layers == _LAYERS_OF_27B or head_dim is None else head_dim


def _pattern_of(metadata: Mapping[str, object], num_layers: int, where: str) -> int:
    """Of so many layers the last has no window."""
    kinds = metadata.get(LAYER_TYPES_KEY)
    if kinds is None or metadata.get("sliding_window") is None:
        return DEFAULT_PATTERN
    is_global = [kind != WINDOWED for kind in kinds] if isinstance(kinds, list) else []
    first = is_global.index(True) if True in is_global else len(is_global)
    for pattern in (DEFAULT_PATTERN, first + 1):
        regular = [(i + 1) % pattern == 0 for i in range(len(is_global))]
        if len(is_global) == num_layers and is_global == regular:
            return pattern
    raise _unsayable(where, LAYER_TYPES_KEY, "every n-th layer without a window", kinds)


def _unsayable(where: str, name: str, expected: str, found: object) -> ConfigValueError:
    return ConfigValueError(
        f"a GGUF of gemma3 cannot say this {name}",
        where=f"{where}, metadata key {name}",
        expected=expected,
        found=f"{found!r:.60}",
        hint="llama.cpp would run another model; the `.apr` itself runs here",
    )
