"""An attention of which only the output projection's result was recorded.

What the projection was given is solved for: the right context, and what has to be added to it
so that the projection gives what was recorded. On that context every family of attention is
asked; what they say is carried through the projection and judged there. Where the projection
has fewer outputs than inputs the context is known in part, which is enough for what fits
nothing.

Shape letters: T tokens, R rows (outputs), C columns (values of the context).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative, Case
from cotejar.diagnosis.hypotheses.attention import (
    attention,
    attention_forms,
    attention_heads,
    attention_masks,
    attention_weights,
    extra_key,
    hidden_ranges,
)
from cotejar.diagnosis.hypotheses.attention.attended import Attended
from cotejar.diagnosis.hypotheses.attention.attention_heads import distance_biases
from cotejar.diagnosis.hypotheses.cache import cache_steps
from cotejar.diagnosis.hypotheses.precision import rounding, undeclared_rounding
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Attend, Project, Rotate
from cotejar.diagnosis.replay import LocalError
from cotejar.diagnosis.some_rows import RowsCase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jaxtyping import Float64

_FAMILIES = (
    attention,
    attention_masks,
    attention_heads,
    attention_forms,
    attention_weights,
    cache_steps,
    extra_key,
    hidden_ranges,
    rounding,
    undeclared_rounding,
)
_MOST_COLUMNS = 2048
"""Of a wider context the equations are too many."""
_DAMPED = 1e-10
"""Of the greatest squared singular value: what is added to each."""
_NEARER = 0.75
"""Of the distance from the solved context: what comes no nearer is not carried on."""
_CLEAR = 2.0
"""Limits that a wrong row of a solved context is taken to be off at the least."""


def alternatives(
    case: Case,
    name: str,
    carry: Callable[[Mapping[str, np.ndarray]], np.ndarray | None],
) -> Iterator[Alternative]:
    """Of the attention of that name, if the recorded site is the product of its context.

    Args:
        case: what was recorded behind it.
        name: of the attention's site.
        carry: what comes out at the recorded site if the attention gives this.
    """
    there = solved_case(case, name)
    if there is None:
        return
    yield from _without_turning(case, there, carry)
    with np.errstate(all="ignore"):
        for family in _FAMILIES:
            for one in family.alternatives(there):
                if not comes_nearer(there, one.output):
                    case.screened.append(one.title)
                    continue
                output = carry({name: one.output})
                if output is not None:
                    yield replace(one, title=f"{one.title}, in {name}", output=output)


def comes_nearer(there: Case, output_TC: Float64[np.ndarray, "T C"]) -> bool:
    """Is it nearer to a solved context than the right one, at every wrong token?"""
    if output_TC.shape != there.recorded.shape:
        return False
    before_T = _known_size(there, there.recorded - there.right)
    left_T = _known_size(there, there.recorded - output_TC)
    return bool((left_T <= _NEARER * before_T)[there.error.ratios > 1].all())


def _without_turning(
    case: Case, there: Case, carry: Callable[[Mapping[str, np.ndarray]], np.ndarray | None]
) -> Iterator[Alternative]:
    """Positions that come into the scores by a bias, and RoPE is not there."""
    operations, plain = case.observed.truth.operations, []
    for site in there.operation.inputs[:2]:
        turn = operations[str(site)]
        given = replace(case.observed, _derived={}).inputs(turn)
        if not isinstance(turn.step, Rotate) or given is None:
            return
        still = replace(turn.step, frequencies=(0.0,) * len(turn.step.frequencies))
        plain.append(replay(replace(turn, step=still), given.arrays, case.observed))
    attended = Attended.of(replace(there, inputs=(*plain, there.inputs[2])))
    if attended is None:
        return
    for one in distance_biases(attended):
        output = carry({there.operation.name: one.output})
        if output is not None:
            title = f"RoPE is left out, and {one.title}, in {there.operation.name}"
            yield replace(one, title=title, output=output)


def solved_case(case: Case, name: str) -> Case | None:
    """The attention as if its context had been recorded; None where nothing tells it."""
    operation = case.observed.truth.operations.get(name)
    step = case.operation.step
    if operation is None or not isinstance(operation.step, Attend):
        return None
    if not isinstance(step, Project) or case.operation.inputs != (operation.site,):
        return None
    inputs = replace(case.observed, _derived={}).inputs(operation)
    if inputs is None or case.matrix.columns > _MOST_COLUMNS:
        return None
    right_TC = replay(operation, inputs.arrays, case.observed)
    if len(right_TC) != len(case.recorded):
        return None
    added_TC, noise_T = _solve(case)
    size_T = np.maximum(np.linalg.norm(right_TC, axis=1), 1e-300)
    off_T = np.linalg.norm(added_TC, axis=1) / size_T
    limits_T = np.maximum(noise_T / size_T, 1e-300)
    wrong = case.error.ratios > 1
    if case.matrix.rows < case.matrix.columns:
        limits_T = np.maximum(off_T, limits_T)
    error = LocalError(
        site=name,
        side=case.observed.side,
        exact=off_T,
        left=np.where(wrong, np.maximum(off_T, _CLEAR * limits_T), limits_T / _CLEAR),
        limits=limits_T,
        output_norm=size_T,
        derived=(),
    )
    there = (operation, case.observed, inputs.arrays, right_TC + added_TC, error)
    known = _known_directions(case)
    if isinstance(case, RowsCase):
        return RowsCase(*there, known=known, looked_at=case.looked_at)
    return Case(*there, known=known)


def _known_size(there: Case, off_TC: Float64[np.ndarray, "T C"]) -> Float64[np.ndarray, "T"]:
    """Length of each token's, in the directions that are known."""
    size_T: np.ndarray = np.linalg.norm(
        off_TC if there.known is None else off_TC @ there.known, axis=1
    )
    return size_T


def _known_directions(case: Case) -> Float64[np.ndarray, "C R"] | None:
    """Of a context: those that fewer outputs than inputs tell apart."""
    matrix = case.matrix
    if matrix.rows >= matrix.columns:
        return None
    weight_RC = matrix.decode_rows(0, matrix.rows).astype(np.float64)
    directions_CR: np.ndarray = np.linalg.qr(weight_RC.T)[0]
    return directions_CR


def _solve(case: Case) -> tuple[Float64[np.ndarray, "T C"], Float64[np.ndarray, "T"]]:
    """What has to be added to the right context, and how far honest arithmetic moves it."""
    matrix = case.matrix
    weight_RC = matrix.decode_rows(0, matrix.rows).astype(np.float64)
    right_TR = case.products[0] if case.bias is None else case.products[0] + case.bias
    wide = matrix.rows < matrix.columns
    squares = weight_RC @ weight_RC.T if wide else weight_RC.T @ weight_RC
    values, vectors = np.linalg.eigh(squares)
    damped = np.maximum(values, 0) + _DAMPED * float(values[-1]) + 1e-300
    inverse = (vectors / damped) @ vectors.T
    off_TR = case.recorded_rows - right_TR
    added_TC = off_TR @ inverse @ weight_RC if wide else off_TR @ weight_RC @ inverse
    # A sum's error is spread over the outputs alike.
    spread = float(np.sqrt((np.maximum(values, 0) / damped**2).sum()))
    noise_T = case.error.limits * case.error.output_norm / np.sqrt(matrix.rows)
    return added_TC, spread * noise_T
