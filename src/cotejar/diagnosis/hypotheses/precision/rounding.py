"""Roundings that the numerics does not declare: of inputs, of keys and values, of the output.

An engine that says float32 and multiplies 8-bit activations, or keeps its cache in float16,
is wrong about itself: that is a finding as well.

Shape letters: T tokens, W width.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.arithmetic import (
    Q8,
    ROUNDINGS,
    UNIT,
    W8A8,
    can_round,
    product_input,
)
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.product.variant_product import explains_rows, telling_rows
from cotejar.diagnosis.operations import Attend, Embed, Project, compute
from cotejar.diagnosis.products import multiply
from cotejar.diagnosis.weight_variants import WeightVariant, plain_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case

HOW = (
    "f16",
    "bf16",
    "bf16 cut",
    "Q8_0",
    "int8 a row",  # of 256 values it is Q8_K, and says less
    "Q8_K",
    "int8 by 32",
    "int4 a row",
    "int4 by 32",
)


_OF_THAT_FORM = 0.5
"""Share of the values that a rounding leaves as they are, if they were rounded so."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of any site."""
    step = case.operation.step
    if isinstance(step, Project):
        yield from _activations(case)
    elif isinstance(step, Attend):
        yield from _cache(case, step)
    elif not isinstance(step, Embed):
        for how in HOW:
            if all(can_round(how, a.shape[1]) for a in case.inputs):
                yield from rounded_inputs_of(case, how, ROUNDINGS[how])
    yield from _output(case)


def rounded_inputs_of(
    case: Case, how: str, rounded: Callable[[np.ndarray], np.ndarray]
) -> Iterator[Alternative]:
    """All inputs rounded; of more than one, each alone."""
    step, inputs = case.operation.step, case.inputs
    sets = [("the input is", set(range(len(inputs))))]
    if len(inputs) > 1:
        sets = [("the inputs are", set(range(len(inputs))))]
        sets += [(f"{site} is", {i}) for i, site in enumerate(case.operation.inputs)]
    for words, places in sets:
        given = [rounded(a) if i in places else a for i, a in enumerate(inputs)]
        yield Alternative(
            id="input-rounded",
            title=f"{words} rounded to {how}",
            output=compute(step, given, case.observed.truth.weights),
        )


def _activations(case: Case) -> Iterator[Alternative]:
    declared = case.arithmetic
    x_TC, kind = case.inputs[0], case.matrix.block_type
    titles = {
        "exact": f"activations are not rounded, and {declared.name} rounds them",
        "blocks": f"activations are rounded to 8-bit blocks, and {declared.name} says not",
    }
    rows = telling_rows(case)
    plain = WeightVariant(id="", title="", rows=partial(plain_rows, case.matrix))
    yield from _other_numerics(case, plain, rows)
    for how in ("exact", "blocks", *HOW):
        if how == declared.activations or not can_round(how, x_TC.shape[1]):
            continue
        given = [product_input(x_TC, how, kind, weights=declared.weights)]
        if declared.activations != "exact" and how in HOW:
            # Rounded so before the product, which then rounds as ever.
            first, then = ROUNDINGS[how](x_TC), declared.activations
            given.append(product_input(first, then, kind, weights=declared.weights))
        # A few rows tell whether it is worth the whole product.
        near = [one for one in given if explains_rows(case, plain, one, rows)]
        if not near:
            case.screened.append(titles.get(how, how))
            continue
        for product_TR in multiply(case.matrix, near):
            yield Alternative(
                id="activations-rounded",
                title=titles.get(how, f"activations are rounded to {how}"),
                output=case.finish(product_TR),
            )


def _other_numerics(
    case: Case, plain: WeightVariant, rows: list[slice]
) -> Iterator[Alternative]:
    """Both factors as another numerics rounds them."""
    declared = case.arithmetic
    for other in (Q8, W8A8):
        if other.weights == declared.weights:
            continue  # activations alone tell them apart
        how, kind = other.activations, case.matrix.block_type
        given = product_input(case.inputs[0], how, kind, weights=other.weights)
        title = f"the product is that of {other.name}, not of {declared.name}"
        if not explains_rows(case, plain, given, rows):
            case.screened.append(title)
            continue
        product_TR = multiply(case.matrix, [given])[0]
        output = case.finish(product_TR)
        yield Alternative(id="product-numerics", title=title, output=output)


