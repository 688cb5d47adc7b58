"""RMSNorm: eps, its weight, 1 + w, another norm, none, low precision.

A norm is a gain a token and a weight a channel, so both can be read off what was recorded:
the gain gives eps, the quotient by the normed input gives the weight that was used.

Shape letters: T tokens, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.function import norm_eps
from cotejar.diagnosis.hypotheses.function.norm_precision import rounded_norms
from cotejar.diagnosis.hypotheses.weight.order_names import order_words
from cotejar.diagnosis.hypotheses.weight.tensor_swap import name_swap
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Norm, vector
from cotejar.trace.site import SLOTS, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case

_FEWEST_TOKENS = 2
"""From fewer tokens a weight a channel could be read off anything."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site that is a norm."""
    step = case.operation.step
    if not isinstance(step, Norm):
        return
    x_TW = case.inputs[0]
    weight_W = vector(case.observed.truth.weights, step.weight)
    yield from _eps(case, x_TW, weight_W, step.eps)
    yield from formulas(case, step)
    yield from rounded_norms(case, x_TW, weight_W, step.eps)
    yield from _other_inputs(case, weight_W, step.eps)
    yield from _other_weights(case, step)


def formulas(case: Case, step: Norm) -> Iterator[Alternative]:
    """Other formulas of a norm: what a routine that computes every norm may have."""
    weight_W = vector(case.observed.truth.weights, step.weight)
    yield from _formulas(case.inputs[0], weight_W, step.eps)
    yield from _one_gain(case.inputs[0], weight_W, step.eps)
    yield from _width(case.recorded, case.inputs[0], weight_W, step.eps)
    yield from _gains(case.recorded, case.inputs[0], weight_W, step.eps)
    yield from _of_sizes(case.inputs[0], weight_W, step.eps)


def _of_sizes(
    x_TW: Float64[np.ndarray, "T W"], weight_W: Float64[np.ndarray, "W"], eps: float
) -> Iterator[Alternative]:
    """Another size of a token than the root mean square, with eps and without."""
    sizes_TW = np.abs(x_TW)
    for id_, words, size_T1 in (
        ("norm-mean-abs", "mean of the absolute values", sizes_TW.mean(axis=1, keepdims=True)),
        ("norm-greatest", "greatest absolute value", sizes_TW.max(axis=1, keepdims=True)),
    ):
        for added in (eps, 0.0):
            yield Alternative(
                id=id_,
                title=f"divided by the {words}, not by the root mean square",
                output=x_TW / np.maximum(size_T1 + added, 1e-300) * weight_W,
            )


def _gain(
    recorded_TW: Float64[np.ndarray, "T W"], plain_TW: Float64[np.ndarray, "T W"]
) -> Float64[np.ndarray, "T"]:
    """What each token was multiplied by, by least squares."""
    gain_T: np.ndarray = (recorded_TW * plain_TW).sum(axis=1) / (plain_TW * plain_TW).sum(
        axis=1
    )
    return gain_T


def _eps(
    case: Case, x_TW: Float64[np.ndarray, "T W"], weight_W: Float64[np.ndarray, "W"], eps: float
) -> Iterator[Alternative]:
    """As well as it is known."""
    known = norm_eps.of_norm(case, weight_W, eps)
    if known is not None and known.value != eps:
        yield Alternative(
            id="norm-eps",
            title=f"eps of the norm is {known.text} and ought to be {eps:.3g}",
            output=exact.rms_norm(x_TW, weight_W, known.value),
            parameters=1,
        )
    square_T1 = np.mean(x_TW * x_TW, axis=1, keepdims=True)
    yield Alternative(
        id="norm-eps-outside",
        title="eps is added outside the root",
        output=x_TW / (np.sqrt(square_T1) + eps) * weight_W,
    )


