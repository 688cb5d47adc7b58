"""A product with the right input and a wrong weight: transposed, misread, another tensor's.

A few rows at which the output is wrong are multiplied first; only what explains those is
multiplied whole.

Shape letters: T tokens, R rows (outputs), C columns (inputs), V vocabulary.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.arithmetic import ProductInput
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.numbers import nice, search_number
from cotejar.diagnosis.hypotheses.product.rounded_products import products
from cotejar.diagnosis.hypotheses.product.sampled_product import SampledProduct
from cotejar.diagnosis.hypotheses.product.variant_product import (
    explains_rows,
    multiply_variant,
    telling_rows,
)
from cotejar.diagnosis.hypotheses.weight.tensor_swap import name_swap
from cotejar.diagnosis.operations import Project
from cotejar.diagnosis.products import ROWS_AT_ONCE_BYTES, multiply
from cotejar.diagnosis.weight_variants import (
    Rows,
    WeightVariant,
    plain_rows,
    weight_variants,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case
    from cotejar.quant.block_matrix import BlockMatrix


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site that is a product."""
    if not isinstance(case.operation.step, Project):
        return
    samples = telling_rows(case)
    yield from _transposed(case)
    yield from _changed_values(case)
    plain = WeightVariant(id="", title="", rows=partial(plain_rows, case.matrix))
    how = case.arithmetic.weights
    right = [plain.rows(r.start, r.stop).rounded(how) for r in samples]
    reads = [(one, case.other_givens) for one in _other_tensors(case)]
    reads += [(one, case.givens) for one in weight_variants(case.matrix)]
    for variant, givens in reads:
        if _is_right(variant, samples, right, how):
            continue
        for given in givens:
            if not explains_rows(case, variant, given, samples):
                case.screened.append(variant.title)
            else:
                product_TR = multiply_variant(variant, given, case.matrix)
                for words, output in case.finishes(product_TR):
                    title = f"{variant.title}{_as_heads(case, variant)}{words}"
                    yield Alternative(id=variant.id, title=title, output=output)


def _as_heads(case: Case, variant: WeightVariant) -> str:
    """Of columns of the output projection: what a tile is of the context."""
    if case.operation.site.slot != "attn_out" or variant.id != "mis-tiled":
        return ""
    config = case.observed.truth.config
    e, heads = config.head_dim, config.num_heads
    if variant.title.endswith("transposed") and re.search(rf"\b({e}|{heads})\b", variant.title):
        return ": the context's heads and their values change axes"
    return ": each is a head of the context" if f" of {e}" in variant.title else ""


def _changed_values(case: Case) -> Iterator[Alternative]:
    """Cut to a range, less what is small, or mixed with another tensor: one number each."""
    if case.project.softcap is not None:
        return
    sample, x_TC = SampledProduct.of(case), case.inputs[0]
    wanted_TR, own_RC = sample.recorded - sample.bias, sample.weight
    greatest = float(np.abs(own_RC).max()) or 1.0

    def cut(values: np.ndarray, bound: float) -> np.ndarray:
        clipped: np.ndarray = np.clip(values, -bound, bound)
        return clipped

    def flushed(values: np.ndarray, bound: float) -> np.ndarray:
        return np.where(np.abs(values) < bound, 0.0, values)

    for id_, words, change in (
        ("weight-clipped", "is cut to {:.4g} on both sides", cut),
        ("weight-pruned", "has what is smaller than {:.4g} set to 0", flushed),
    ):

        def left(bound: float, change: Callable[..., np.ndarray] = change) -> float:
            return float(np.square(wanted_TR - x_TC @ change(own_RC, bound).T).sum())

        found = search_number(left, 1e-4 * greatest, greatest)
        for bound in dict.fromkeys((nice(found, 1), nice(found, 2), nice(found, 3), found)):
            if sample.is_worth(x_TC, change(own_RC, bound)):
                rows = partial(_changed_rows, case.matrix, partial(change, bound=bound))
                title = f"the weight {words.format(bound)}"
                variant = WeightVariant(id=id_, title=title, rows=rows)
                output_TR = multiply_variant(variant, case.givens[-1], case.matrix)
                yield Alternative(
                    id=id_, title=title, output=case.finish(output_TR), parameters=1
                )
    yield from _mixed(case, sample)


