"""The RMSNorm of each head before RoPE: missing, after RoPE, or of other figures.

Shape letters: T tokens, H heads, E head size, P pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.numbers import nice, search_number
from cotejar.diagnosis.operations import vector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case
    from cotejar.diagnosis.operations import Rotate


def other_head_norms(case: Case, step: Rotate, plain_THE: np.ndarray) -> Iterator[Alternative]:
    """Of a rotation with a norm before it; of another none."""
    if step.norm is None:
        return
    weights = case.observed.truth.weights
    weight_E = vector(weights, step.norm.weight)
    angles_TP = np.outer(step.first_position + np.arange(len(plain_THE)), step.frequencies)
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
    yield from _other_eps(case, step.norm.eps, plain_THE, weight_E, angles_TP)


def _other_eps(
    case: Case,
    eps: float,
    plain_THE: Float64[np.ndarray, "T H E"],
    weight_E: Float64[np.ndarray, "E"],
    angles_TP: Float64[np.ndarray, "T P"],
) -> Iterator[Alternative]:
    """Zero, powers of ten, and the one that leaves least."""

    def with_eps(value: float) -> Float64[np.ndarray, "T W"]:
        return exact.join_heads(
            exact.turn(exact.rms_norm(plain_THE, weight_E, value), angles_TP)
        )

    found = search_number(
        lambda value: float(np.linalg.norm(case.recorded - with_eps(value))), 1e-9, 10.0
    )
    for value in dict.fromkeys(
        (0.0, 10 * eps, eps / 10, nice(found, 1), nice(found, 2), found)
    ):
        yield Alternative(
            id="head-norm-eps",
            title=f"eps of the norm of each head is {value:.3g} and ought to be {eps:.3g}",
            output=with_eps(value),
            parameters=1,
        )
