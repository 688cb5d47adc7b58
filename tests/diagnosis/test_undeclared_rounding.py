"""Roundings that no numerics declares are named, and declared ones that were not done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from .planted import attend, attention_inputs, find_planted, first, weight_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Models

F = np.float32
CAUSAL = np.tri(12, dtype=bool)
WEIGHT = "model.layers.1.mlp.down_proj.weight"


def e4m3(x: np.ndarray) -> np.ndarray:
    """Three bits behind the point: `np.frexp` gives twice the fraction."""
    _, exponent = np.frexp(x.astype(np.float64))
    exponent = np.maximum(exponent, -5)
    return np.rint(np.ldexp(x.astype(np.float64), 4 - exponent)) * np.ldexp(1.0, exponent - 4)


def tf32(x: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(x, F).view(np.uint32) + np.uint32(0x1000)
    return (bits & np.uint32(0xFFFFE000)).view(F).astype(np.float64)


def integers(x: np.ndarray, levels: int, axis: int | None, whole=np.rint) -> np.ndarray:
    x = x.astype(F)
    step = np.abs(x).max(axis=axis, keepdims=True) / F(levels)
    return (whole(x / step) * step).astype(np.float64)


def cut_blocks(x: np.ndarray) -> np.ndarray:
    return integers(x.reshape(len(x), -1, 32), 127, 2, np.trunc).reshape(x.shape)


def product(
    of_x: Callable[..., np.ndarray], of_weight=lambda w: w
) -> Callable[..., np.ndarray]:
    return lambda right, model: (
        of_x(right["layer.1.ffn_swiglu_inner"]) @ of_weight(weight_of(model, WEIGHT)).T
    )


def cached(of_k: Callable[..., np.ndarray], of_v) -> Callable[..., np.ndarray]:
    def fault(right, model):
        q, k, v = attention_inputs(right)
        return attend(q, of_k(k), of_v(v), CAUSAL)

    return fault


CASES = {
    "float8 activations": ("layer.1.ffn_out", product(e4m3), "activations-rounded",
                           "activations are rounded to float8 e4m3"),
    "one scale for all tokens": (
        "layer.1.ffn_out", product(lambda x: integers(x, 127, None)), "activations-rounded",
        "activations are rounded to int8 by one scale for all tokens"),
    "cut, not rounded": ("layer.1.ffn_out", product(cut_blocks), "activations-rounded",
                         "activations are rounded to int8 by 32, cut and not rounded"),
    "tf32": ("layer.1.ffn_out", product(tf32, tf32), "product-rounded",
             "weight and activations are rounded to tf32"),
    "float8 cache": ("layer.1.attn_context", cached(e4m3, e4m3), "cache-rounded",
                     "keys and values are rounded to float8 e4m3"),
    "keys by channel": (
        "layer.1.attn_context", cached(lambda k: integers(k, 7, 0), lambda v: v),
        "cache-rounded", "keys are rounded to int4 a channel"),
    "keys and values apart": (
        "layer.1.attn_context", cached(lambda k: integers(k, 7, 1), e4m3), "cache-rounded",
        "keys are rounded to int4 a row, values are rounded to float8 e4m3"),
    "float8 output": (
        "layer.1.ffn_swiglu_inner",
        lambda right, model: e4m3(right["layer.1.ffn_swiglu_inner"]),
        "output-rounded", "the output is rounded to float8 e4m3"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_undeclared_rounding_is_named(models: Models, name: str) -> None:
    site, fault, id_, title = CASES[name]

    found = find_planted(models("qwen2" if "attn" in site else "qwen3"), site, fault)

    assert first(found) == (id_, title)
    assert found.causes[0].residual_after <= 3 * found.causes[0].limit


def test_a_declared_cache_that_is_not_rounded_is_named(models: Models) -> None:
    found = find_planted(
        models("qwen2"),
        "layer.1.attn_context",
        cached(lambda k: k, lambda v: v),
        declared="f32-kvf16",
    )

    assert first(found) == (
        "cache-not-rounded",
        "keys and values are not rounded, and f32-kvf16 rounds them",
    )


def test_blocks_that_are_declared_and_not_done_are_no_misread_weight(models: Models) -> None:
    # One block makes a row of Q4_K here: "the block before in its row" is the block itself.
    found = find_planted(
        models("Q4_K"), "layer.1.q", lambda right, model: right["layer.1.q"], declared="q8"
    )

    assert first(found) == (
        "activations-rounded",
        "activations are not rounded, and q8 rounds them",
    )
