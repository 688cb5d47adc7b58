"""How large a local error may be, from the arithmetic alone.

A limit is a token's: the largest relative L2 distance between what an engine computed and
what float64 makes of the same recorded inputs, after every rounding that the engine's
numerics declares has been repeated exactly. What is left are the roundings of the sums.

**A sum of n products** in precision u. Rounding errors behave as independent (Higham and
Mary, 2019, "A new approach to probabilistic rounding error analysis"), so that output i
errs by about u sqrt(n) times the root mean square of its partial sums, which is at most
the larger of |y_i| and s_i = sqrt(sum_j (w_ij x_j)^2). Over a token's outputs

    limit = DEVIATIONS u sqrt(n) sqrt(|y|^2 + sum_i s_i^2) / |y|

and sum_i s_i^2 = sum_j x_j^2 c_j^2 with c_j the norms of the weight's columns.

**RMSNorm**: the sum of W positive squares errs by at most sqrt(W) u as above, halved by the
root. What is normed is rounded to the type of values, and again with the weight.

**RoPE**: an angle, made in float32 by repeated multiplication, errs by at most 2 u T radians
at position T (pair p by p u, and pair p turns T theta^(-p/P)). Cosine and sine, the products
and their sum are rounded to the type of values.

**Attention**: a score errs by at most u |q| |k| scale sqrt(E) / sqrt(E); an error d of the
scores changes weights by 2 d relatively. In a low precision, of unit roundoff U, scores s_j
are rounded as a product, scaled, and less their maximum; weights p_j and the context c once:

    limit^2 = DEVIATIONS^2 (sum_j p_j^2 (d_j^2 |v_j - c|^2 + U^2 |v_j|^2) + (U |c|)^2)
    d_j^2 = 2 (U s_j)^2 + (U (s_j - max s))^2

because to first order dc = sum_j p_j d_j (v_j - c), and the d_j are independent.

**Elementwise**: an addition, a product or an activation rounds to the type of values once; an
activation is some seven operations in the type of sums.

**Inputs that were not recorded** are known to the roundings of the operations between. Before
a product that rounds activations to steps, some of them then fall into the next step:
a value known to d falls so with probability 2 d / step. Of n such values, expected in a token,
at most n + DEVIATIONS sqrt(n) + 2 do, each by a step times its column of the weight.

Where arrays were recorded in a coarser type than the run computes in, that rounding of inputs
and output is added.

Shape letters: T tokens, C columns, R rows, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.arithmetic import ROUNDINGS, UNIT
from cotejar.diagnosis.operations import (
    Activate,
    Add,
    Attend,
    Multiply,
    Norm,
    Project,
    Rotate,
    key_heads,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float64

    from cotejar.diagnosis.arithmetic import Arithmetic
    from cotejar.diagnosis.operations import Step

DEVIATIONS = 4.0
"""Standard deviations of a sum's rounding error that are still honest."""

ACCEPTED = 3.0
"""A cause is named if what it leaves is within so many limits."""


def product_limit(
    arithmetic: Arithmetic,
    *,
    columns: int,
    output_T: Float64[np.ndarray, "T"],
    spread_T: Float64[np.ndarray, "T"],
) -> Float64[np.ndarray, "T"]:
    """Of a product: `output_T` is |y| a token, `spread_T` sqrt(sum_i s_i^2)."""
    condition_T = np.sqrt(1 + divide(spread_T, output_T) ** 2)
    sums_T = DEVIATIONS * arithmetic.sum_unit * np.sqrt(columns) * condition_T
    # Inputs that were rounded when they were recorded err independently, as sums do.
    sums_T = sums_T + 2 * DEVIATIONS * arithmetic.recorded_unit * condition_T
    limit_T: np.ndarray = 2 * arithmetic.value_unit + sums_T
    return limit_T


