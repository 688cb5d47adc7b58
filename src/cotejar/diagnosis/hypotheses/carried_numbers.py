"""One number of an operation that nobody recorded, fitted to the first site that was.

What a changed number makes of the operation is carried on through those behind it; the number
is searched for which least is left there.

Shape letters: T tokens, W width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.numbers import factor_text, nice, search_number
from cotejar.diagnosis.hypotheses.score_scales import scale_title
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Add, Attend, Norm, Rotate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Case
    from cotejar.diagnosis.operations import Operation, Step

    Array = Float64[np.ndarray, "T W"]

Carry: TypeAlias = "Callable[[Mapping[str, np.ndarray]], np.ndarray | None]"
"""What comes out at the recorded site if operations give these arrays; None if nothing does."""
_DIGITS = (1, 2, 3, 4, 9)
"""Of the number, the roundest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """One number of an operation, and how far from the right one it is searched."""

    id: str
    title: Callable[[float], str]
    apply: Callable[[Operation, tuple[np.ndarray, ...], float], np.ndarray]
    right: float
    """In whose digits it is rounded: theta 100,000 and not 10 times the right one."""
    low: float
    high: float


def fitted(
    case: Case,
    there: Mapping[str, tuple[Operation, tuple[np.ndarray, ...]]],
    carry: Carry,
) -> Iterator[Alternative]:
    """The best value of every number of operations that one routine makes.

    Args:
        case: what was recorded behind them.
        there: each operation and what it was given, by the site's name.
        carry: see `Carry`.
    """
    step = next(iter(there.values()))[0].step
    for number in _numbers(case, step):

        def output(value: float, number: Number = number) -> Array | None:
            return carry(
                {n: number.apply(o, inputs, value) for n, (o, inputs) in there.items()}
            )

        def left(value: float, output: Callable[[float], Array | None] = output) -> float:
            found = output(value)
            if found is None or found.shape != case.recorded.shape:
                return np.inf
            off_T = np.linalg.norm(case.recorded - found, axis=1) / case.error.output_norm
            return float(np.nan_to_num(np.square(off_T), nan=np.inf).sum())

        if not np.isfinite(left(number.right)):
            continue
        value = search_number(left, number.low, number.high)
        for digits in _DIGITS:
            rounded = nice(value, digits)
            found = output(rounded)
            if found is not None:
                where = " and ".join(there)
                yield Alternative(
                    id=number.id,
                    title=f"{number.title(rounded)}, in {where}",
                    output=found,
                    parameters=1,
                )


def _numbers(case: Case, step: Step) -> list[Number]:
    def changed(fields: Callable[[float], dict[str, Any]]) -> Callable[..., np.ndarray]:
        def apply(operation: Operation, inputs: tuple[np.ndarray, ...], value: float) -> Array:
            changed = replace(operation.step, **fields(value))
            return replay(replace(operation, step=changed), inputs, case.observed)

        return apply

    match step:
        case Rotate():
            return _of_rope(step, changed)
        case Attend():
            return [
                Number(
                    id="attention-scale",
                    title=lambda s: scale_title(s, step.scale),
                    apply=changed(lambda s: {"scale": s}),
                    right=step.scale,
                    low=step.scale / 64,
                    high=step.scale * 64,
                ),
                Number(
                    id="softcap",
                    title=lambda c: f"scores are bounded by a softcap of {c:.4g}",
                    apply=changed(lambda c: {"softcap": c}),
                    right=4096.0,
                    low=0.5,
                    high=4096.0,
                ),
            ]
        case Norm():
            return [
                Number(
                    id="norm-eps",
                    title=lambda e: f"eps of the norm is {e:.3g} and ought to be "
                    f"{step.eps:.3g}",
                    apply=changed(lambda e: {"eps": e}),
                    right=step.eps,
                    low=1e-9,
                    high=10.0,
                )
            ]
        case Add():
            return [_branch_factor()]
        case _:
            return []


def _of_rope(
    step: Rotate,
    changed: Callable[[Callable[[float], dict[str, Any]]], Callable[..., np.ndarray]],
) -> list[Number]:
    right_P = np.array(step.frequencies)
    index_P = np.arange(len(right_P)) / len(right_P)

    # Of the step nothing else: q and k have norms of their own.
    def turned(frequencies_P: np.ndarray) -> dict[str, Any]:
        return {"frequencies": tuple(frequencies_P.tolist())}

    return [
        Number(
            id="rope-theta",
            title=lambda t: f"theta is {t:,.6g} and ought to be {step.theta:,.6g}",
            apply=changed(lambda t: turned(right_P * (t / step.theta) ** -index_P)),
            right=step.theta,
            low=step.theta / 1000,
            high=step.theta * 1000,
        ),
        Number(
            id="rope-scaling",
            title=lambda s: f"positions are scaled by {factor_text(s)}",
            apply=changed(lambda s: turned(s * right_P)),
            right=1.0,
            low=1 / 64,
            high=64.0,
        ),
    ]


def _branch_factor() -> Number:
    def apply(_: Operation, inputs: tuple[np.ndarray, ...], value: float) -> Array:
        scaled: Array = inputs[0] + value * inputs[1]
        return scaled

    return Number(
        id="branch-scaled",
        title=lambda f: f"the branch is multiplied by {factor_text(f)}",
        apply=apply,
        right=1.0,
        low=1 / 64,
        high=64.0,
    )