def _formulas(
    x_TW: Float64[np.ndarray, "T W"], weight_W: Float64[np.ndarray, "W"], eps: float
) -> Iterator[Alternative]:
    ones_W = np.ones_like(weight_W)
    normed_TW = exact.rms_norm(x_TW, ones_W, eps)
    centred_TW = x_TW - x_TW.mean(axis=1, keepdims=True)
    yield Alternative(
        id="norm-missing", title="the norm is left out: its input came through", output=x_TW
    )
    for id_, title, output in (
        ("norm-one-plus-weight", "the weight is taken as 1 + w", normed_TW * (1 + weight_W)),
        ("norm-weight-less-one", "1 is missing in the weight", normed_TW * (weight_W - 1)),
        ("norm-weight-missing", "the weight is left out", normed_TW),
        ("norm-weight-only", "only the weight is applied, no norm", x_TW * weight_W),
        ("norm-weight-twice", "the weight is applied twice", normed_TW * weight_W**2),
        ("norm-divided", "the weight divides", normed_TW / weight_W),
        ("norm-twice", "the norm is applied twice", exact.rms_norm(normed_TW, weight_W, eps)),
        (
            "norm-twice",
            "the norm is applied twice, with its weight",
            exact.rms_norm(normed_TW * weight_W, weight_W, eps),
        ),
        (
            "norm-centred",
            "a LayerNorm: the mean is subtracted first",
            exact.rms_norm(centred_TW, weight_W, eps),
        ),
        (
            "norm-sum",
            "divided by the root of the sum, not of the mean",
            x_TW / np.sqrt((x_TW * x_TW).sum(axis=1, keepdims=True) + eps) * weight_W,
        ),
        (
            "norm-over-tokens",
            "the mean square is taken over all tokens",
            x_TW / np.sqrt(np.mean(x_TW * x_TW) + eps) * weight_W,
        ),
        (
            "norm-variance",
            "divided by the standard deviation, and the mean is not subtracted",
            x_TW / np.sqrt(x_TW.var(axis=1, keepdims=True) + eps) * weight_W,
        ),
    ):
        yield Alternative(id=id_, title=title, output=output)


def _one_gain(
    x_TW: Float64[np.ndarray, "T W"], weight_W: Float64[np.ndarray, "W"], eps: float
) -> Iterator[Alternative]:
    """Tokens that are divided by another token's mean square."""
    square_T1 = np.mean(x_TW * x_TW, axis=1, keepdims=True)
    for words, other_T1 in (
        ("last one", square_T1[-1]),
        ("first one", square_T1[0]),
        ("one before", np.roll(square_T1, 1, axis=0)),
    ):
        yield Alternative(
            id="norm-one-gain",
            title=f"every token is divided by the mean square of the {words}",
            output=x_TW / np.sqrt(other_T1 + eps) * weight_W,
        )


def _width(
    recorded_TW: Float64[np.ndarray, "T W"],
    x_TW: Float64[np.ndarray, "T W"],
    weight_W: Float64[np.ndarray, "W"],
    eps: float,
) -> Iterator[Alternative]:
    """The sum of squares over another count: sum / n + eps = (x w / y)^2 gives n."""
    width = x_TW.shape[1]
    plain_TW = x_TW * weight_W
    gain_T = _gain(recorded_TW, plain_TW)
    sum_T = (x_TW * x_TW).sum(axis=1)
    with np.errstate(all="ignore"):
        count = float(np.median(sum_T / (1 / gain_T**2 - eps)))
    if np.isfinite(count) and round(count) >= 1 and round(count) != width:
        whole = round(count)
        yield Alternative(
            id="norm-width",
            title=f"the sum of squares is divided by {whole}, not by the {width} values",
            output=x_TW / np.sqrt(sum_T[:, None] / whole + eps) * weight_W,
            parameters=1,
        )


_NEARLY = 0.01
"""A gain that is off by less, in another way at every token, was computed roughly."""


