"""Roundings that no numerics here declares, and declared ones that were not done.

float8, tf32, static 8-bit activations, integers cut and not rounded; both factors of a
product in a low precision; keys rounded in one way and values in another; a cache that is
declared in float16 and kept in float32.

Shape letters: T tokens, W width, R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.arithmetic import ROUNDINGS, UNIT, can_round, product_input
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.sampled_product import SampledProduct
from cotejar.diagnosis.hypotheses.weights import multiply_variant
from cotejar.diagnosis.observed import replay, rounded_inputs
from cotejar.diagnosis.operations import Attend, Embed, Project, compute
from cotejar.diagnosis.products import multiply
from cotejar.diagnosis.weight_variants import Rows, WeightVariant
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cotejar.diagnosis.case import Case


def _to_tf32(x: np.ndarray) -> np.ndarray:
    """Ten bits behind the point, halves up."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32) + np.uint32(0x1000)
    return (bits & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)


def _to_float8(x: np.ndarray, *, bits: int, least: int, greatest: float) -> np.ndarray:
    """`bits` behind the point, exponents from `least`, what is beyond `greatest` cut to it.

    Source of both formats: Micikevicius et al., 2022, "FP8 formats for deep learning".
    """
    x = np.asarray(x, np.float64)
    size = np.where(x == 0, 1.0, np.abs(x))
    step = 2.0 ** (np.maximum(np.floor(np.log2(size)), least) - bits)
    clipped: np.ndarray = np.clip(np.rint(x / step) * step, -greatest, greatest)
    return clipped


