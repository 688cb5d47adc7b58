"""A function that ought not to be there, value by value: of the output or of an input.

A kernel that is fused with the wrong epilogue, a clamp, a square root, a ReLU that belongs
elsewhere: the operation is right and a known function came before it, behind it, or between
a product and its bias.

Shape letters: T tokens, W width, R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.function import activation
from cotejar.diagnosis.hypotheses.numbers import factor_text, nice
from cotejar.diagnosis.hypotheses.product.sampled_product import SampledProduct
from cotejar.diagnosis.hypotheses.weight.projection import fits_bias
from cotejar.diagnosis.observed import cap, replay
from cotejar.diagnosis.operations import Activate, Add, Embed, Multiply, Norm, Project
from cotejar.diagnosis.products import multiply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case


def _log_softmax(x_TW: np.ndarray) -> np.ndarray:
    greatest_T1 = x_TW.max(axis=1, keepdims=True)
    total_T1 = np.log(np.exp(x_TW - greatest_T1).sum(axis=1, keepdims=True))
    result: np.ndarray = x_TW - greatest_T1 - total_T1
    return result


def _unit_length(x_TW: np.ndarray) -> np.ndarray:
    result: np.ndarray = x_TW / np.linalg.norm(x_TW, axis=1, keepdims=True)
    return result


FUNCTIONS: Mapping[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "abs": ("the absolute value", np.abs),
    "square": ("the square", np.square),
    "signed_square": ("the square with its sign", lambda x: x * np.abs(x)),
    "cube": ("the cube", lambda x: x**3),
    "sqrt": ("the square root of the absolute value", lambda x: np.sqrt(np.abs(x))),
    "signed_sqrt": (
        "the square root, with its sign",
        lambda x: np.sign(x) * np.sqrt(np.abs(x)),
    ),
    "sign": ("the sign alone", np.sign),
    "exp": ("exp", np.exp),
    "log": ("the logarithm of the absolute value", lambda x: np.log(np.abs(x))),
    "log1p": ("log(1 + |x|), with the sign", lambda x: np.sign(x) * np.log1p(np.abs(x))),
    "reciprocal": ("the reciprocal", np.reciprocal),
    "sin": ("the sine", np.sin),
    "arctan": ("the arc tangent", np.arctan),
    "softsign": ("x / (1 + |x|)", lambda x: x / (1 + np.abs(x))),
    "negative_part": ("min(x, 0)", lambda x: np.minimum(x, 0.0)),
    "negation": ("the other sign", np.negative),
    "one_more": ("1 + x", lambda x: 1 + x),
    "one_less": ("1 - x", lambda x: 1 - x),
    "integers": ("the nearest integer", np.rint),
    "cut": ("the integer towards 0", np.trunc),
    "centred": ("x less the token's mean", lambda x: x - x.mean(axis=1, keepdims=True)),
    "less_greatest": (
        "x less the token's greatest",
        lambda x: x - x.max(axis=1, keepdims=True),
    ),
    "log_softmax": ("the logarithm of the softmax", _log_softmax),
    "softmax": ("the softmax", lambda x: np.exp(_log_softmax(x))),
    "unit_length": ("x over the token's L2 norm", _unit_length),
    **{
        name: (title, function)
        for name, (title, function) in activation.FUNCTIONS.items()
        if name != "identity"
    },
}
"""By name: what a title says of it, and the function of T x W values."""


_OF_WHOLE_ROWS = frozenset(
    FUNCTIONS[name][0]
    for name in ("centred", "less_greatest", "log_softmax", "softmax", "unit_length")
)
_ADDED = " is added"
_SOME_OUTPUTS = 2048
"""Of a wider output, so many tell whether a function is worth all of them."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of any site."""
    yield from _on_output(case)
    if isinstance(case.operation.step, Project):
        yield from _before_bias(case)
        yield from _before_product(case)
    elif not isinstance(case.operation.step, Embed):
        yield from _on_inputs(case)
    yield from _constant_outputs(case)


