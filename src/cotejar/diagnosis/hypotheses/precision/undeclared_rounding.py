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
from cotejar.diagnosis.hypotheses.numbers import factor_text, nice
from cotejar.diagnosis.hypotheses.precision.rounding import rounded_inputs_of
from cotejar.diagnosis.hypotheses.product.low_precision import MORE_ROUNDINGS, roundings
from cotejar.diagnosis.hypotheses.product.sampled_product import SampledProduct
from cotejar.diagnosis.hypotheses.product.variant_product import multiply_variant
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


_BOTH = (
    "bf16",
    "f16",
    "tf32",
    "float8 e4m3",
    "float8 e5m2",
    "bf16 cut",
    "int8 a row",
    "int8 by 32",
    "int8 by 64",
    "int8 by 128",
    "int4 a row",
)
"""In which both factors of a product may be."""


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
        yield from _scaled_values(case, step)
    elif not isinstance(step, Embed):
        for how, (block, rounded) in MORE_ROUNDINGS.items():
            if all(a.shape[1] % block == 0 for a in case.inputs):
                yield from rounded_inputs_of(case, how, rounded)
    yield from _output(case)


def _activations(case: Case, sample: SampledProduct) -> Iterator[Alternative]:
    x_TC, weights, kind = case.inputs[0], case.arithmetic.weights, case.matrix.block_type
    named = [
        (how, rounded(x_TC))
        for how, (block, rounded) in MORE_ROUNDINGS.items()
        if x_TC.shape[1] % block == 0
    ]
    case.screened.extend(how for how, values in named if not sample.is_worth(values))
    named = [(how, values) for how, values in named if sample.is_worth(values)]
    if not named:
        return
    givens = [product_input(values, "exact", kind, weights=weights) for _, values in named]
    products = multiply(case.matrix, givens)
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
        if how in known
    ]
    tried += [
        ("weights-rounded", f"the weight is rounded to {how}", given, rounded)
        for how, rounded in (known | _as_blocks(matrix)).items()
        if not how.endswith(("by one scale for all tokens", "by one scale", "a channel"))
        for given in case.givens
    ]
    yield from _scaled_weights(case, sample, known)
    for how, rounded in _stored_again(matrix).items():
        title = f"the weight is rounded to {how}, then to {matrix.block_type.label}"
        tried += [("weights-rounded", title, given, rounded) for given in case.givens]
    for id_, title, given, rounded in tried:
        few = given.values, rounded(sample.weight)
        is_float = id_ == "product-rounded" and "int" not in title
        last = rounded if is_float else None
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


def _scaled_weights(
    case: Case, sample: SampledProduct, known: Mapping[str, Callable[[np.ndarray], np.ndarray]]
) -> Iterator[Alternative]:
    """A weight stored over a scale and read without it: rounded, and times one number."""
    right_TR, wanted_TR = case.inputs[0] @ sample.weight.T, sample.recorded - sample.bias
    gain = float((wanted_TR * right_TR).sum() / max((right_TR**2).sum(), 1e-300))
    if sample.softcap is not None or not np.isfinite(gain) or abs(gain - 1) < _NO_GAIN:
        return
    greatest = max(float(np.abs(case.matrix.decode_rows(a, b)).max()) for a, b in _runs(case))
    for factor in dict.fromkeys((448 / greatest, 127 / greatest, nice(gain, 3), gain)):
        for how in ("float8 e4m3", "float8 e5m2", "int8 by one scale for all tokens"):
            rounded = partial(_times, factor=factor, rounded=known[how])
            title = f"the weight is multiplied by {factor_text(factor)} and rounded to {how}: "
            title += "its scale is left out"
            if not sample.is_worth(case.inputs[0], rounded(sample.weight)):
                case.screened.append(title)
                continue
            variant = WeightVariant(
                id="weights-rounded", title=title, rows=_rounded_rows(case.matrix, rounded)
            )
            product_TR = multiply_variant(variant, case.givens[-1], case.matrix)
            yield Alternative(
                id="weights-rounded", title=title, output=case.finish(product_TR), parameters=1
            )


def _runs(case: Case) -> list[tuple[int, int]]:
    rows = case.matrix.rows
    return [(start, min(start + 1024, rows)) for start in range(0, rows, 1024)]


