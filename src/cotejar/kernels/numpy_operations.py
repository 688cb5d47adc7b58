"""The operations between matrix products, in numpy; `operations` states their arithmetic.

Shape letters: T new tokens, S all tokens so far, H heads, K key/value heads, G queries a
key/value head, E head size, P pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.kernels.fused_sums import fused_multiply_add

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32

NUM_LANES = 16

QUERIES_AT_ONCE = 128
"""Bounds the memory of a long prompt's scores; does not touch a result's bits."""

_F = np.float32
_EXP_POLYNOMIAL = tuple(
    _F(c)
    for c in (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
)
_LOG2_E, _ROUNDER = _F(1.44269504088896341), _F(12582912)
_LN2_HIGH, _LN2_LOW = _F(0.693359375), _F(-2.12194440e-4)
_LEAST, _GREATEST = _F(-104), _F(89)


def exponential(x: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Compute e ** x."""
    is_number = ~np.isnan(x)
    clean = np.clip(np.where(is_number, x, _F(0)), _LEAST, _GREATEST)
    turns = (clean * _LOG2_E + _ROUNDER) - _ROUNDER
    rest = (clean - turns * _LN2_HIGH) - turns * _LN2_LOW
    polynomial = rest * _EXP_POLYNOMIAL[0] + _EXP_POLYNOMIAL[1]
    for coefficient in _EXP_POLYNOMIAL[2:]:
        polynomial = polynomial * rest + coefficient
    base = (polynomial * (rest * rest) + rest) + _F(1)
    power = turns.astype(np.int32)
    half = power >> 1  # in two steps, since 2 ** -150 is no float32
    first, second = ((n + np.int32(127)) << 23 for n in (half, power - half))
    return np.where(is_number, (base * first.view(_F)) * second.view(_F), x)


