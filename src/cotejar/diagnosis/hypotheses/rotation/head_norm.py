"""The RMSNorm of each head before RoPE: missing, too many, after RoPE, or of other figures.

Turned back by the right angles, what was recorded is what the norm gave: every family of
norms is asked about that, each head of each token by itself.

Shape letters: T tokens, H heads, E head size, P pairs, N = T * H.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative, Case
from cotejar.diagnosis.hypotheses.function import norm
from cotejar.diagnosis.operations import vector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.operations import Norm, Rotate


def other_head_norms(case: Case, step: Rotate, plain_THE: np.ndarray) -> Iterator[Alternative]:
    """Of a rotation: with a norm before it, its ways to be wrong; else one too many."""
    angles_TP = np.outer(step.first_position + np.arange(len(plain_THE)), step.frequencies)
    if step.norm is None:
        yield from _one_too_many(case, plain_THE, angles_TP)
        return
    weights = case.observed.truth.weights
    weight_E = vector(weights, step.norm.weight)
    other = step.norm.weight.replace("q_norm", "?").replace("k_norm", "q_norm")
    other_E = vector(weights, other.replace("?", "k_norm"))
    ones_E = np.ones_like(weight_E)
    turned_THE = exact.turn(plain_THE, angles_TP)
    normed = exact.rms_norm
    flat_TW = plain_THE.reshape(len(plain_THE), 1, -1)
    whole_THE = normed(flat_TW, np.ones(flat_TW.shape[2]), step.norm.eps)
    for id_, title, output_THE in (
        ("head-norm-missing", "the norm of each head is left out", turned_THE),
        (
            "head-norm-after-rope",
            "heads are normed after RoPE, not before",
            normed(turned_THE, weight_E, step.norm.eps),
        ),
        (
            "head-norm-swapped",
            "the norms of q and k change places",
            exact.turn(normed(plain_THE, other_E, step.norm.eps), angles_TP),
        ),
        (
            "head-norm-weight-missing",
            "the weight of the norm of each head is left out",
            exact.turn(normed(plain_THE, ones_E, step.norm.eps), angles_TP),
        ),
        (
            "head-norm-over-all",
            "the norm is taken over all heads together",
            exact.turn(whole_THE.reshape(plain_THE.shape) * weight_E, angles_TP),
        ),
        (
            "head-norm-one-plus-weight",
            "the weight of the norm of each head is taken as 1 + w",
            exact.turn(normed(plain_THE, 1 + weight_E, step.norm.eps), angles_TP),
        ),
    ):
        yield Alternative(id=id_, title=title, output=exact.join_heads(output_THE))
    yield from _as_norms(case, step.norm, plain_THE, angles_TP)


def _one_too_many(
    case: Case,
    plain_THE: Float64[np.ndarray, "T H E"],
    angles_TP: Float64[np.ndarray, "T P"],
) -> Iterator[Alternative]:
    """Heads are normed in a model that norms none."""
    ones_E = np.ones(plain_THE.shape[2])
    eps = case.observed.truth.config.rms_eps
    for value in dict.fromkeys((eps, 0.0, 1e-5, 1e-6)):
        yield Alternative(
            id="head-norm-extra",
            title="each head is normed (RMS, without a weight), and this model norms none",
            output=exact.join_heads(
                exact.turn(exact.rms_norm(plain_THE, ones_E, value), angles_TP)
            ),
        )


def _as_norms(
    case: Case,
    step: Norm,
    plain_THE: Float64[np.ndarray, "T H E"],
    angles_TP: Float64[np.ndarray, "T P"],
) -> Iterator[Alternative]:
    """Every way to get a norm wrong, of what came before the turn."""
    tokens, heads, e = plain_THE.shape
    before_NE = exact.turn(exact.split_heads(case.recorded, e), -angles_TP).reshape(-1, e)
    right_NE = exact.turn(exact.split_heads(case.right, e), -angles_TP).reshape(-1, e)
    error = case.error
    size_N = np.maximum(np.linalg.norm(right_NE, axis=1), 1e-300)
    there = Case(
        replace(case.operation, step=step),
        case.observed,
        (plain_THE.reshape(-1, e),),
        before_NE,
        replace(
            error,
            exact=np.repeat(error.exact, heads),
            left=np.repeat(error.left, heads),
            limits=np.repeat(error.limits, heads),
            output_norm=size_N,
        ),
    )
    for one in norm.alternatives(there):
        if one.output.shape != before_NE.shape:
            continue
        output_THE = exact.turn(one.output.reshape(tokens, heads, e), angles_TP)
        id_ = one.id.replace("norms-swapped", "norm-swapped")
        title = f"the norm of each head: {one.title}"
        if id_ == "norm-eps":
            title = one.title.replace("of the norm", "of the norm of each head", 1)
        yield replace(
            one,
            id=f"head-{id_}" if id_.startswith("norm") else id_,
            title=title,
            output=exact.join_heads(output_THE),
        )