def _gains(
    recorded_TW: Float64[np.ndarray, "T W"],
    x_TW: Float64[np.ndarray, "T W"],
    weight_W: Float64[np.ndarray, "W"],
    eps: float,
) -> Iterator[Alternative]:
    """What tokens are divided by has a bound, or is known roughly."""
    plain_TW = x_TW * weight_W
    gain_T = _gain(recorded_TW, plain_TW)
    square_T = np.mean(x_TW * x_TW, axis=1)
    bounds = (
        ("least", float(gain_T.max()), np.minimum),
        ("greatest", gain_T.min(), np.maximum),
    )
    for words, bound, bounded in bounds:
        if not (np.isfinite(bound) and bound):
            continue
        right_T = 1 / np.sqrt(square_T + eps)
        output = plain_TW * bounded(right_T, bound)[:, None]
        yield Alternative(
            id="norm-bounded",
            title=f"the mean square is {1 / bound**2:.4g} at the {words}",
            output=output,
            parameters=1,
        )
    ratio_T = gain_T * np.sqrt(square_T + eps)
    if len(ratio_T) > 1 and (np.abs(ratio_T - 1) < _NEARLY).all():
        yield Alternative(
            id="norm-gain",
            title="each token is divided by a root mean square that is known roughly: "
            f"{ratio_T.min():.6g} to {ratio_T.max():.6g} times the right gain, an approximate "
            "root or a sum in low precision",
            output=plain_TW * gain_T[:, None],
            parameters=len(ratio_T),
        )


def _other_inputs(
    case: Case, weight_W: Float64[np.ndarray, "W"], eps: float
) -> Iterator[Alternative]:
    """The norm of what another site of the layer holds."""
    layer, right = case.operation.site.layer, case.operation.inputs[0]
    sites = [Site(slot, layer) for slot in SLOTS] if layer is not None else []
    num_layers = case.observed.truth.config.num_layers
    before = num_layers if layer is None else layer
    sites += [Site("output", before - 1) if before else Site("embed")]
    sites += [Site("attn_residual", before - 1)] if before else []
    for site in sites:
        other = None if site in {right, case.operation.site} else case.recorded_at(site)
        if other is not None and other.shape == case.recorded.shape:
            yield Alternative(
                id="other-input",
                title=f"the input is {site}, not {right}",
                output=exact.rms_norm(other, weight_W, eps),
            )


def _other_weights(case: Case, step: Norm) -> Iterator[Alternative]:
    """Every vector of that width in the model, and the one that can be read off."""
    x_TW, weights = case.inputs[0], case.observed.truth.weights
    width = x_TW.shape[1]
    normed_TW = exact.rms_norm(x_TW, np.ones(width), step.eps)
    squares_W = (normed_TW * normed_TW).sum(axis=0)
    with np.errstate(all="ignore"):
        used_W = (case.recorded * normed_TW).sum(axis=0) / squares_W
    if not np.isfinite(used_W).all():
        return
    same = [n for n, m in weights.items() if m.rows == 1 and m.columns == width]
    distances = {n: float(np.linalg.norm(used_W - vector(weights, n))) for n in same}
    nearest = min(distances, key=lambda n: distances[n], default=None)
    if nearest is not None and nearest != step.weight:
        id_, title = name_swap(step.weight, nearest)
        if id_ == "other-layer" and not _others_have_their_own(case):
            id_, title = _whole_layers(case, step.weight, nearest)
        yield Alternative(
            id=id_,
            title=title,
            output=normed_TW * vector(weights, nearest),
        )
    right_W = vector(weights, step.weight)
    order_W = np.argsort(right_W)[np.argsort(np.argsort(used_W))]
    moved = order_W != np.arange(width)
    if moved.any():
        words = order_words(order_W) or f"{int(moved.sum())} of {width} are others'"
        yield Alternative(
            id="norm-weight-order",
            title=f"the weight's channels are in another order: {words}",
            output=normed_TW * right_W[order_W],
            parameters=2,
        )
    yield from _named_orders(normed_TW, right_W, used_W)
    if len(x_TW) > _FEWEST_TOKENS:
        wrong = int((np.abs(used_W - right_W) > 1e-4 * np.abs(right_W)).sum())
        yield Alternative(
            id="norm-weight",
            title=f"the weight differs in {wrong} of {width} channels",
            output=normed_TW * used_W,
            parameters=width,
        )


