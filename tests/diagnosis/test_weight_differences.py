"""A weight off by a matrix of low rank, and sums kept in a low precision, are named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.quant.floats import round_to_bfloat16

from .planted import find_planted, first, weight_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Models

SITE = "layer.1.ffn_gate"
WEIGHT = "model.layers.1.mlp.gate_proj.weight"


def inputs(right) -> np.ndarray:
    return right["layer.1.ffn_norm"].astype(np.float64)


def with_adapter(rank: int, strength: float) -> Callable[..., np.ndarray]:
    """The product plus that of two random matrices, C x rank and rank x R."""

    def fault(right, _):
        x_TC, gate_TR = inputs(right), right[SITE]
        rng = np.random.default_rng(rank)
        down = rng.normal(size=(x_TC.shape[1], rank)) / np.sqrt(x_TC.shape[1])
        up = rng.normal(size=(rank, gate_TR.shape[1]))
        return gate_TR + strength * x_TC @ down @ up

    return fault


@pytest.mark.parametrize("rank", [1, 2, 8])
@pytest.mark.parametrize("strength", [1.0, -0.03])
def test_an_adapter_that_is_merged_or_lost_is_named(
    models: Models, rank: int, strength: float
) -> None:
    found = find_planted(models("llama"), SITE, with_adapter(rank, strength))

    assert first(found) == (
        "weight-low-rank",
        f"{WEIGHT} differs by a matrix of rank {rank}: an adapter (LoRA) is left out, merged "
        "twice or scaled in another way",
    )


def test_of_twelve_tokens_no_rank_above_ten_is_told(models: Models) -> None:
    """Each token's error would lie in the space of the eleven others by itself."""
    found = find_planted(models("llama"), SITE, with_adapter(11, 1.0))

    assert found.causes == ()


def few_rows(right, _):
    """Three outputs that are anything: of rank 3, and no adapter's."""
    gate_TR = right[SITE].copy()
    gate_TR[:, [3, 50, 70]] += np.random.default_rng(0).normal(size=(12, 3))
    return gate_TR


def one_token(right, _):
    gate_TR = right[SITE].copy()
    gate_TR[5] += np.random.default_rng(0).normal(size=gate_TR.shape[1])
    return gate_TR


@pytest.mark.parametrize("fault", [few_rows, one_token])
def test_what_is_no_matrix_over_all_outputs_is_no_adapter(models: Models, fault) -> None:
    found = find_planted(models("llama"), SITE, fault)

    assert "weight-low-rank" not in {cause.id for cause in found.causes}


def test_a_row_of_corrupt_bytes_is_named(models: Models) -> None:
    def fault(right, _):
        gate_TR = right[SITE].copy()
        gate_TR[:, 50] += np.random.default_rng(0).normal(size=12)
        return gate_TR

    found = find_planted(models("llama"), SITE, fault)

    assert first(found) == (
        "rows-wrong",
        "row 50 of the weight is another, and every other row is right: corrupt bytes?",
    )


def test_a_missing_bias_is_no_adapter(models: Models) -> None:
    """It is of rank 1 as well, and the same for every token."""
    model = models("qwen2")
    bias = model.declared.weights.vector("model.layers.1.self_attn.q_proj.bias")

    found = find_planted(model, "layer.1.q", lambda right, _: right["layer.1.q"] - bias)

    assert [cause.id for cause in found.causes] == ["bias-missing"]


# --- sums -----------------------------------------------------------------------------


def to_f16(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(np.float64)


def to_bf16(values: np.ndarray) -> np.ndarray:
    return round_to_bfloat16(values.astype(np.float32)).astype(np.float64)


def one_by_one(rounded: Callable[[np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
    """Both factors, their product and each sum rounded."""

    def fault(right, model):
        x_TC, weight_RC = rounded(inputs(right)), rounded(weight_of(model, WEIGHT))
        total = np.zeros((len(x_TC), len(weight_RC)))
        for column in range(x_TC.shape[1]):
            term = np.outer(x_TC[:, column], weight_RC[:, column])
            total = rounded(total + rounded(term))
        return total

    return fault


def by_blocks(right, model):
    """Blocks of 32 exactly, and their sum in float16: a half-precision accumulator."""
    x_TC, weight_RC = inputs(right), weight_of(model, WEIGHT)
    total = np.zeros((len(x_TC), len(weight_RC)))
    for start in range(0, x_TC.shape[1], 32):
        some = slice(start, start + 32)
        total = to_f16(total + x_TC[:, some] @ weight_RC[:, some].T)
    return total


def in_lanes(right, model):
    """Eight sums side by side, as a vector register has them, then added up in pairs."""
    x_TC, weight_RC = inputs(right), weight_of(model, WEIGHT)
    lanes = np.zeros((len(x_TC), len(weight_RC), 8))
    for start in range(0, x_TC.shape[1], 8):
        some = slice(start, start + 8)
        lanes = to_f16(lanes + x_TC[:, None, some] * weight_RC[None, :, some])
    while lanes.shape[2] > 1:
        half = lanes.shape[2] // 2
        lanes = to_f16(lanes[..., :half] + lanes[..., half:])
    return lanes[..., 0]


@pytest.mark.parametrize(
    ("fault", "id_", "words"),
    [
        (
            one_by_one(to_f16),
            "sums-f16",
            "f16 (one after the other, of rounded operands, of rounded products)",
        ),
        (
            one_by_one(to_bf16),
            "sums-bf16",
            "bf16 (one after the other, of rounded operands, of rounded products)",
        ),
        (by_blocks, "sums-f16", "f16 (of exact sums of 32)"),
        (in_lanes, "sums-f16", "f16 (in 8 lanes)"),
    ],
)
def test_sums_in_a_low_precision_are_named(models: Models, fault, id_: str, words: str) -> None:
    found = find_planted(models("llama"), SITE, fault)

    assert first(found) == (id_, f"sums are kept in {words}")