def step_limit(
    step: Step,
    inputs: Sequence[Float64[np.ndarray, "T W"]],
    output_TW: Float64[np.ndarray, "T W"],
    arithmetic: Arithmetic,
) -> Float64[np.ndarray, "T"]:
    """Of every other operation."""
    tokens, width = output_TW.shape
    unit = arithmetic.value_unit + 4 * arithmetic.recorded_unit
    sums = arithmetic.sum_unit
    match step:
        case Norm():
            limit = 2 * unit + (2 + np.sqrt(width)) * sums
        case Rotate():
            norms = 0 if step.norm is None else 2 * unit + (2 + np.sqrt(step.head_dim)) * sums
            limit = 2 * unit + (2 + 2 * tokens) * sums + norms
        case Attend():
            return _attention_limit(step, inputs, output_TW, arithmetic)
        case Activate():
            # Some values of a table fall on the other side of the middle of two.
            table = UNIT["f16"] / 4 if arithmetic.gelu_table else 0.0
            limit = unit + 7 * sums + table
        case Add() | Multiply():
            limit = unit
        case _:  # embed: the table's rows are exact, and a scale rounds once
            limit = 2 * unit
    return np.full(tokens, limit + unit)


FLIPPED = 4e-3
"""What activations in the next of 255 steps add to a product that nobody recorded. Measured:
honest layers of SmolLM2 in Q4_1, of which the output alone was recorded, with seven products
one behind another, are off by 1.1e-2 at most; seven of these are 2.8e-2."""


def derived_limit(steps: Sequence[Step], arithmetic: Arithmetic) -> float:
    """What inputs that were not recorded add: the roundings of the operations between."""
    unit, sums = arithmetic.value_unit, arithmetic.sum_unit
    total = 0.0
    for step in steps:
        match step:
            case Activate():
                table = UNIT["f16"] / 4 if arithmetic.gelu_table else 0.0
                total += 8 * unit + table
            case Add() | Multiply():
                total += unit
            case _:  # norms, turns and products: sums of at most some thousands
                total += 8 * unit + DEVIATIONS * 64 * sums
                if isinstance(step, Project) and arithmetic.activations != "exact":
                    total += FLIPPED
    return total


def flips_limit(
    x_TC: Float64[np.ndarray, "T C"],
    *,
    known: float,
    block: int,
    column_squares_C: Float64[np.ndarray, "C"],
    output_T: Float64[np.ndarray, "T"],
) -> Float64[np.ndarray, "T"]:
    """What activations in the next of 255 steps add to a product.

    Args:
        x_TC: the activations, before they are rounded.
        known: how well, relatively to a token's L2 norm.
        block: values that share a step.
        column_squares_C: squared norms of the weight's columns.
        output_T: L2 norm of the product, a token.
    """
    tokens, columns = x_TC.shape
    filled = np.pad(np.abs(x_TC), ((0, 0), (0, -columns % block)))  # the last may be short
    step_TB = filled.reshape(tokens, -1, block).max(axis=2) / 127
    step_TC = np.repeat(step_TB, block, axis=1)[:, :columns]
    off_T1 = known * np.linalg.norm(x_TC, axis=1, keepdims=True) / np.sqrt(columns)
    chance_TC = np.divide(2 * off_T1, step_TC, out=np.zeros_like(x_TC), where=step_TC > 0)
    expected_T = np.minimum(chance_TC, 1.0).sum(axis=1)
    count_T = expected_T + DEVIATIONS * np.sqrt(expected_T) + 2
    largest_T = (step_TC * np.sqrt(column_squares_C)).max(axis=1)
    return divide(np.sqrt(count_T) * largest_T, output_T)


def _attention_limit(
    step: Attend,
    inputs: Sequence[Float64[np.ndarray, "T W"]],
    output_TW: Float64[np.ndarray, "T W"],
    arithmetic: Arithmetic,
) -> Float64[np.ndarray, "T"]:
    q_THE, k_TKE, v_TKE = (exact.split_heads(a, step.head_dim) for a in inputs)
    tokens, heads = q_THE.shape[:2]
    mapped = np.array(key_heads(step, heads))
    # The largest key so far, head by head, for every query.
    key_TH = np.maximum.accumulate(np.linalg.norm(k_TKE, axis=2), axis=0)[:, mapped]
    score_TH = np.linalg.norm(q_THE, axis=2) * key_TH * step.scale
    score_error_TH = 2 * (arithmetic.sum_unit + arithmetic.recorded_unit) * score_TH
    value_TH = np.maximum.accumulate(np.linalg.norm(v_TKE, axis=2), axis=0)[:, mapped]
    error_TH = (2 * score_error_TH + np.sqrt(tokens) * arithmetic.context_unit) * value_TH
    total_T = np.linalg.norm(error_TH, axis=1)
    if arithmetic.probabilities != "exact":
        sure_TH = 4 * arithmetic.sum_unit * (4 + score_TH)
        total_T = total_T + _undecided(step, (q_THE, k_TKE, v_TKE), arithmetic, sure_TH)
    unit = arithmetic.value_unit
    if unit > arithmetic.sum_unit:
        total_T = total_T + unit * _rounded_scores(step, (q_THE, k_TKE, v_TKE))
        unit = arithmetic.sum_unit
    units = 5 * unit + 4 * arithmetic.recorded_unit
    return units + divide(total_T, np.linalg.norm(output_TW, axis=1))