def silu(values: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Compute x * sigmoid(x)."""
    result: np.ndarray = values / (_F(1) + exponential(-values))
    return result


def rms_norm(
    values_TW: Float32[np.ndarray, "T W"], weight_W: Float32[np.ndarray, "W"], eps: float
) -> Float32[np.ndarray, "T W"]:
    """RMSNorm."""
    num_rows, width = values_TW.shape
    lanes_TL = np.zeros((num_rows, NUM_LANES))
    for start in range(0, width, NUM_LANES):
        part = values_TW[:, start : start + NUM_LANES].astype(np.float64)
        lanes_TL[:, : part.shape[1]] += part * part
    half = NUM_LANES // 2
    while half:
        lanes_TL = lanes_TL[:, :half] + lanes_TL[:, half : 2 * half]
        half //= 2
    mean_square_T1 = lanes_TL / width
    scale_T1 = (1 / np.sqrt(mean_square_T1 + eps)).astype(_F)
    result: np.ndarray = values_TW * scale_T1 * weight_W
    return result


def rotate(
    values_THE: Float32[np.ndarray, "T H E"],
    cos_TP: Float32[np.ndarray, "T P"],
    sin_TP: Float32[np.ndarray, "T P"],
    *,
    adjacent: bool,
) -> Float32[np.ndarray, "T H E"]:
    """Turn the first P pairs of every head."""
    cos, sin = cos_TP[:, None, :], sin_TP[:, None, :]
    pairs = cos_TP.shape[1]
    first, second = slice(0, pairs), slice(pairs, 2 * pairs)
    if adjacent:
        first, second = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    turned = values_THE.copy()
    turned[..., first] = values_THE[..., first] * cos - values_THE[..., second] * sin
    turned[..., second] = values_THE[..., first] * sin + values_THE[..., second] * cos
    return turned


def attend(
    q_THE: Float32[np.ndarray, "T H E"],
    k_SKE: Float32[np.ndarray, "S K E"],
    v_SKE: Float32[np.ndarray, "S K E"],
    *,
    window: int | None,
    in_float32: bool,
) -> Float32[np.ndarray, "T H E"]:
    """Causal attention of the last T of S positions."""
    attend_chunk = _attend_chunk_in_float32 if in_float32 else _attend_chunk
    before = len(k_SKE) - len(q_THE)
    context_THE = np.empty_like(q_THE)
    for start in range(0, len(q_THE), QUERIES_AT_ONCE):
        stop = min(start + QUERIES_AT_ONCE, len(q_THE))
        seen = slice(0, before + stop)
        context_THE[start:stop] = attend_chunk(
            q_THE[start:stop], k_SKE[seen], v_SKE[seen], window
        )
    return context_THE


def _attend_chunk(
    q_THE: Float32[np.ndarray, "T H E"],
    k_SKE: Float32[np.ndarray, "S K E"],
    v_SKE: Float32[np.ndarray, "S K E"],
    window: int | None,
) -> Float32[np.ndarray, "T H E"]:
    tokens, num_heads, head_size = q_THE.shape
    total, num_kv_heads = k_SKE.shape[:2]
    q_EKGT = q_THE.astype(np.float64)
    q_EKGT = q_EKGT.reshape(tokens, num_kv_heads, -1, head_size).transpose(3, 1, 2, 0)
    k_EKS = k_SKE.astype(np.float64).transpose(2, 1, 0)
    scores_KGTS = np.zeros((*q_EKGT.shape[1:], total))
    for q_KGT, k_KS in zip(q_EKGT, k_EKS, strict=True):
        scores_KGTS += q_KGT[..., None] * k_KS[:, None, None, :]
    hidden_TS = _hidden_positions(tokens, total, window)
    scores_KGTS = np.where(hidden_TS, -np.inf, scores_KGTS / np.sqrt(head_size))
    scores_KGTS -= scores_KGTS.max(axis=-1, keepdims=True)
    weights_KGTS = exponential(scores_KGTS.astype(_F))
    # A hidden position adds an exact 0, so a longer context does not move these sums.
    sums_KGT = np.zeros(weights_KGTS.shape[:-1], _F)
    context_KGTE = np.zeros((*sums_KGT.shape, head_size), _F)
    for position in range(total):
        weight_KGT = weights_KGTS[..., position]
        sums_KGT += weight_KGT
        part_KGTE = weight_KGT[..., None] * v_SKE[position][:, None, None, :]
        part_KGTE[:, :, hidden_TS[:, position]] = 0  # 0 times an infinite value is no 0
        context_KGTE += part_KGTE
    context_KGTE /= sums_KGT[..., None]
    return context_KGTE.transpose(2, 0, 1, 3).reshape(tokens, num_heads, head_size)


def _attend_chunk_in_float32(
    q_THE: Float32[np.ndarray, "T H E"],
    k_SKE: Float32[np.ndarray, "S K E"],
    v_SKE: Float32[np.ndarray, "S K E"],
    window: int | None,
) -> Float32[np.ndarray, "T H E"]:
    tokens, num_heads, head_size = q_THE.shape
    total, num_kv_heads = k_SKE.shape[:2]
    q_EKGT = q_THE.reshape(tokens, num_kv_heads, -1, head_size).transpose(3, 1, 2, 0)
    k_EKS = k_SKE.transpose(2, 1, 0)
    scores_KGTS = np.zeros((*q_EKGT.shape[1:], total), _F)
    for q_KGT, k_KS in zip(q_EKGT, k_EKS, strict=True):
        scores_KGTS = fused_multiply_add(q_KGT[..., None], k_KS[:, None, None, :], scores_KGTS)
    hidden_TS = _hidden_positions(tokens, total, window)
    scores_KGTS = np.where(hidden_TS, _F(-np.inf), scores_KGTS / _F(np.sqrt(head_size)))
    scores_KGTS -= scores_KGTS.max(axis=-1, keepdims=True)
    weights_KGTS = exponential(scores_KGTS)
    sums_KGT = np.zeros(weights_KGTS.shape[:-1], _F)
    context_KGTE = np.zeros((*sums_KGT.shape, head_size), _F)
    for position in range(total):
        weight_KGT = weights_KGTS[..., position]
        sums_KGT += weight_KGT
        longer_KGTE = fused_multiply_add(
            weight_KGT[..., None], v_SKE[position][:, None, None, :], context_KGTE
        )
        hidden_T1 = hidden_TS[:, position, None]
        context_KGTE = np.where(hidden_T1, context_KGTE, longer_KGTE)
    context_KGTE /= sums_KGT[..., None]
    return context_KGTE.transpose(2, 0, 1, 3).reshape(tokens, num_heads, head_size)


def _hidden_positions(tokens: int, total: int, window: int | None) -> Bool[np.ndarray, "T S"]:
    query, key = np.arange(total - tokens, total)[:, None], np.arange(total)[None, :]
    hidden_TS: np.ndarray = key > query
    if window is not None:
        hidden_TS |= query - key >= window
    return hidden_TS