def _times(
    values: np.ndarray, *, factor: float, rounded: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    return rounded(factor * values)


def _as_blocks(matrix: BlockMatrix) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Written in another type's blocks, and read from them."""

    def stored(values_RC: np.ndarray, kind: BlockType) -> np.ndarray:
        flat = np.ascontiguousarray(values_RC, np.float32).reshape(-1)
        raw = encode(kind, flat)
        blocks = BlockMatrix(
            block_type=kind, rows=len(values_RC), columns=values_RC.shape[1], raw=raw
        )
        return blocks.decode_rows(0, len(values_RC)).astype(np.float64)

    return {
        kind.label: partial(stored, kind=kind)
        for kind in sorted(_ENCODED_FAST, key=lambda one: one.label)
        if kind is not matrix.block_type and matrix.columns % kind.elements_per_block == 0
    }


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
    last = ROUNDINGS[declared.probabilities]
    keys, values = {"": k_TW}, {"": v_TW}
    for how, rounded in roundings(k_TW.shape[1]).items():
        keys[how], values[how] = rounded(raw_k), rounded(raw_v)
        if how.endswith("a row"):  # a row may be a head's
            by_head = f"{how} of a head"
            keys[by_head], values[by_head] = (
                rounded(raw.reshape(-1, step.head_dim)).reshape(raw.shape)
                for raw in (raw_k, raw_v)
            )

    over_tokens = roundings_of_many_tokens(case, step.head_dim)
    for how, rounded in over_tokens.items():
        keys[how], values[how] = rounded(raw_k), rounded(raw_v)

    def output(key: str, value: str) -> np.ndarray:
        return compute(step, (q_TW, keys[key], values[value]), weights, round_weights=last)

    def left(key: str, value: str) -> float:
        return float(np.linalg.norm(case.recorded - output(key, value)))

    best_value = min(values, key=lambda how: left("", how))
    best_key = min(keys, key=lambda how: left(how, best_value))
    best_value = min(values, key=lambda how: left(best_key, how))
    key_first = min(keys, key=lambda how: left(how, ""))
    then_value = min(values, key=lambda how: left(key_first, how))
    pairs = [(best_key, best_value), (key_first, then_value)]
    pairs += [
        (how, how) for how in keys if how in MORE_ROUNDINGS or how.endswith("over a pass")
    ]
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


_OVER_TOKENS = {
    "int8 by one scale": "int8 by one scale for all tokens",
    "int4 by one scale": "int4 by one scale for all tokens",
    "uint8 with a zero point, by one scale": "uint8 with a zero point, by one scale",
    "int8 a channel": "int8 a channel",
    "int4 a channel": "int4 a channel",
}
"""Whose scale is many tokens', by what a title says."""


def roundings_of_many_tokens(
    case: Case, head_dim: int
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """One scale for all that one pass stored, of all heads or of each; or a head's."""
    passes = case.observed.trace.passes
    cuts = np.cumsum(passes)[:-1] if sum(passes) == len(case.inputs[1]) else np.array([], int)
    found: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
    for words, how in _OVER_TOKENS.items():
        rounded = MORE_ROUNDINGS[how][1]
        ways = {"": rounded}
        if "channel" not in how:  # which is a head's anyway
            ways[" for each head"] = partial(_each_head, rounded=rounded, head_dim=head_dim)
            found[f"{words} for each head"] = ways[" for each head"]
        if len(cuts):
            for whose, way in ways.items():
                found[f"{words}{whose} over a pass"] = partial(
                    _each_pass, rounded=way, cuts=cuts
                )
    return found


def _each_head(
    values_TW: np.ndarray, *, rounded: Callable[[np.ndarray], np.ndarray], head_dim: int
) -> np.ndarray:
    heads = np.split(values_TW, values_TW.shape[1] // head_dim, axis=1)
    return np.concatenate([rounded(head) for head in heads], axis=1)


def _each_pass(
    values_TW: np.ndarray, *, rounded: Callable[[np.ndarray], np.ndarray], cuts: np.ndarray
) -> np.ndarray:
    return np.concatenate([rounded(part) for part in np.split(values_TW, cuts)])


def _scaled_values(case: Case, step: Attend) -> Iterator[Alternative]:
    """Values that were rounded over a scale and are read without it, or with another."""
    weights, (q_TW, k_TW, v_TW) = case.observed.truth.weights, case.inputs
    gain = float((case.recorded * case.right).sum() / max((case.right**2).sum(), 1e-300))
    if not np.isfinite(gain) or abs(gain - 1) < _NO_GAIN:
        return
    power = float(2.0 ** round(np.log2(abs(gain)))) if gain else 1.0
    for value in dict.fromkeys((nice(gain, 1), nice(gain, 2), power, nice(gain, 3))):
        for how, rounded in roundings(v_TW.shape[1]).items():
            for words, used_TW in (
                (
                    f"multiplied by {factor_text(value)}, then rounded to {how}",
                    rounded(value * v_TW),
                ),
                (
                    f"rounded to {how}, then multiplied by {factor_text(value)}",
                    value * rounded(v_TW),
                ),
            ):
                yield Alternative(
                    id="cache-scaled",
                    title=f"values are {words}: a scale of the cache is left out on one side",
                    output=compute(step, (q_TW, k_TW, used_TW), weights),
                    parameters=1,
                )


_NO_GAIN = 0.02
_OF_THAT_FORM = 0.5
"""Share of the values that a rounding would leave as they are, if they were rounded so."""


def _output(case: Case) -> Iterator[Alternative]:
    """What was recorded has the form of the rounding and lies beside the right value."""
    right, recorded = case.right, case.recorded
    slack = 4 * case.error.limits[:, None] * case.error.output_norm[:, None]
    slack = slack / np.sqrt(right.shape[1])
    if 4 * float(case.error.limits.min()) > UNIT["f16"]:
        return  # honest arithmetic moves values to both sides of most roundings
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
