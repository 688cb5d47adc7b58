"""What is one layer's own, looked up once and not again for every token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from cotejar.model.inventory import LINEAR_PARTS, layer_tensor, norm_parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float32
    from numpy import ndarray

    from cotejar.model.config import RopeConfig
    from cotejar.model.language_model import LanguageModel
    from cotejar.quant.block_matrix import BlockMatrix


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayerWeights:
    """One layer's weights, matrices in their blocks and vectors decoded, and its settings.

    Weights are named by the slot that their product or norm gives: see `model.inventory`.
    """

    linears: Mapping[str, tuple[BlockMatrix, Float32[ndarray, "R"] | None]]
    """Weight and bias of each product."""
    norms: Mapping[str, Float32[ndarray, "W"]]
    """The weight of each RMSNorm."""
    window: int | None
    """Its sliding window."""
    rope: RopeConfig
    """How it turns q and k."""


_PREPARED: WeakKeyDictionary[LanguageModel, tuple[LayerWeights, ...]] = WeakKeyDictionary()
"""Every new context asks again; a model does not change."""


def prepare_layers(model: LanguageModel) -> tuple[LayerWeights, ...]:
    """Every layer's weights, looked up once a model."""
    if model not in _PREPARED:
        _PREPARED[model] = _look_up(model)
    return _PREPARED[model]


def _look_up(model: LanguageModel) -> tuple[LayerWeights, ...]:
    config, weights = model.config, model.weights
    norms = norm_parts(config)
    return tuple(
        LayerWeights(
            linears={
                slot: (
                    weights[layer_tensor(layer, f"{part}.weight")],
                    weights.optional_vector(layer_tensor(layer, f"{part}.bias")),
                )
                for slot, part in LINEAR_PARTS.items()
            },
            norms={
                slot: weights.vector(layer_tensor(layer, f"{part}.weight"))
                for slot, part in norms.items()
            },
            window=config.window_of(layer),
            rope=config.rope_of(layer),
        )
        for layer in range(config.num_layers)
    )