def _to_integers(
    x: np.ndarray, *, width: int | None, levels: int, whole: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Symmetric integers of one scale a group, in float32 as kernels have them.

    `width` 0 is one group for all tokens, None one a row.
    """
    rows = np.ascontiguousarray(x, np.float32)
    rows = rows.reshape(1, -1) if width == 0 else rows.reshape(-1, width or x.shape[-1])
    step = np.abs(rows).max(axis=1, keepdims=True) / np.float32(levels)
    step = np.where(step > 0, step, np.float32(1))
    rounded: np.ndarray = (whole(rows / step) * step).reshape(x.shape).astype(np.float64)
    return rounded


def _by_channel(x: np.ndarray, *, levels: int) -> np.ndarray:
    """One scale a channel, over all tokens."""
    return _to_integers(x.T, width=None, levels=levels, whole=np.rint).T


MORE_ROUNDINGS: Mapping[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    "tf32": (1, _to_tf32),
    "float8 e4m3": (1, partial(_to_float8, bits=3, least=-6, greatest=448.0)),
    "float8 e5m2": (1, partial(_to_float8, bits=2, least=-14, greatest=57344.0)),
    "int8 by one scale for all tokens": (
        1,
        partial(_to_integers, width=0, levels=127, whole=np.rint),
    ),
    "int8 a row, cut and not rounded": (
        1,
        partial(_to_integers, width=None, levels=127, whole=np.trunc),
    ),
    **{
        f"int8 by {width}{words}": (
            width,
            partial(_to_integers, width=width, levels=127, whole=whole),
        )
        for width in (16, 32, 64, 128, 256)
        for words, whole in (
            ("", np.rint),
            (", cut and not rounded", np.trunc),
            (", always down", np.floor),
        )
    },
    "int8 a channel": (1, partial(_by_channel, levels=127)),
    "int4 a channel": (1, partial(_by_channel, levels=7)),
    "int8 to -128": (1, partial(_to_integers, width=None, levels=128, whole=np.rint)),
}
"""By name: how many values a row must be a multiple of, and the rounding of an array."""

_KNOWN = (
    "f16",
    "bf16",
    "bf16 cut",
    "Q8_0",
    "int8 a row",
    "int8 by 32",
    "int4 a row",
    "int4 by 32",
)
_BOTH = ("bf16", "f16", "tf32", "float8 e4m3", "float8 e5m2", "bf16 cut")
"""In which both factors of a product may be."""


def roundings(width: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Those that `rounding` tries alone and new ones, for rows of that width."""
    found = {name: ROUNDINGS[name] for name in _KNOWN if can_round(name, width)}
    return found | {n: r for n, (block, r) in MORE_ROUNDINGS.items() if width % block == 0}


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of any site."""
    step = case.operation.step
    if isinstance(step, Project):
        sample = SampledProduct.of(case)
        yield from _activations(case, sample)
        yield from _both_factors(case, sample)
    elif isinstance(step, Attend):
        yield from _undone(case)
        yield from _keys_and_values(case, step)
    elif not isinstance(step, Embed):
        for how, (block, rounded) in MORE_ROUNDINGS.items():
            if all(a.shape[1] % block == 0 for a in case.inputs):
                yield Alternative(
                    id="input-rounded",
                    title=f"the input is rounded to {how}",
                    output=compute(
                        step, [rounded(a) for a in case.inputs], case.observed.truth.weights
                    ),
                )
    yield from _output(case)


def _activations(case: Case, sample: SampledProduct) -> Iterator[Alternative]:
    x_TC, declared = case.inputs[0], case.observed.arithmetic
    named = [
        (how, rounded(x_TC))
        for how, (block, rounded) in MORE_ROUNDINGS.items()
        if x_TC.shape[1] % block == 0
    ]
    case.screened.extend(how for how, values in named if not sample.is_worth(values))
    named = [(how, values) for how, values in named if sample.is_worth(values)]
    if not named:
        return
    givens = [product_input(values, "exact", case.matrix.block_type) for _, values in named]
    products = multiply(case.matrix, givens, weights=declared.weights)
    for (how, _), product_TR in zip(named, products, strict=True):
        yield Alternative(
            id="activations-rounded",
            title=f"activations are rounded to {how}",
            output=case.finish(product_TR),
        )


_ENCODED_FAST = {BlockType.Q4_0, BlockType.Q4_1, BlockType.Q8_0}
"""Types whose encoder looks for no better scale."""


def _both_factors(case: Case, sample: SampledProduct) -> Iterator[Alternative]:
    """Weight and activations in one low precision, sums exact."""
    x_TC, matrix = case.inputs[0], case.matrix
    known = roundings(x_TC.shape[1])
    tried = [
        (
            "product-rounded",
            f"weight and activations are rounded to {how}",
            product_input(known[how](x_TC), "exact", matrix.block_type),
            known[how],
        )
        for how in _BOTH
    ]
    for how, rounded in _stored_again(matrix).items():
        title = f"the weight is rounded to {how}, then to {matrix.block_type.label}"
        tried += [("weights-rounded", title, given, rounded) for given in case.givens]
    for id_, title, given, rounded in tried:
        few = given.values, rounded(sample.weight)
        last = rounded if id_ == "product-rounded" else None
        if not (sample.is_worth(*few) or sample.is_worth(*few, last)):
            case.screened.append(title)
            continue
        variant = WeightVariant(id=id_, title=title, rows=_rounded_rows(matrix, rounded))
        output_TR = case.finish(multiply_variant(variant, given, matrix))
        yield Alternative(id=id_, title=title, output=output_TR)
        if id_ == "product-rounded":  # as a kernel of that type leaves it
            name = title.rpartition(" ")[2]
            if name in UNIT:
                yield Alternative(
                    id=id_,
                    title=f"{title}, the output too",
                    output=case.but_for_ties(rounded(output_TR), UNIT[name]),
                )


def _stored_again(matrix: BlockMatrix) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Weights rounded in one way and written in their own type once more."""
    kind, columns = matrix.block_type, matrix.columns
    if kind not in _ENCODED_FAST or columns % kind.elements_per_block:
        return {}

    def again(values_RC: np.ndarray, rounded: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        flat = np.ascontiguousarray(rounded(values_RC), np.float32).reshape(-1)
        stored = BlockMatrix(
            block_type=kind, rows=len(values_RC), columns=columns, raw=encode(kind, flat)
        )
        return stored.decode_rows(0, len(values_RC)).astype(np.float64)

    return {
        how: partial(again, rounded=ROUNDINGS[how])
        for how in ("int8 a row", "int4 a row", "int4 by 32", "bf16")
        if can_round(how, columns)
    }


def _rounded_rows(
    matrix: BlockMatrix, rounded: Callable[[np.ndarray], np.ndarray]
) -> Callable[[int, int], Rows]:
    def rows(start: int, stop: int) -> Rows:
        return Rows(values=rounded(matrix.decode_rows(start, stop).astype(np.float64)))

    return rows


def _undone(case: Case) -> Iterator[Alternative]:
    """What the numerics declares of attention and the run did not do."""
    declared = case.observed.arithmetic
    names = {
        "cache": "keys and values are",
        "queries": "queries are",
        "probabilities": "the weights of attention are",
    }
    done = [field for field in names if getattr(declared, field) != "exact"]
    sets = [[field] for field in done] + ([done] if len(done) > 1 else [])
    for fields in sets:
        exactly = replace(
            declared,
            cache="exact" if "cache" in fields else declared.cache,
            queries="exact" if "queries" in fields else declared.queries,
            probabilities="exact" if "probabilities" in fields else declared.probabilities,
        )
        words = " and ".join(names[field].rsplit(" ", 1)[0] for field in fields)
        yield Alternative(
            id="cache-not-rounded" if "cache" in fields else "attention-not-rounded",
            title=f"{words} are not rounded, and {declared.name} rounds them",
            output=replay(
                case.operation, case.inputs, replace(case.observed, arithmetic=exactly)
            ),
        )


def _keys_and_values(case: Case, step: Attend) -> Iterator[Alternative]:
    """The rounding of keys, of values, and of both, that comes nearest."""
    weights, declared = case.observed.truth.weights, case.observed.arithmetic
    q_TW, k_TW, v_TW = rounded_inputs(step, case.inputs, declared)
    raw_k, raw_v = case.inputs[1], case.inputs[2]
    probabilities = ROUNDINGS[declared.probabilities]
    keys, values = {"": k_TW}, {"": v_TW}
    for how, rounded in roundings(k_TW.shape[1]).items():
        keys[how], values[how] = rounded(raw_k), rounded(raw_v)

    def output(key: str, value: str) -> np.ndarray:
        given = (q_TW, keys[key], values[value])
        return compute(step, given, weights, round_weights=probabilities)

    def left(key: str, value: str) -> float:
        return float(np.linalg.norm(case.recorded - output(key, value)))

    best_value = min(values, key=lambda how: left("", how))
    best_key = min(keys, key=lambda how: left(how, best_value))
    best_value = min(values, key=lambda how: left(best_key, how))
    key_first = min(keys, key=lambda how: left(how, ""))
    then_value = min(values, key=lambda how: left(key_first, how))
    pairs = [(best_key, best_value), (key_first, then_value)]
    pairs += [(how, how) for how in keys if how in MORE_ROUNDINGS]
    for key, value in dict.fromkeys(pairs):
        said = [f"keys are rounded to {key}"] if key else []
        said += [f"values are rounded to {value}"] if value else []
        if said:
            together = f"keys and values are rounded to {key}"
            yield Alternative(
                id="cache-rounded",
                title=together if key == value else ", ".join(said),
                output=output(key, value),
            )


_OF_THAT_FORM = 0.5
"""Share of the values that a rounding would leave as they are, if they were rounded so."""


def _output(case: Case) -> Iterator[Alternative]:
    """What was recorded has the form of the rounding and lies beside the right value."""
    right, recorded = case.right, case.recorded
    slack = 4 * case.error.limits[:, None] * case.error.output_norm[:, None]
    slack = slack / np.sqrt(right.shape[1])
    for how, (block, rounded) in MORE_ROUNDINGS.items():
        if right.shape[1] % block:
            continue
        has_form = np.isclose(rounded(recorded), recorded, rtol=1e-6, atol=0)
        if has_form.mean() < _OF_THAT_FORM:
            case.screened.append(f"the output is rounded to {how}")
            continue
        low, middle, high = rounded(right - slack), rounded(right), rounded(right + slack)
        between = (recorded >= np.minimum(low, high)) & (recorded <= np.maximum(low, high))
        yield Alternative(
            id="output-rounded",
            title=f"the output is rounded to {how}",
            output=np.where(has_form & between, recorded, middle),
        )