def _named_orders(
    normed_TW: Float64[np.ndarray, "T W"],
    right_W: Float64[np.ndarray, "W"],
    used_W: Float64[np.ndarray, "W"],
) -> Iterator[Alternative]:
    """Of orders that programs have the nearest: roundings do not make another one of it."""
    width = len(right_W)
    named = {
        "in reverse order": right_W[::-1],
        "one channel late": np.roll(right_W, 1),
        "one channel early": np.roll(right_W, -1),
        "its halves change places": np.roll(right_W, width // 2),
        "even channels, then odd ones": np.concatenate([right_W[::2], right_W[1::2]]),
    }
    words = min(named, key=lambda one: float(np.linalg.norm(used_W - named[one])))
    yield Alternative(
        id="norm-weight-order",
        title=f"the weight's channels are in another order: {words}",
        output=normed_TW * named[words],
        parameters=1,
    )


_AS_RIGHT = 1e-2
"""What another operation of a layer leaves at the most, if it has its own weight."""
_READ_FIRST = ("q", "k", "v", "ffn_norm", "ffn_gate", "attn_norm")


def _others_have_their_own(case: Case) -> bool:
    """Does another operation of the layer compute with this layer's weights?

    Then the norm's is not the whole layer's. One that was recorded with its input tells.
    """
    observed, layer = case.observed, case.operation.site.layer
    for slot in _READ_FIRST:
        operation = observed.truth.operations.get(str(Site(slot, layer)))
        if operation is None or operation.name == case.operation.name:
            continue
        recorded_TW = observed.recorded(operation.site)
        given = [observed.recorded(site) for site in operation.inputs]
        arrays = [one for one in given if one is not None]
        if recorded_TW is None or len(arrays) < len(given):
            continue
        right_TW = replay(operation, arrays, observed)
        if right_TW.shape == recorded_TW.shape:
            off = float(np.linalg.norm(right_TW - recorded_TW))
            return off <= _AS_RIGHT * float(np.linalg.norm(recorded_TW))
    return False


def _whole_layers(case: Case, right: str, used: str) -> tuple[str, str]:
    """The layer whose weight is used: has it this one's in turn, or its own?"""
    layer, other = (int(name.split(".")[2]) for name in (right, used))
    operation = case.observed.truth.operations[str(Site(case.operation.site.slot, other))]
    recorded = case.recorded_at(operation.site)
    inputs = case.observed.inputs(operation)
    title = f"layer {layer} takes the weights of layer {other}"
    step = operation.step
    if recorded is None or inputs is None or not isinstance(step, Norm):
        return "other-layer", title
    if inputs.arrays[0].shape != recorded.shape:  # of some rows alone
        return "other-layer", title
    left = {}
    for name in (right, used):
        output = exact.rms_norm(
            inputs.arrays[0], vector(case.observed.truth.weights, name), step.eps
        )
        left[name] = float(np.linalg.norm(recorded - output))
    part = used.split(f".{other}.", 1)[1]
    for third in range(case.observed.truth.config.num_layers):
        name = f"model.layers.{third}.{part}"
        if name not in left and name in case.observed.truth.weights:
            weight_W = vector(case.observed.truth.weights, name)
            output = exact.rms_norm(inputs.arrays[0], weight_W, step.eps)
            left[name] = float(np.linalg.norm(recorded - output))
    nearest = min(left, key=lambda name: left[name])
    if nearest == right:
        return "layers-swapped", f"layers {layer} and {other} change places"
    if nearest == used:
        return "layer-repeated", f"{title}, which has them as well"
    third = int(nearest.split(".")[2])
    rule = _rule_of_layers(layer, other, third, case.observed.truth.config.num_layers)
    return "other-layer", f"{title}, and layer {other} those of {third}{rule}"


def _rule_of_layers(layer: int, other: int, third: int, num_layers: int) -> str:
    """What moves them, if `layer` has the weights of `other` and `other` those of `third`."""
    as_text = sorted(range(num_layers), key=str)
    if (as_text[layer], as_text[other]) == (other, third):
        return ": layers are sorted as text, 0, 1, 10, 11 ..."
    if third - other == other - layer and abs(other - layer) == 1:
        return f": layer l takes the weights of l {'+' if other > layer else '-'} 1"
    return ""