def _cache(case: Case, step: Attend) -> Iterator[Alternative]:
    q_TW, k_TW, v_TW = case.inputs
    weights, e = case.observed.truth.weights, step.head_dim

    def by_head(rounded: str, values_TW: np.ndarray) -> np.ndarray:
        return ROUNDINGS[rounded](values_TW.reshape(-1, e)).reshape(values_TW.shape)

    for how in HOW:
        if not can_round(how, k_TW.shape[1]):
            continue
        k, v, q = ROUNDINGS[how](k_TW), ROUNDINGS[how](v_TW), q_TW
        sets = [("keys and values", q, k, v), ("keys", q, k, v_TW), ("values", q, k_TW, v)]
        if how in {"f16", "bf16"}:
            sets.append(("queries, keys and values", ROUNDINGS[how](q), k, v))
            sets.append(("queries", ROUNDINGS[how](q), k_TW, v_TW))
            sets.append(("queries and keys", ROUNDINGS[how](q), k, v_TW))
        if how.endswith("a row"):
            sets += [
                ("the heads of keys and values", q, by_head(how, k_TW), by_head(how, v_TW)),
                ("the heads of keys", q, by_head(how, k_TW), v_TW),
                ("the heads of values", q, k_TW, by_head(how, v_TW)),
            ]
        for what, *given in sets:
            output = compute(step, given, weights)
            title = f"{what} are rounded to {how}"
            yield Alternative(id="cache-rounded", title=title, output=output)
            if how in UNIT:  # as a kernel of that type leaves it
                last = case.but_for_ties(ROUNDINGS[how](output), UNIT[how])
                title = f"{title}, the output too"
                yield Alternative(id="cache-rounded", title=title, output=last)


def _output(case: Case) -> Iterator[Alternative]:
    """Rounded after it was computed: what was recorded has the form, and is nearest.

    Where the right value lies between two roundings, either is taken for it.
    """
    right, recorded = case.right, case.recorded
    slack = 4 * case.error.limits[:, None] * case.error.output_norm[:, None]
    slack = slack / np.sqrt(right.shape[1])
    ends = recorded[[0, -1]]

    def is_likely(how: str) -> bool:
        """Rounding again leaves most of two tokens as they are."""
        same = np.isclose(ROUNDINGS[how](ends), ends, rtol=1e-6, atol=0)
        if same.mean() < _OF_THAT_FORM:
            case.screened.append(f"the output is rounded to {how}")
        return bool(same.mean() >= _OF_THAT_FORM)

    # Where honest arithmetic moves values further than that, anything lies between.
    known = 4 * float(case.error.limits.min())
    for how in ("f16", "bf16", "bf16 cut"):
        if UNIT[how.removesuffix(" cut")] < known or not is_likely(how):
            continue
        yield Alternative(
            id="output-rounded",
            title=f"the output is rounded to {how}",
            output=_to_steps_near(right, recorded, how, slack),
        )
    for how in ("int8 a row", "int8 by 32", "int4 a row", "int4 by 32"):
        if can_round(how, right.shape[1]) and is_likely(how):
            yield Alternative(
                id="output-rounded",
                title=f"the output is rounded to {how}",
                output=_to_steps_near(right, recorded, how, slack),
            )


def _to_steps_near(
    right: Float64[np.ndarray, "T W"],
    recorded: Float64[np.ndarray, "T W"],
    how: str,
    slack: Float64[np.ndarray, "T 1"],
) -> Float64[np.ndarray, "T W"]:
    low, high = ROUNDINGS[how](right - slack), ROUNDINGS[how](right + slack)
    rounded = ROUNDINGS[how](right)
    near_low = np.abs(recorded - low) < np.abs(recorded - rounded)
    near_high = np.abs(recorded - high) < np.abs(recorded - rounded)
    return np.where(near_low, low, np.where(near_high, high, rounded))