def _rounded_scores(
    step: Attend, heads: tuple[Float64[np.ndarray, "T H E"], ...]
) -> Float64[np.ndarray, "T"]:
    """What rounding scores, weights and context to the type of values does, over its unit."""
    q_THE, k_TKE, v_TKE = heads
    seen_TT = exact.visible_keys(len(q_THE), step.window)
    squares_T = np.zeros(len(q_THE))
    for head, key_head in enumerate(key_heads(step, q_THE.shape[1])):
        scores_TT = q_THE[:, head] @ k_TKE[:, key_head].T * step.scale
        values_TE = v_TKE[:, key_head]
        # A softcap divides, bounds and multiplies: two more roundings.
        rounds_TT = (2 if step.softcap is None else 4) * scores_TT**2
        if step.softcap is not None:
            scores_TT = step.softcap * np.tanh(scores_TT / step.softcap)
        scores_TT = np.where(seen_TT, scores_TT, -np.inf)
        weights_TT = exact.softmax(scores_TT)
        below_TT = scores_TT - scores_TT.max(axis=1, keepdims=True)
        rounds_TT += np.where(seen_TT, below_TT, 0.0) ** 2
        context_TE = weights_TT @ values_TE
        value_T = np.square(values_TE).sum(axis=1)
        context_T1 = np.square(context_TE).sum(axis=1, keepdims=True)
        away_TT = np.maximum(value_T - 2 * context_TE @ values_TE.T + context_T1, 0.0)
        rounded_TT = weights_TT**2 * (rounds_TT * away_TT + value_T)
        squares_T += rounded_TT.sum(axis=1) + context_T1[:, 0]
    return DEVIATIONS * np.sqrt(squares_T)


def _undecided(
    step: Attend,
    heads: tuple[Float64[np.ndarray, "T H E"], ...],
    arithmetic: Arithmetic,
    sure_TH: Float64[np.ndarray, "T H"],
) -> Float64[np.ndarray, "T"]:
    """What may come of weights of attention so near the middle of two that either is honest.

    `sure_TH` is how exactly a weight is known before it is rounded, relatively.
    """
    rounded, (q_THE, k_TKE, v_TKE) = ROUNDINGS[arithmetic.probabilities], heads
    sure = float(sure_TH.max())

    def spread(weights_TT: np.ndarray) -> np.ndarray:
        gap: np.ndarray = rounded(weights_TT * (1 + sure)) - rounded(weights_TT * (1 - sure))
        return gap

    allowed_THE = exact.attend(
        q_THE,
        k_TKE,
        np.abs(v_TKE),
        scale=step.scale,
        visible_TT=exact.visible_keys(len(q_THE), step.window),
        key_heads=key_heads(step, q_THE.shape[1]),
        softcap=step.softcap,
        round_weights=spread,
    )
    norms_T: np.ndarray = np.linalg.norm(exact.join_heads(allowed_THE), axis=1)
    return norms_T


def divide(
    numerator: Float64[np.ndarray, "T"], denominator: Float64[np.ndarray, "T"]
) -> Float64[np.ndarray, "T"]:
    """0/0 is 0, x/0 infinite; NaN stays NaN."""
    quotient = np.where(numerator == 0, 0.0, np.inf)
    quotient[np.isnan(numerator)] = np.nan
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient
