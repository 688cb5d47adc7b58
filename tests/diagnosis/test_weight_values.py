"""Weights with other values or in another place are named: pruned, float8, rows, columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from .planted import find_planted, first, weight_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Models

SITE, WEIGHT = "layer.1.ffn_gate", "model.layers.1.mlp.gate_proj.weight"


def product(change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
    """The product with a changed weight; changed in float64, for these tests alone."""

    def fault(right, model):
        return right["layer.1.ffn_norm"].astype(np.float64) @ change(weight_of(model, WEIGHT)).T

    return fault


def two_of_four(weight: np.ndarray) -> np.ndarray:
    groups = weight.reshape(-1, 4).copy()
    for group in groups:
        group[np.argsort(-np.abs(group), kind="stable")[2:]] = 0
    return groups.reshape(weight.shape)


def float8(weight: np.ndarray) -> np.ndarray:
    """e4m3: three bits behind the point, 448 the greatest, scaled by the tensor's greatest."""
    scale = np.abs(weight).max() / 448
    scaled = weight / scale
    exponent = np.maximum(np.floor(np.log2(np.maximum(np.abs(scaled), 1e-30))), -6)
    step = 2.0 ** (exponent - 3)
    return np.rint(scaled / step) * step * scale


def bytes_of_the_transpose(weight: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(weight.T).reshape(weight.shape)


def scaled_columns(weight: np.ndarray) -> np.ndarray:
    return weight * np.random.default_rng(0).uniform(0.25, 4, weight.shape[1])


def copied_row(weight: np.ndarray) -> np.ndarray:
    changed = weight.copy()
    changed[17] = weight[18]
    return changed


def in_f16(right, model):
    """Both factors and the result, as a half-precision kernel with exact sums."""
    x = right["layer.1.ffn_norm"].astype(np.float16).astype(np.float64)
    weight = weight_of(model, WEIGHT).astype(np.float16).astype(np.float64)
    return (x @ weight.T).astype(np.float16).astype(np.float64)


CASES = {
    "two of four": (product(two_of_four), "weight-pruned",
                    "of each 4 neighbouring weights of a row the 2 greatest are kept"),
    "float8": (product(float8), "weights-rounded",
               "the weight is rounded to float8 e4m3 by one scale for the tensor"),
    "transposed bytes": (product(bytes_of_the_transpose), "weight-transposed",
                         f"{WEIGHT} holds the bytes of its transpose"),
    "columns": (product(scaled_columns), "columns-scaled",
                "96 of 96 columns of the weight are scaled by numbers of their own, 0.26 to "
                "3.99: scales are folded in on one side alone"),
    "a row": (product(copied_row), "rows-copied",
              "1 rows of the weight are others': row 17 is row 18"),
    "a product in f16": (in_f16, "product-rounded",
                         "weight and activations are rounded to f16, the output too"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_other_values_are_named(models: Models, name: str) -> None:
    fault, id_, title = CASES[name]

    found = find_planted(models("llama"), SITE, fault)

    assert first(found) == (id_, title)


V, V_BIAS = "model.layers.1.self_attn.v_proj.weight", "model.layers.1.self_attn.v_proj.bias"


def with_bias(name: str, change: Callable[..., tuple[np.ndarray, np.ndarray]]):
    """A product of attention with a changed weight and bias."""

    def fault(right, model):
        weight = weight_of(model, f"model.layers.1.self_attn.{name}_proj.weight")
        bias = model.declared.weights.vector(f"model.layers.1.self_attn.{name}_proj.bias")
        weight, bias = change(weight, bias.astype(np.float64))
        return right["layer.1.attn_norm"].astype(np.float64) @ weight.T + bias

    return fault


def empty_rows(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weight = weight.copy()
    weight[-8:] = 0
    return weight, bias


def bias_by_neighbours(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    heads = bias.reshape(-1, 16)
    return weight, np.concatenate([heads[:, 0::2], heads[:, 1::2]], axis=1).reshape(-1)


def of_twelve_heads(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of neighbours within heads of 8, taken for halves: there are heads of 16."""
    order = np.arange(len(bias)).reshape(-1, 4, 2).transpose(0, 2, 1).reshape(-1)
    return weight[order], bias[order]


@pytest.mark.parametrize(
    ("name", "change", "id_", "title"),
    [
        ("v", empty_rows, "rows-zero", "rows 24..31 (8) of the weight are 0, and the bias is "
         "added"),
        ("q", bias_by_neighbours, "bias-order", "the bias is in the order of the other RoPE "
         "pairing (neighbours for halves, or the reverse)"),
        ("q", of_twelve_heads, "output-order", "outputs are in another order: in each group of "
         "8 pairs of neighbours are taken for halves"),
    ],
)  # fmt: skip
def test_rows_and_biases_in_a_wrong_place_are_named(
    models: Models, name: str, change, id_: str, title: str
) -> None:
    found = find_planted(models("qwen2"), f"layer.1.{name}", with_bias(name, change))

    assert first(found) == (id_, title)