def _on_output(case: Case) -> Iterator[Alternative]:
    right = case.right
    step = case.operation.step
    if isinstance(step, Activate):
        title, function = activation.FUNCTIONS[step.function]
        yield Alternative(
            id="activation-twice",
            title=f"the gate is activated twice, by {title}",
            output=function(right),
        )
    some = slice(None, None, max(1, right.shape[1] // _SOME_OUTPUTS))
    before_T = np.linalg.norm((case.recorded - right)[:, some], axis=1)
    # What is added to every output of a product is a bias, and `projection` says so.
    is_bias = isinstance(step, Project) and fits_bias(case)
    for title, function, numbers in _applied(right, case.recorded):
        if is_bias and title.endswith(_ADDED):
            continue
        if some.step > 1 and title not in _OF_WHOLE_ROWS:
            left_T = np.linalg.norm(case.recorded[:, some] - function(right[:, some]), axis=1)
            if not (2 * left_T <= before_T).all():
                case.screened.append(title)
                continue
        yield Alternative(
            id="output-function",
            title=f"the output comes through a function: {title}",
            output=function(right),
            parameters=numbers,
        )
    if isinstance(case.operation.step, Norm):
        yield Alternative(
            id="norm-twice",
            title="the norm is applied twice, with its weight",
            output=replay(case.operation, (right,), case.observed),
        )
        gain = float(np.median(_ratios(case.recorded, right)))
        for value in dict.fromkeys((nice(gain, 4), gain)):
            yield Alternative(
                id="norm-scaled",
                title=f"the normed values are multiplied by {factor_text(value)}",
                output=value * right,
                parameters=1,
            )


def _ratios(
    recorded: Float64[np.ndarray, "T W"], right: Float64[np.ndarray, "T W"]
) -> Float64[np.ndarray, "n"]:
    """Recorded over right, where the right value is well away from 0."""
    usable = np.abs(right) > np.abs(right).mean() / 8
    return recorded[usable] / right[usable] if usable.any() else np.ones(1)


def _applied(
    right: Float64[np.ndarray, "T W"], recorded: Float64[np.ndarray, "T W"]
) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray], int]]:
    """Title, function, how many numbers were fitted to `recorded`."""
    for title, function in FUNCTIONS.values():
        yield title, function, 0
    low, high = float(recorded.min()), float(recorded.max())
    # A bound is one where several values meet; a maximum that one value has is no bound.
    for bound, title, clipped in (
        (high, f"values above {high:.4g} are clipped", lambda x: np.minimum(x, high)),
        (low, f"values below {low:.4g} are clipped", lambda x: np.maximum(x, low)),
    ):
        if np.count_nonzero(recorded == bound) > 1:
            yield title, clipped, 1
    if low != -high:
        title = f"values are clipped to {low:.4g} .. {high:.4g}"
        yield title, lambda x: np.clip(x, low, high), 2
    softcap = _softcap(right, recorded)
    if softcap is not None:
        for value in dict.fromkeys((nice(softcap, 3), softcap)):
            yield f"{value:.4g} tanh(x / {value:.4g})", partial(cap, softcap=value), 1
    added = float(np.median(recorded - right))
    for value in dict.fromkeys((nice(added, 3), added)):
        yield f"{value:.4g}{_ADDED}", partial(np.add, value), 1


def _softcap(
    right: Float64[np.ndarray, "T W"], recorded: Float64[np.ndarray, "T W"]
) -> float | None:
    """The c of c tanh(x / c) that takes the largest x to what was recorded for it."""
    place = np.unravel_index(int(np.abs(right).argmax()), right.shape)
    x, y = abs(float(right[place])), abs(float(recorded[place]))
    if not 0 < y < x * (1 - 1e-6):
        return None
    low, high = math.log(y), math.log(x) + 12
    for _ in range(80):  # c tanh(x / c) grows with c
        middle = (low + high) / 2
        if math.exp(middle) * math.tanh(x / math.exp(middle)) < y:
            low = middle
        else:
            high = middle
    return math.exp(low)


_FIRST_TOKENS = 24
"""Of a longer prompt, so many tokens tell whether an alternative is worth the whole."""
_WORTH = 8.0
"""So many limits off, and these do not rule it out."""


