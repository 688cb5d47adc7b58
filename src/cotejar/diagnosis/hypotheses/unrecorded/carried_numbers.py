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
from cotejar.diagnosis.hypotheses.attention.score_scales import scale_title
from cotejar.diagnosis.hypotheses.function.norm_eps import known_eps
from cotejar.diagnosis.hypotheses.numbers import factor_text, nice, search_number, whole_or_part
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
_USUAL_EPS = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1)
_BROUGHT_NEARER = 0.5
"""Share of the squares that the nearest of these leaves at the most, if eps is wrong."""


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
    ids: frozenset[str] = frozenset(),
) -> Iterator[Alternative]:
    """The best value of every number of operations that one routine makes.

    Args:
        case: what was recorded behind them.
        there: each operation and what it was given, by the site's name.
        carry: see `Carry`.
        ids: of the numbers that are asked for; empty for all.
    """
    step = next(iter(there.values()))[0].step
    for number in (one for one in _numbers(case, step) if not ids or one.id in ids):

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
        where = " and ".join(there)
        factor = whole_or_part(value / number.right)
        for rounded in (factor * number.right, *(nice(value, n) for n in _DIGITS)):
            found = output(rounded)
            if found is not None:
                yield Alternative(
                    id=number.id,
                    title=f"{number.title(rounded)}, in {where}",
                    output=found,
                    parameters=1,
                )


def eps_of_norms(
    case: Case,
    there: Mapping[str, tuple[Operation, tuple[np.ndarray, ...]]],
    carry: Carry,
) -> Iterator[Alternative]:
    """The eps of a norm, or of the norms of heads before they are turned, if one does it.

    Arguments as of `fitted`. What no usual eps brings nearer is not searched.
    """
    steps = [operation.step for operation, _ in there.values()]
    norms = [step.norm if isinstance(step, Rotate) else step for step in steps]
    right = next((norm.eps for norm in norms if isinstance(norm, Norm)), None)
    if right is None:
        return

    def output(eps: float) -> Array | None:
        return carry({n: _with_eps(o, inputs, eps, case) for n, (o, inputs) in there.items()})

    def left(eps: float) -> float:
        found = output(eps)
        if found is None or found.shape != case.recorded.shape:
            return np.inf
        off_T = np.linalg.norm(case.recorded - found, axis=1) / case.error.output_norm
        return float(np.nan_to_num(np.square(off_T), nan=np.inf).sum())

    usual = {eps: left(eps) for eps in _USUAL_EPS if eps != right}
    nearest = min(usual, key=lambda eps: usual[eps])
    if not usual[nearest] < _BROUGHT_NEARER * left(right):
        return
    value = search_number(left, max(nearest, 1e-11) / 100, max(nearest, 1e-7) * 100)
    known = known_eps(left, value, len(case.recorded))
    found = output(known.value)
    if found is not None:
        of_heads = isinstance(steps[0], Rotate)
        what = "the norm of each head" if of_heads else "the norm"
        yield Alternative(
            id="head-norm-eps" if of_heads else "norm-eps",
            title=f"eps of {what} is {known.text} and ought to be {right:.3g}, in "
            + " and ".join(there),
            output=found,
            parameters=1,
        )


def _with_eps(
    operation: Operation, inputs: tuple[np.ndarray, ...], eps: float, case: Case
) -> Array:
    step = operation.step
    if isinstance(step, Rotate) and step.norm is not None:
        step = replace(step, norm=replace(step.norm, eps=eps))
    elif isinstance(step, Norm):
        step = replace(step, eps=eps)
    return replay(replace(operation, step=step), inputs, case.observed)


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
