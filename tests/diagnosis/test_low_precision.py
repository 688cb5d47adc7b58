"""Limits in float16 and bfloat16: wide enough for honest rounding, and for no fault.

The runs are float32 passes whose every value is rounded as the type rounds it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis.arithmetic import ROUNDINGS, declared_arithmetic
from cotejar.diagnosis.case import Case, Judged
from cotejar.diagnosis.observed import Observed, declared_truth
from cotejar.diagnosis.replay import LocalError, replay_sides
from cotejar.diagnosis.search import find_causes
from cotejar.engines.native.forward import Pass
from cotejar.trace.forward_trace import EngineInfo

from .conftest import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.trace.forward_trace import ForwardTrace

    from .conftest import Models

METHODS = (
    "embed",
    "norm",
    "linear",
    "rotate",
    "attend",
    "activate",
    "gate_product",
    "add_residual",
    "head",
)


def low(how: str, base: type[Pass] = Pass) -> type[Pass]:
    """The same pass with every value, and every weight of a product, rounded."""

    def rounded(values: np.ndarray) -> np.ndarray:
        return ROUNDINGS[how](values).astype(np.float32)

    class Low(base):  # type: ignore[misc, valid-type]  # a class given at run time
        def __init__(self, model: object, multiply: object, *rest: object) -> None:
            def product(weight: object, values: np.ndarray) -> np.ndarray:
                rows = rounded(weight.decode_rows(0, weight.rows))  # type: ignore[attr-defined]
                return rounded(values) @ rows.T

            super().__init__(model, product, *rest)

    def made(name: str) -> Callable[..., np.ndarray]:
        def call(self: Pass, *arguments: object, **named: object) -> np.ndarray:
            return rounded(getattr(super(Low, self), name)(*arguments, **named))

        return call

    for name in METHODS:
        setattr(Low, name, made(name))
    return Low


def traced(models: Models, name: str, how: str, base: type[Pass] = Pass) -> ForwardTrace:
    trace = run(models(name), "f32", low(how, base))
    return replace(trace, engine=EngineInfo(name="other", build="1", numerics=how))


def replayed(
    models: Models, name: str, trace: ForwardTrace
) -> tuple[Observed, list[LocalError]]:
    declared = models(name).declared
    arithmetic = declared_arithmetic(trace.engine)
    assert arithmetic is not None
    truth = declared_truth(declared.config, declared.weights)
    side = Observed(side="candidate", trace=trace, truth=truth, arithmetic=arithmetic)
    return side, replay_sides([side])


@pytest.mark.parametrize("how", ["bf16", "f16"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
def test_honest_rounding_stays_below_half_of_its_limits(
    models: Models, name: str, how: str
) -> None:
    # Half: honest runs reach 0.49 of a limit (the softcapped logits of gemma3 in bf16).
    _, errors = replayed(models, name, traced(models, name, how))

    worst = max(errors, key=lambda error: error.ratio)
    assert worst.ratio < 0.6, worst.site


class Sharper(Pass):
    """Scores of layer 1 six percent too large."""

    def attend(self, layer: int, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        scaled = q * np.float32(1.06) if layer == 1 else q
        return super().attend(layer, scaled, k, v)


class Coarse(Pass):
    """Keys and values of layer 1 in 4 bits a row."""

    def attend(self, layer: int, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        if layer == 1:
            k, v = (ROUNDINGS["int4 a row"](a.reshape(len(a), -1)).astype(np.float32).reshape(
                a.shape) for a in (k, v))  # fmt: skip
        return super().attend(layer, q, k, v)


class OtherEps(Pass):
    """eps a little larger before attention of layer 1."""

    def norm(self, layer: int | None, part: str, values: np.ndarray) -> np.ndarray:
        normed = super().norm(layer, part, values)  # type: ignore[arg-type]
        if (layer, part) != (1, "attn_norm"):
            return normed
        square = np.mean(values.astype(np.float64) ** 2, axis=-1, keepdims=True)
        return (normed / np.sqrt(1 + 0.06 * square.max() / square)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "how", "base", "site"),
    [
        ("qwen2", "f16", Sharper, "layer.1.attn_context"),
        ("llama", "bf16", Coarse, "layer.1.attn_context"),
        ("llama", "f16", Coarse, "layer.1.attn_context"),
        ("llama", "bf16", OtherEps, "layer.1.attn_norm"),
    ],
)
def test_a_small_fault_shows_through_the_rounding(
    models: Models, name: str, how: str, base: type[Pass], site: str
) -> None:
    side, errors = replayed(models, name, traced(models, name, how, base))

    wrong = [error for error in errors if not error.explained]

    assert [error.site for error in wrong] == [site]
    operation = side.truth.operations[site]
    inputs, recorded = side.inputs(operation), side.recorded(operation.site)
    assert inputs is not None
    assert recorded is not None
    found = find_causes(Case(operation, side, inputs.arrays, recorded, wrong[0]))
    # What rounds more finely than the run itself does explains nothing.
    assert "output-rounded" not in {cause.id for cause in found.causes}


@pytest.mark.parametrize(
    ("before", "after", "accepted"),
    [
        (1.9, 1.9, False),  # it changed nothing
        (3.9, 1.0, True),
        (1.5, 0.9, False),  # less than half of it went away
        (1.5, 0.7, True),
        (11.0, 2.9, False),
        (12.0, 2.9, True),
        (1e6, 3.1, False),
        (1e6, float("nan"), False),
    ],
)
def test_a_cause_lowers_what_is_left(before: float, after: float, accepted: bool) -> None:
    assert Judged(rel_l2=after, limit=1.0, before=before).accepted is accepted
