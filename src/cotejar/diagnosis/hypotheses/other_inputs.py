"""The right operation on what another site holds: any recorded one of the same width.

Shape letters: T tokens, W width, R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Attend, Embed, Project
from cotejar.diagnosis.products import multiply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case
    from cotejar.trace.site import Site

_SAMPLE_ROWS = 32
_BETTER = 4.0
"""A product that is worth computing whole leaves so many times less of a sample."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of any operation but attention and the embedding, one input at a time."""
    step = case.operation.step
    if isinstance(step, Project):
        yield from _products(case)
    elif not isinstance(step, Attend | Embed):
        for place, values in enumerate(case.inputs):
            for site, array in _sites(case, values.shape):
                inputs = [array if i == place else one for i, one in enumerate(case.inputs)]
                yield Alternative(
                    id="other-input",
                    title=f"the input is {site}, not {case.operation.inputs[place]}",
                    output=replay(case.operation, inputs, case.observed),
                )


def _sites(
    case: Case, shape: tuple[int, ...]
) -> Iterator[tuple[Site, Float64[np.ndarray, "T W"]]]:
    """Every recorded site of that shape, but those that it reads and itself."""
    for operation in case.observed.truth.operations.values():
        site = operation.site
        if site == case.operation.site or site in case.operation.inputs:
            continue
        array = case.recorded_at(site)
        if array is not None and array.shape == shape:
            yield site, array


def _products(case: Case) -> Iterator[Alternative]:
    """A few rows tell which input is worth the whole product."""
    if case.project.softcap is not None:
        return
    rows = np.unique(np.linspace(0, case.matrix.rows - 1, _SAMPLE_ROWS).astype(int))
    weight_RC = np.concatenate(
        [case.matrix.decode_rows(int(r), int(r) + 1) for r in rows]
    ).astype(np.float64)
    bias_R = 0.0 if case.bias is None else case.bias[rows]
    wanted_TR = case.recorded_rows[:, rows] - bias_R
    before_T = np.linalg.norm(wanted_TR - case.inputs[0] @ weight_RC.T, axis=1)
    for site, array in _sites(case, case.inputs[0].shape):
        left_T = np.linalg.norm(wanted_TR - array @ weight_RC.T, axis=1)
        if not (left_T * _BETTER <= before_T).all():
            continue
        for product_TR in multiply(
            case.matrix, case.round_input(array), weights=case.observed.arithmetic.weights
        ):
            yield Alternative(
                id="other-input",
                title=f"the input is {site}, not {case.operation.inputs[0]}",
                output=case.finish(product_TR),
            )
