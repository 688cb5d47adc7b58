"""The operations of a decoder in float64, with every parameter open.

The oracle computes a model as it is; here the same formulas take what the oracle has no
option for: other positions, another mask, another map from query heads to key/value heads.
With the model's own parameters they give the oracle's values, which a test holds them to.

Shape letters: T tokens, W width, H heads, K key/value heads, E head size, P pairs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Bool, Float64, Int

    Rounding = Callable[[np.ndarray], np.ndarray]

SQRT_2 = math.sqrt(2)
SQRT_2_OVER_PI = math.sqrt(2 / math.pi)


def rms_norm(
    values: Float64[np.ndarray, "... W"], weight_W: Float64[np.ndarray, "W"], eps: float
) -> Float64[np.ndarray, "... W"]:
    """X / sqrt(mean(x^2) + eps) * weight; Zhang and Sennrich, 2019 (arXiv:1910.07467)."""
    mean_square = np.mean(values * values, axis=-1, keepdims=True)
    normed: np.ndarray = values / np.sqrt(mean_square + eps) * weight_W
    return normed


def split_heads(values_TW: Float64[np.ndarray, "T W"], e: int) -> Float64[np.ndarray, "T H E"]:
    """(tokens, heads * E) -> (tokens, heads, E)."""
    return values_TW.reshape(len(values_TW), -1, e)


def join_heads(values_THE: Float64[np.ndarray, "T H E"]) -> Float64[np.ndarray, "T W"]:
    """(tokens, heads, E) -> (tokens, heads * E)."""
    return values_THE.reshape(len(values_THE), -1)


def half_split_order(e: int, dim: int) -> Int[np.ndarray, "E"]:
    """Where each value of a half-split head stands in a head of adjacent pairs."""
    return np.concatenate([np.arange(0, dim, 2), np.arange(1, dim, 2), np.arange(dim, e)])


def turn(
    values_THE: Float64[np.ndarray, "T H E"], angles_TP: Float64[np.ndarray, "T P"]
) -> Float64[np.ndarray, "T H E"]:
    """Turn pair (i, i + P) of every head by its angle; what is beyond 2 P stays."""
    pairs = angles_TP.shape[1]
    cos, sin = np.cos(angles_TP)[:, None, :], np.sin(angles_TP)[:, None, :]
    first, second = values_THE[..., :pairs], values_THE[..., pairs : 2 * pairs]
    rest = values_THE[..., 2 * pairs :]
    return np.concatenate(
        [first * cos - second * sin, second * cos + first * sin, rest], axis=-1
    )


def frequencies(
    theta: float, dim: int, divisors: Sequence[float] = ()
) -> Float64[np.ndarray, "P"]:
    """Of each pair: theta ** (-2 i / dim) / divisor."""
    plain_P = theta ** (-np.arange(dim // 2) / (dim // 2))
    return plain_P / np.array(divisors) if divisors else plain_P


def visible_keys(
    tokens: int, window: int | None = None, *, ahead: int = 0
) -> Bool[np.ndarray, "T T"]:
    """Which keys a query sees: itself, those before it, and `ahead` after it."""
    query, key = np.arange(tokens)[:, None], np.arange(tokens)[None, :]
    seen_TT: np.ndarray = key <= query + ahead
    if window is not None:
        seen_TT &= query - key < window
    return seen_TT


def softmax(scores_TT: Float64[np.ndarray, "T S"]) -> Float64[np.ndarray, "T S"]:
    """Over the keys; a query that sees none gives zeros."""
    greatest = scores_TT.max(axis=1, keepdims=True)
    weights_TT = np.exp(scores_TT - np.where(np.isfinite(greatest), greatest, 0.0))
    total = weights_TT.sum(axis=1, keepdims=True)
    shares_TT: np.ndarray = np.zeros_like(weights_TT)
    np.divide(weights_TT, total, out=shares_TT, where=total > 0)
    return shares_TT


def attend(
    q_THE: Float64[np.ndarray, "T H E"],
    k_TKE: Float64[np.ndarray, "T K E"],
    v_TKE: Float64[np.ndarray, "T K E"],
    *,
    scale: float,
    visible_TT: Bool[np.ndarray, "T T"],
    key_heads: Sequence[int],
    value_heads: Sequence[int] | None = None,
    softcap: float | None = None,
    sink: float | None = None,
    round_scores: Rounding | None = None,
    round_weights: Rounding | None = None,
) -> Float64[np.ndarray, "T H E"]:
    """Attention of every query head to the key and the value head that it is given.

    `softcap` c bounds scores as c tanh(score / c); `sink` adds exp(sink) to the sum below.
    """
    context_THE = np.empty_like(q_THE)
    for head, key_head in enumerate(key_heads):
        value_head = key_head if value_heads is None else value_heads[head]
        scores_TT = q_THE[:, head] @ k_TKE[:, key_head].T * scale
        if softcap is not None:
            scores_TT = softcap * np.tanh(scores_TT / softcap)
        if round_scores is not None:
            scores_TT = round_scores(scores_TT)
        scores_TT = np.where(visible_TT, scores_TT, -np.inf)
        if sink is not None:
            scores_TT = np.concatenate([scores_TT, np.full((len(scores_TT), 1), sink)], axis=1)
        weights_TT = softmax(scores_TT)[:, : len(k_TKE)]
        if round_weights is not None:
            weights_TT = round_weights(weights_TT)
        context_THE[:, head] = weights_TT @ v_TKE[:, value_head]
    return context_THE


def erf(x: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """The error function; numpy has none."""
    flat = [math.erf(value) for value in np.asarray(x).reshape(-1).tolist()]
    return np.array(flat).reshape(np.shape(x))


def silu(x: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """X * sigmoid(x)."""
    result: np.ndarray = x / (1 + np.exp(-x))
    return result


def gelu_tanh(x: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """GELU by its tanh formula; Hendrycks and Gimpel, 2016 (arXiv:1606.08415)."""
    result: np.ndarray = 0.5 * x * (1 + np.tanh(SQRT_2_OVER_PI * (x + 0.044715 * x**3)))
    return result


def gelu_erf(x: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """GELU: x times the normal distribution's share below x."""
    result: np.ndarray = 0.5 * x * (1 + erf(x / SQRT_2))
    return result


ACTIVATIONS = {"silu": silu, "gelu_tanh": gelu_tanh, "gelu_erf": gelu_erf}
"""By the name that `Activate` has."""
