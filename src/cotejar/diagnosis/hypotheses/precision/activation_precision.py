"""What is computed value by value, with every step rounded as in a low precision.

An activation's steps lie within it; a sum and a product have what goes in and what comes out.

Shape letters: T tokens, F feed-forward width.
"""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.arithmetic import ROUNDINGS, UNIT
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.operations import Activate, Add, Multiply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cotejar.diagnosis.case import Case

    Rounding = Callable[[np.ndarray], np.ndarray]

_TYPES = ("bf16", "f16")
_CUBIC = 0.044715


def alternatives(case: Case) -> Iterator[Alternative]:
    """The inputs, what is between, and the output, rounded or not."""
    step = case.operation.step
    if isinstance(step, Add | Multiply):
        yield from _both_ends(case, step)
    if not isinstance(step, Activate):
        return
    gate_TF = case.inputs[0]
    for how in _TYPES:
        rounded = ROUNDINGS[how]
        for read, written in product((rounded, _as_it_is), repeat=2):
            for words, values_TF in _ways(step.function, read(gate_TF), rounded):
                output = case.but_for_ties(written(values_TF), UNIT[how])
                yield Alternative(
                    id=f"activation-{how}",
                    title=f"the activation runs in {how}: {words}",
                    output=output,
                )


def _both_ends(case: Case, step: Add | Multiply) -> Iterator[Alternative]:
    for how in _TYPES:
        a, b = (ROUNDINGS[how](array) for array in case.inputs)
        output = ROUNDINGS[how](a + b if isinstance(step, Add) else a * b)
        yield Alternative(
            id="input-rounded",
            title=f"the {'sum' if isinstance(step, Add) else 'product'} runs in {how}: what "
            "goes in and what comes out is rounded",
            output=case.but_for_ties(output, UNIT[how]),
        )


def _as_it_is(values: np.ndarray) -> np.ndarray:
    return values


def _ways(function: str, x: np.ndarray, rounded: Rounding) -> Iterator[tuple[str, np.ndarray]]:
    """What is rounded on the way, and the values; the whole function may be one step."""
    yield "its input or output is rounded", exact.ACTIVATIONS[function](x)
    if function == "silu":
        with np.errstate(over="ignore"):
            below = rounded(1 + rounded(np.exp(-x)))
            yield "the sigmoid is rounded", x * rounded(1 / (1 + np.exp(-x)))
            yield "every step of the sigmoid is rounded", x * rounded(1 / below)
            yield "every step is rounded, and x is divided by 1 + exp(-x)", x / below
    elif function == "gelu_tanh":
        root = float(rounded(np.full(1, math.sqrt(2 / math.pi)))[0])
        inner = rounded(x + rounded(_CUBIC * rounded(x**3)))
        steps = rounded(np.tanh(rounded(root * inner)))
        whole = np.tanh(math.sqrt(2 / math.pi) * (x + _CUBIC * x**3))
        yield "the tanh is rounded", 0.5 * x * (1 + rounded(whole))
        yield "every step is rounded", rounded(0.5 * x) * rounded(1 + steps)