def _changed_rows(
    matrix: BlockMatrix, change: Callable[[np.ndarray], np.ndarray], start: int, stop: int
) -> Rows:
    return Rows(values=change(matrix.decode_rows(start, stop).astype(np.float64)))


_LEAST_PART = 1e-3
"""Of another tensor: less of it is none."""


def _mixed(case: Case, sample: SampledProduct) -> Iterator[Alternative]:
    """So much of the right weight and so much of another: two models or layers merged."""
    x_TC, weights = case.inputs[0], case.observed.truth.weights
    wanted = (sample.recorded - sample.bias).reshape(-1)
    own = x_TC @ sample.weight.T
    for name, other in weights.items():
        same = (other.rows, other.columns) == (case.matrix.rows, case.matrix.columns)
        if name == case.project.weight or not same:
            continue
        rows_RC = np.concatenate([other.decode_rows(int(r), int(r) + 1) for r in sample.rows])
        parts = np.stack([own.reshape(-1), (x_TC @ rows_RC.astype(np.float64).T).reshape(-1)])
        a, b = np.linalg.lstsq(parts.T, wanted, rcond=None)[0].tolist()
        if abs(b) < _LEAST_PART or not sample.is_worth(x_TC, a * sample.weight + b * rows_RC):
            continue
        product_TR = multiply(other, [ProductInput(values=x_TC)])[0]
        for digits in (2, 4, 12):
            x, y = nice(a, digits), nice(b, digits)
            yield Alternative(
                id="weight-mixed",
                title=f"the weight is {x:.4g} times itself and {y:.4g} times {name}: merged?",
                output=case.finish(x * case.products[-1] + y * product_TR),
                parameters=2,
            )


def _is_right(
    variant: WeightVariant,
    samples: list[slice],
    right: list[Float64[np.ndarray, "R C"]],
    how: str,
) -> bool:
    """Does this weight come out the same however it is read? Then it explains nothing."""
    return all(
        np.array_equal(variant.rows(rows.start, rows.stop).rounded(how), values)
        for rows, values in zip(samples, right, strict=True)
    )


def _transposed(case: Case) -> Iterator[Alternative]:
    """The weight's bytes, rows after rows, taken for columns after columns."""
    title = f"{case.project.weight} is read transposed"
    multiply = partial(_multiply_transposed, case.matrix)
    yield from products(case, "weight-transposed", title, multiply)


def _multiply_transposed(
    matrix: BlockMatrix, given: ProductInput
) -> Float64[np.ndarray, "T R"]:
    """Value i of the flat weight belongs to column i // R and row i % R."""
    rows, columns = matrix.rows, matrix.columns
    x_TC = given.values
    output_TR = np.zeros((len(x_TC), rows))
    at_once = max(1, ROWS_AT_ONCE_BYTES // (8 * columns))
    for start in range(0, rows, at_once):
        stop = min(start + at_once, rows)
        flat = matrix.decode_rows(start, stop).reshape(-1).astype(np.float64)
        first, end = start * columns, stop * columns
        position = first
        while position < end:
            column, row = divmod(position, rows)
            length = min(rows - row, end - position)
            if row == 0 and end - position >= rows:  # whole columns at once
                count = (end - position) // rows
                part = flat[position - first :][: count * rows].reshape(count, rows)
                output_TR += x_TC[:, column : column + count] @ part
                position += count * rows
                continue
            part = flat[position - first :][:length]
            output_TR[:, row : row + length] += np.outer(x_TC[:, column], part)
            position += length
    return output_TR


def _other_tensors(case: Case) -> Iterator[WeightVariant]:
    """Every other weight of the model that has the same shape."""
    right, weights = case.project.weight, case.observed.truth.weights
    for name, other in weights.items():
        same = (other.rows, other.columns) == (case.matrix.rows, case.matrix.columns)
        if name == right or not same:
            continue

        def rows(start: int, stop: int, other: BlockMatrix = other) -> Rows:
            return plain_rows(other, start, stop)

        id_, title = name_swap(right, name)
        yield WeightVariant(id=id_, title=title, rows=rows)