def _before_bias(case: Case) -> Iterator[Alternative]:
    """Between a product and its bias; or of the bias alone."""
    bias_R = case.bias
    if bias_R is None or case.project.softcap is not None:
        return
    for product_TR in case.products:
        without = case.recorded_rows - bias_R
        for title, function, numbers in _applied(product_TR, without):
            if title.endswith(_ADDED):
                continue  # as above
            yield Alternative(
                id="product-function",
                title=f"the product comes through a function before the bias: {title}",
                output=case.finish(function(product_TR)),
                parameters=numbers,
            )
        gain = float((product_TR * without).sum() / (product_TR**2).sum())
        off_R = (case.recorded_rows - product_TR).mean(axis=0)
        share = float((off_R * bias_R).sum() / (bias_R**2).sum()) if bias_R.any() else 1.0
        for value in dict.fromkeys((nice(gain, 3), gain)):
            yield Alternative(
                id="scaled-before-bias",
                title=f"the product is multiplied by {factor_text(value)} before the bias",
                output=case.finish(value * product_TR),
                parameters=1,
            )
        for value in dict.fromkeys((nice(share, 3), share)):
            yield Alternative(
                id="bias-scaled",
                title=f"the bias is multiplied by {factor_text(value)}",
                output=case.in_order(product_TR + value * bias_R),
                parameters=1,
            )


def _before_product(case: Case) -> Iterator[Alternative]:
    """The product of a function of its input; one decoding of the weight serves all."""
    x_TC = case.inputs[0]
    named = [(title, function(x_TC)) for title, function in FUNCTIONS.values()]
    named = [
        (title, values)
        for title, values in named
        if np.isfinite(values).all() and not np.array_equal(values, x_TC)
    ]
    sample = SampledProduct.of(case)
    case.screened.extend(title for title, values in named if not sample.is_worth(values))
    named = [(title, values) for title, values in named if sample.is_worth(values)]
    if not named:
        return
    given = [(title, one) for title, values in named for one in case.round_input(values)]
    products = multiply(case.matrix, [one for _, one in given])
    for (title, _), product_TR in zip(given, products, strict=True):
        yield Alternative(
            id="input-function",
            title=f"the input comes through a function: {title}",
            output=case.finish(product_TR),
        )


def _on_inputs(case: Case) -> Iterator[Alternative]:
    """One input of another operation; of a sum, the branch may have been bounded as well."""
    few = slice(0, _FIRST_TOKENS)  # of attention too: it never looks ahead
    allowed_T = _WORTH * case.error.limits[few] * np.linalg.norm(case.recorded[few], axis=1)
    for place, (site, values) in enumerate(
        zip(case.operation.inputs, case.inputs, strict=True)
    ):
        for name, (title, function) in FUNCTIONS.items():
            changed = function(values)
            if not np.isfinite(changed).all():
                continue
            inputs = [changed if i == place else one for i, one in enumerate(case.inputs)]
            if len(values) > _FIRST_TOKENS:
                first = replay(case.operation, [one[few] for one in inputs], case.observed)
                off_T = np.linalg.norm(first - case.recorded[few], axis=1)
                if not (off_T <= allowed_T).all():
                    case.screened.append(title)
                    continue
            again = isinstance(case.operation.step, Multiply) and place == 0
            again = again and name == case.observed.truth.config.activation
            yield Alternative(
                id="activation-twice" if again else "input-function",
                title=f"the gate is activated twice, by {title}"
                if again
                else f"{site} comes through a function before it is used: {title}",
                output=replay(case.operation, inputs, case.observed),
            )
        if isinstance(case.operation.step, Add):
            other = case.inputs[1 - place]
            for title, function, numbers in _applied(values, case.recorded - other):
                if numbers:
                    yield Alternative(
                        id="input-function",
                        title=f"{site} comes through a function before it is used: {title}",
                        output=other + function(values),
                        parameters=numbers,
                    )


def _constant_outputs(case: Case) -> Iterator[Alternative]:
    """Some outputs hold one number whatever the token: a mask over a padded vocabulary."""
    recorded, right = case.recorded, case.right
    if len(recorded) < 3:  # noqa: PLR2004 - two tokens may agree by chance
        return
    held = np.flatnonzero((recorded == recorded[:1]).all(axis=0))
    if not 0 < len(held) < recorded.shape[1]:
        return
    value = float(recorded[0, held[0]])
    if value == 0 or not (recorded[0, held] == value).all():
        return  # rows of zeros have a name of their own
    output = right.copy()
    output[:, held] = value
    yield Alternative(
        id="outputs-constant",
        title=f"outputs {held[0]}..{held[-1]} ({len(held)}) are {value:.4g} at every token",
        output=output,
        parameters=2,
    )
