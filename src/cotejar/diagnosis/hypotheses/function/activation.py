"""The activation of the gate, and its product with up: another function, roles exchanged.

Shape letters: T tokens, F feed-forward width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.numbers import nice, search_number
from cotejar.diagnosis.operations import Activate, Multiply
from cotejar.trace.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cotejar.diagnosis.case import Case


_SAME = 1e-3
"""Relative distance that tells one activation's product from another's."""


def _sigmoid(x: np.ndarray) -> np.ndarray:
    result: np.ndarray = 1 / (1 + np.exp(-x))
    return result


FUNCTIONS: Mapping[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "silu": ("SiLU", exact.silu),
    "gelu_tanh": ("GELU by its tanh formula", exact.gelu_tanh),
    "gelu_erf": ("GELU by erf", exact.gelu_erf),
    "gelu_quick": ("the quick GELU, x sigmoid(1.702 x)", lambda x: x * _sigmoid(1.702 * x)),
    "relu": ("ReLU", lambda x: np.maximum(x, 0.0)),
    "relu_squared": ("squared ReLU", lambda x: np.maximum(x, 0.0) ** 2),
    "sigmoid": ("the sigmoid, not times x", _sigmoid),
    "tanh": ("tanh", np.tanh),
    "identity": ("none at all", lambda x: x),
    "softplus": ("softplus", lambda x: np.logaddexp(0.0, x)),
    "mish": ("Mish", lambda x: x * np.tanh(np.logaddexp(0.0, x))),
    "hard_swish": ("hard swish", lambda x: x * np.clip(x + 3, 0.0, 6.0) / 6),
    "hard_silu_4": (
        "x clip(x / 4 + 1/2, 0, 1), a SiLU of straight lines",
        lambda x: x * np.clip(x / 4 + 0.5, 0.0, 1.0),
    ),
    "hard_silu_5": (
        "x clip(x / 5 + 1/2, 0, 1), a SiLU of straight lines",
        lambda x: x * np.clip(x / 5 + 0.5, 0.0, 1.0),
    ),
    "elu": ("ELU", lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0)))),
    "leaky_relu": ("leaky ReLU", lambda x: np.where(x > 0, x, 0.01 * x)),
    "silu_negative": ("SiLU with exp(x) for exp(-x)", lambda x: x * _sigmoid(-x)),
}


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of the activated gate, or of its product."""
    step = case.operation.step
    if isinstance(step, Activate):
        yield from _activated(case, step)
        yield from _fitted(case)
    if isinstance(step, Multiply):
        yield from _multiplied(case)
        yield from _clipped(case)


_GREATEST = 64.0


def _fitted(case: Case) -> Iterator[Alternative]:
    """One constant of an activation, searched for."""
    gate_TF = case.inputs[0]
    root = np.sqrt(2 / np.pi)

    def cubic(b: float) -> np.ndarray:
        output: np.ndarray = 0.5 * gate_TF * (1 + np.tanh(root * (gate_TF + b * gate_TF**3)))
        return output

    def sigmoid(b: float) -> np.ndarray:
        output: np.ndarray = gate_TF * _sigmoid(b * gate_TF)
        return output

    def slope(b: float) -> np.ndarray:
        return np.where(gate_TF > 0, gate_TF, b * gate_TF)

    for words, function in (
        ("GELU by its tanh formula with {:.6g} for 0.044715", cubic),
        ("x sigmoid({:.6g} x)", sigmoid),
        ("a ReLU that multiplies what is negative by {:.4g}", slope),
    ):

        def left(b: float, function: Callable[[float], np.ndarray] = function) -> float:
            off = np.nan_to_num(case.recorded - function(b), nan=np.inf)
            return float(np.square(off).sum())

        found = search_number(left, 1e-4, _GREATEST)
        for value in dict.fromkeys((nice(found, 3), nice(found, 5), found)):
            yield Alternative(
                id="activation",
                title=f"the activation is {words.format(value)}",
                output=function(value),
                parameters=1,
            )


def _activated(case: Case, step: Activate) -> Iterator[Alternative]:
    gate_TF = case.inputs[0]
    up_TF = case.recorded_at(Site("ffn_up", case.operation.site.layer))
    right = FUNCTIONS[step.function][0]
    with np.errstate(all="ignore"):
        for name, (title, function) in FUNCTIONS.items():
            if name != step.function:
                yield Alternative(
                    id="activation",
                    title=f"the activation is {title} and ought to be {right}",
                    output=function(gate_TF),
                )
            if name == "identity" and up_TF is not None:
                yield from _on_up(case, gate_TF, up_TF, step)
            if up_TF is not None and up_TF.shape == gate_TF.shape:
                yield Alternative(
                    id="gate-up-swapped",
                    title=f"up is activated ({title}), not the gate",
                    output=function(up_TF),
                )
        yield from _slope(case, gate_TF)
    for limit in (float(np.abs(case.recorded).max()),):
        clipped = exact.ACTIVATIONS[step.function](np.clip(gate_TF, -limit, limit))
        yield Alternative(
            id="activation-clipped",
            title=f"the gate is clipped to {limit:.4g}",
            output=clipped,
            parameters=1,
        )


