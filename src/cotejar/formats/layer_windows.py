"""Which layers have a sliding window, as Hugging Face's `config.json` and an `.apr` say it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.errors import ConfigValueError

if TYPE_CHECKING:
    from collections.abc import Mapping

WINDOWED, GLOBAL = "sliding_attention", "full_attention"
LAYER_TYPES_KEY = "layer_types"
DEFAULT_PATTERN = 6
"""Of gemma3: every sixth layer has no window."""
_DEFAULT_FIRST_WINDOWED = 28
"""`max_window_layers` of `Qwen2Config` and `Qwen3Config`."""


def windowed_layers(
    config: Mapping[str, object], model_type: str, num_layers: int, *, where: str
) -> frozenset[int]:
    """The layers that have the window of a `config.json`, if it has one.

    A llama has none, a mistral has it in all layers, a qwen2 or qwen3 if `use_sliding_window`
    from layer `max_window_layers` on, a gemma3 in all but each `sliding_window_pattern`th; of
    the last three `layer_types`, which newer releases of transformers write, outranks the
    number. Source: transformers' configuration classes.

    Raises:
        ConfigValueError: `layer_types` or a number cannot be.
    """
    layers = range(num_layers)
    if model_type == "mistral":
        return frozenset(layers)
    is_gemma = model_type == "gemma3_text"
    is_qwen = model_type in {"qwen2", "qwen3"} and config.get("use_sliding_window") is True
    if not (is_gemma or is_qwen):
        return frozenset()
    kinds = config.get(LAYER_TYPES_KEY)
    if kinds is not None:
        return listed_layers(kinds, num_layers, where=where)
    if is_gemma:
        pattern = _whole(config, "sliding_window_pattern", DEFAULT_PATTERN, where)
        return frozenset(layer for layer in layers if (layer + 1) % max(pattern, 1))
    first = _whole(config, "max_window_layers", _DEFAULT_FIRST_WINDOWED, where)
    return frozenset(layer for layer in layers if layer >= first)


def listed_layers(kinds: object, num_layers: int, *, where: str) -> frozenset[int]:
    """The layers that a list of `sliding_attention` and `full_attention` gives the window.

    Raises:
        ConfigValueError: it is no such list, one entry a layer.
    """
    listed = kinds if isinstance(kinds, list) else []
    if len(listed) != num_layers or any(kind not in (WINDOWED, GLOBAL) for kind in listed):
        raise ConfigValueError(
            f"{LAYER_TYPES_KEY} cannot be used",
            where=where,
            expected=f"{WINDOWED} or {GLOBAL} for each of {num_layers} layers",
            found=f"{kinds!r:.60}",
            hint="compare with the model's original config.json",
        )
    return frozenset(i for i, kind in enumerate(listed) if kind == WINDOWED)


def list_layers(windowed: frozenset[int], num_layers: int) -> list[str]:
    """The list for these layers."""
    return [WINDOWED if layer in windowed else GLOBAL for layer in range(num_layers)]


def _whole(config: Mapping[str, object], name: str, default: int, where: str) -> int:
    value = config.get(name)
    if value is None:
        return default
    if type(value) is not int or value < 0:
        raise ConfigValueError(
            f"{name} cannot be used",
            where=where,
            expected="a whole number of at least 0",
            found=f"{value!r:.60}",
            hint="compare with the model's original config.json",
        )
    return value
