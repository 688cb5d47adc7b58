"""The right operation on what another site holds: any recorded one of the same width.

Shape letters: T tokens, W width, R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.product.sampled_product import SampledProduct
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Attend, Embed, Norm, Project, vector
from cotejar.diagnosis.products import multiply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case
    from cotejar.trace.site import Site


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of any operation but attention and the embedding, one input at a time."""
    step = case.operation.step
    if isinstance(step, Project):
        yield from _products(case)
        yield from _before_its_norm(case)
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
    """Every recorded site of that shape that comes before it, but those that it reads."""
    for operation in case.observed.truth.operations.values():
        site = operation.site
        if site == case.operation.site:
            return
        if site in case.operation.inputs:
            continue
        array = case.recorded_at(site)
        if array is not None and array.shape == shape:
            yield site, array


_A_NORM_S = 1e-3
"""So far from 1 is the gain of a norm that does something to every token."""


def _products(case: Case) -> Iterator[Alternative]:
    """A few rows tell which input is worth the whole product."""
    sample, own = SampledProduct.of(case), case.operation.inputs[0]
    found = [
        ("other-input", f"the input is {site}, not {own}", array)
        for site, array in _sites(case, case.inputs[0].shape)
    ]
    for id_, title, array in (*found, *_normed_again(case)):
        if not sample.is_worth(array):
            continue
        for product_TR in multiply(case.matrix, case.round_input(array)):
            yield Alternative(id=id_, title=title, output=case.finish(product_TR))


def _before_its_norm(case: Case) -> Iterator[Alternative]:
    """What the norm was given, where nobody recorded it: the input without gain and weight.

    The gain is a token's own and is fitted; that all outputs agree with it is what tells.
    """
    x_TW, own, truth = case.inputs[0], case.operation.inputs[0], case.observed.truth
    before = truth.operations.get(str(own))
    if before is None or not isinstance(before.step, Norm) or case.project.softcap is not None:
        return
    if case.recorded_at(before.inputs[0]) is not None:
        return  # `_sites` has it
    weight_W = vector(truth.weights, before.step.weight)
    if not weight_W.all():
        return
    bias_R = 0.0 if case.bias is None else case.in_order(case.bias[None])
    for product_TR in multiply(case.matrix, case.round_input(x_TW / weight_W)):
        plain_TR, wanted_TR = case.in_order(product_TR), case.recorded - bias_R
        size_T1 = (plain_TR * plain_TR).sum(axis=1, keepdims=True)
        gain_T1 = (plain_TR * wanted_TR).sum(axis=1, keepdims=True) / np.maximum(
            size_T1, 1e-300
        )
        if not (np.abs(gain_T1 - 1) > _A_NORM_S).all():
            continue
        yield Alternative(
            id="other-input",
            title=f"the input is {before.inputs[0]}, before the norm, not {own}",
            output=plain_TR * gain_T1 + bias_R,
            parameters=2,
        )


def _normed_again(case: Case) -> Iterator[tuple[str, str, Float64[np.ndarray, "T W"]]]:
    """By the norm that made it, where a norm did; and by none of the model's."""
    x_TW, own, truth = case.inputs[0], case.operation.inputs[0], case.observed.truth
    before = truth.operations.get(str(own))
    ones_W, eps = np.ones(x_TW.shape[1]), truth.config.rms_eps
    title = f"the input, {own}, is normed once more before the product"
    if before is not None and isinstance(before.step, Norm):
        weight_W = vector(truth.weights, before.step.weight)
        yield (
            "input-normed",
            f"{title}, by the same norm",
            exact.rms_norm(x_TW, weight_W, before.step.eps),
        )
    yield "input-normed", f"{title}, without a weight", exact.rms_norm(x_TW, ones_W, eps)