def _on_up(
    case: Case, gate_TF: np.ndarray, up_TF: np.ndarray, step: Activate
) -> Iterator[Alternative]:
    """The gate came through; was up activated in its place? The product says."""
    inner_TF = case.recorded_at(Site("ffn_swiglu_inner", case.operation.site.layer))
    if inner_TF is None or inner_TF.shape != up_TF.shape:
        return
    size = float(np.linalg.norm(inner_TF))
    for name in dict.fromkeys((step.function, *FUNCTIONS)):
        title, function = FUNCTIONS[name]
        off = float(np.linalg.norm(inner_TF - gate_TF * function(up_TF)))
        if name != "identity" and off <= _SAME * size:
            yield Alternative(
                id="activation-on-up",
                title=f"up is activated ({title}), not the gate",
                output=gate_TF,
                also=1,
            )
            return


def _slope(case: Case, gate_TF: np.ndarray) -> Iterator[Alternative]:
    """X sigmoid(b x): y / x = sigmoid(b x) gives b."""
    with np.errstate(all="ignore"):
        share = case.recorded / gate_TF
        slope = np.log(share / (1 - share)) / gate_TF
    usable = np.isfinite(slope) & (np.abs(gate_TF) > 0.1) & (np.abs(gate_TF) < 5)  # noqa: PLR2004 - where the sigmoid bends
    if usable.any():
        found = float(np.median(slope[usable]))
        yield Alternative(
            id="activation",
            title=f"the activation is x sigmoid({found:.4g} x)",
            output=gate_TF * _sigmoid(found * gate_TF),
            parameters=1,
        )


_TOLD = 1 / 8
"""Of the mean size of one factor: from less of it the other cannot be told."""
_AT_THE_BOUND = 1e-5
"""Relative distance from a bound at which a value is taken to be cut to it."""


def _clipped(case: Case) -> Iterator[Alternative]:
    """One of the two factors is cut to a bound, on one side or on both."""
    for place, (right, other) in enumerate((case.inputs, case.inputs[::-1])):
        told = np.abs(other) > _TOLD * np.abs(other).mean()
        used = case.recorded[told] / other[told]
        if not used.size:
            continue
        low, high = float(used.min()), float(used.max())
        for least, most in dict.fromkeys(((-high, high), (low, -low), (low, high))):
            ends = [end for end in (least, most) if _is_bound(used, end)]
            for a, b, words in (
                (least, most, f"cut to {least:.4g} .. {most:.4g}"),
                (-np.inf, most, f"cut to {most:.4g} at the most"),
                (least, np.inf, f"cut to {least:.4g} at the least"),
            ):
                if ends and a <= b:
                    cut = np.clip(right, a, b)
                    yield Alternative(
                        id="activation-clipped",
                        title=f"{case.operation.inputs[place]} is {words} before the product",
                        output=cut * other,
                        parameters=1 if np.isinf(a) or np.isinf(b) or a == -b else 2,
                    )


def _is_bound(used: np.ndarray, end: float) -> bool:
    """Do several values meet there?"""
    return int(np.isclose(used, end, rtol=_AT_THE_BOUND, atol=0).sum()) > 1


def _multiplied(case: Case) -> Iterator[Alternative]:
    activated_TF, up_TF = case.inputs
    gate_TF = case.recorded_at(Site("ffn_gate", case.operation.site.layer))
    for id_, title, output in (
        ("up-missing", "up is left out: the activated gate came through", activated_TF),
        ("gate-missing", "the gate is left out: up came through", up_TF),
        ("product-sum", "the activated gate is added to up", activated_TF + up_TF),
        ("product-one-plus", "1 is added to up", activated_TF * (1 + up_TF)),
    ):
        yield Alternative(id=id_, title=title, output=output)
    if gate_TF is None or gate_TF.shape != up_TF.shape:
        return
    with np.errstate(all="ignore"):
        for name, (title, function) in FUNCTIONS.items():
            yield Alternative(
                id="activation-on-up",
                title=f"up is activated ({title}), not the gate",
                output=function(up_TF) * gate_TF,
            )
            if name != "silu" or str(case.operation.inputs[0]) not in case.error.derived:
                yield Alternative(
                    id="activation",
                    title=f"the activation is {title}",
                    output=function(gate_TF) * up_TF,
                )
