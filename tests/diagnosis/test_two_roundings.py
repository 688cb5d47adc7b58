"""A weight rounded in one way, and its input in another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from .planted import find_planted, first, weight_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cotejar.model.language_model import LanguageModel

    from .conftest import Models

    Rounding = Callable[[np.ndarray], np.ndarray]

UP = "model.layers.1.mlp.up_proj.weight"


def integers(values: np.ndarray, greatest: np.ndarray | float, levels: float) -> np.ndarray:
    step = greatest / levels
    top = 127 if levels > 100 else 7
    return np.clip(np.rint(values / step), -top - 1, top) * step


def by_row(values: np.ndarray) -> np.ndarray:
    return integers(values, np.abs(values).max(axis=1, keepdims=True), 127)


def by_tensor(values: np.ndarray) -> np.ndarray:
    return integers(values, np.abs(values).max(), 127)


def by_groups(values: np.ndarray, width: int, levels: float) -> np.ndarray:
    groups = values.reshape(-1, width)
    most = np.abs(groups).max(axis=1, keepdims=True)
    return integers(groups, most, levels).reshape(values.shape)


def float8(values: np.ndarray) -> np.ndarray:
    """E4M3, written out: three bits behind the point, exponents from -6, up to 448."""
    size = np.maximum(np.abs(values), 2.0**-6)
    step = 2.0 ** (np.floor(np.log2(size)) - 3)
    return np.clip(np.rint(values / step) * step, -448, 448)


def float8_by_row(values: np.ndarray) -> np.ndarray:
    scale = np.abs(values).max(axis=1, keepdims=True) / 448
    return float8(values / scale) * scale


def q5_0(values: np.ndarray) -> np.ndarray:
    """What ggml's reference does, value by value."""
    found = np.empty_like(values)
    for block, out in zip(values.reshape(-1, 32), found.reshape(-1, 32), strict=True):
        most = np.float32(block[np.abs(block).argmax()])
        scale = most / np.float32(-16)
        for i, value in enumerate(block.astype(np.float32)):
            code = min(31, int(value * (np.float32(1) / scale) + np.float32(16.5)))
            out[i] = (code - 16) * float(np.float16(scale))
    return found


def unchanged(values: np.ndarray) -> np.ndarray:
    return values


@pytest.mark.parametrize(
    ("weight", "inputs", "cause"),
    [
        (
            by_row,
            by_tensor,
            (
                "product-rounded",
                "the weight is rounded to int8 a row, and activations to int8 by one scale for "
                "all tokens",
            ),
        ),
        (
            by_tensor,
            by_row,
            (
                "product-rounded",
                "the weight is rounded to int8 by one scale for the tensor, and activations to "
                "int8 a row",
            ),
        ),
        (
            lambda w: by_groups(w, 32, 7),
            by_row,
            (
                "product-rounded",
                "the weight is rounded to int4 by 32, and activations to int8 a row",
            ),
        ),
        (
            float8_by_row,
            float8_by_row,
            (
                "product-rounded",
                "the weight is rounded to float8 e4m3 by one scale a row, and activations to "
                "float8 e4m3 by one scale a row",
            ),
        ),
        (
            lambda w: by_groups(w, 16, 8),
            unchanged,
            (
                "weights-rounded",
                "the weight is rounded to int4 (the greatest is 8) by 16",
            ),
        ),
        (
            q5_0,
            unchanged,
            (
                "weights-rounded",
                "the weight is rounded to Q5_0",
            ),
        ),
    ],
)
def test_both_roundings_are_named(
    models: Models, weight: Rounding, inputs: Rounding, cause: tuple[str, str]
) -> None:
    def fault(right: Mapping[str, np.ndarray], model: LanguageModel) -> np.ndarray:
        x = right["layer.1.ffn_norm"].astype(np.float64)
        return inputs(x) @ weight(weight_of(model, UP)).T

    assert first(find_planted(models("qwen3"), "layer.1.ffn_up", fault)) == cause
