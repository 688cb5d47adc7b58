"""Two faults in one operation: the operation with one of them, and every family on that.

Asked where no single way to be wrong explains what was recorded. The first of the two is one
that changes the operation itself, so that the second is searched, and its numbers fitted, as
if the first were how it ought to be.

Shape letters: T tokens, W width, H heads, E head size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.hypotheses.attention import (
    attention,
    attention_heads,
    attention_masks,
)
from cotejar.diagnosis.hypotheses.function import norm
from cotejar.diagnosis.hypotheses.precision import rounding
from cotejar.diagnosis.hypotheses.rotation import rope
from cotejar.diagnosis.hypotheses.weight import projection, weights
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Attend, Norm, Project, Rotate, key_heads, vector
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64, Int

    from cotejar.diagnosis.case import Alternative, Case

_CLEARLY_WRONG = 16.0
"""Limits that the right operation leaves at the least: what is barely wrong is barely known."""
_FEWEST_TOKENS = 4
_MOST_TOKENS = 48
"""Of which every window is tried."""
_SECOND = {
    Attend: (attention, attention_masks, attention_heads, rounding),
    Rotate: (rope,),
    Norm: (norm,),
    Project: (projection, weights, rounding),
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class First:
    """One fault, and the case as it is if that were how it ought to be."""

    id: str
    title: str
    case: Case
    order: Int[np.ndarray, "E"] | None = None
    """In which each head's values of the case stand; None for their own."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of an attention, a rotation, a norm or a product that is clearly wrong."""
    if is_clearly_wrong(case) and type(case.operation.step) in _SECOND:
        yield from _with_any_bias(case)
        yield from every_two(case)


def is_clearly_wrong(case: Case) -> bool:
    """Is it wrong enough to tell of two faults which those are?"""
    return case.error.ratio >= _CLEARLY_WRONG


def every_two(case: Case) -> Iterator[Alternative]:
    """The first fault, and every family on what is left."""
    families = _SECOND.get(type(case.operation.step), ())
    for first in _firsts(case):
        for family in families:
            for second in family.alternatives(first.case):
                if second.id != first.id:
                    yield replace(
                        second,
                        id=f"{first.id}+{second.id}",
                        title=f"{first.title}; and {second.title}",
                        parameters=second.parameters + 1,
                        output=_in_own_order(second.output, first.order),
                        declared=False,
                    )


def _with_any_bias(case: Case) -> Iterator[Alternative]:
    """A wrong weight and a wrong bias: between two tokens, any bias drops out."""
    step, tokens = case.operation.step, len(case.recorded)
    is_linear = isinstance(step, Project) and case.observed.arithmetic.activations == "exact"
    if not is_linear or case.project.softcap is not None or tokens < _FEWEST_TOKENS:
        return
    size_T = np.linalg.norm(case.right[1:] - case.right[:1], axis=1)
    there = _with_step(case, bias=None)
    ours = {name: getattr(case.error, name)[1:] for name in ("exact", "left", "limits")}
    ours["limits"] = 2 * ours["limits"] * case.error.output_norm[1:] / size_T
    there = replace(
        there,
        inputs=(case.inputs[0][1:] - case.inputs[0][:1],),
        recorded=case.recorded[1:] - case.recorded[:1],
        error=replace(case.error, output_norm=size_T, **ours),
    )
    for second in weights.alternatives(there):
        output_TR = np.concatenate([case.recorded[:1], case.recorded[:1] + second.output])
        yield replace(
            second,
            id=f"bias-other+{second.id}",
            title=f"another bias is added; and {second.title}",
            output=output_TR,
            parameters=second.parameters + 1,
        )


def _in_own_order(
    output_TW: Float64[np.ndarray, "T W"], order: Int[np.ndarray, "E"] | None
) -> Float64[np.ndarray, "T W"]:
    if order is None:
        return output_TW
    heads = exact.split_heads(output_TW, len(order))
    return exact.join_heads(heads[..., np.argsort(order)])


def _firsts(case: Case) -> Iterator[First]:
    match case.operation.step:
        case Attend() as step:
            yield from _of_attention(case, step)
        case Rotate() as step:
            yield from _of_rope(case, step)
        case Norm() as step:
            yield from _of_norm(case, step)
        case Project() as step:
            yield from _of_product(case, step)
        case _:
            return


def _with_step(case: Case, **changes: object) -> Case:
    operation = case.operation
    step = replace(operation.step, **changes)  # type: ignore[arg-type]  # its own fields
    return replace(case, operation=replace(operation, step=step), screened=[])


def _with_weight(case: Case, name: str, values: np.ndarray) -> Case:
    values = np.ascontiguousarray(values, "<f4")
    matrix = BlockMatrix(
        block_type=BlockType.F32,
        rows=1,
        columns=values.size,
        raw=values.reshape(-1).view(np.uint8),
    )
    truth = case.observed.truth
    changed = replace(truth, weights=truth.weights.replaced({name: matrix}))
    observed = replace(case.observed, truth=changed)
    return replace(case, observed=observed, screened=[])


def _of_attention(case: Case, step: Attend) -> Iterator[First]:
    tokens = len(case.inputs[0])
    if step.window is not None and step.window < tokens:
        yield First(
            id="window-missing",
            title=f"there is no window and ought to be one of {step.window}",
            case=_with_step(case, window=None),
        )
    nearest = _nearest_window(case, step)
    if nearest is not None:
        ought = "none" if step.window is None else f"one of {step.window}"
        near = step.window is not None and abs(nearest - step.window) == 1
        yield First(
            id="window-off-by-one" if near else "window",
            title=f"there is a window of {nearest} and ought to be {ought}",
            case=_with_step(case, window=nearest),
        )
    if step.softcap is not None:
        yield First(
            id="softcap-missing",
            title="the softcap of scores is left out",
            case=_with_step(case, softcap=None),
        )
    q_TW, k_TW, v_TW = case.inputs
    heads, e = q_TW.shape[1] // step.head_dim, step.head_dim
    if step.num_kv_heads > 1:
        right = key_heads(step, heads)
        for title, mapped in (
            (
                "heads take key/value heads in turn, not neighbours the same",
                [h % step.num_kv_heads for h in range(heads)],
            ),
            (
                "every head reads the next key/value head",
                [(h + 1) % step.num_kv_heads for h in right],
            ),
            ("key/value heads are read in reverse", [step.num_kv_heads - 1 - h for h in right]),
        ):
            if tuple(mapped) != right:
                spread = [
                    exact.join_heads(exact.split_heads(a, e)[:, mapped]) for a in (k_TW, v_TW)
                ]
                changed = _with_step(case, num_kv_heads=heads, key_order=None)
                inputs = (q_TW, spread[0], spread[1])
                yield First(id="head-order", title=title, case=replace(changed, inputs=inputs))
    swapped = replace(case, inputs=(q_TW, v_TW, k_TW), screened=[])
    yield First(id="key-value-swapped", title="keys and values change places", case=swapped)


def _nearest_window(case: Case, step: Attend) -> int | None:
    """The size that leaves least; None where the right one does, or the text is long."""
    tokens = len(case.inputs[0])
    if tokens > _MOST_TOKENS:
        return None
    sizes = [step.window or tokens, *(n for n in range(1, tokens) if n != step.window)]

    def left(size: int) -> float:
        found = replay(
            replace(case.operation, step=replace(step, window=size)),
            case.inputs,
            case.observed,
        )
        return float(np.linalg.norm(case.recorded - found))

    best = min(sizes, key=left)
    return None if best == sizes[0] else best


def _of_rope(case: Case, step: Rotate) -> Iterator[First]:
    """The pairing; and what comes before: the norm of each head."""
    pairs, e = len(step.frequencies), step.head_dim
    order = exact.half_split_order(e, 2 * pairs)
    if step.norm is None:  # which stands between input and turn
        for first in (order, np.argsort(order)):
            inputs, recorded = (
                exact.join_heads(exact.split_heads(a, e)[..., first])
                for a in (case.inputs[0], case.recorded)
            )
            turned = replace(case, inputs=(inputs,), recorded=recorded, screened=[])
            yield First(
                id="rope-pairing",
                title="RoPE turns the wrong pairs (neighbours for halves, or the reverse)",
                case=turned,
                order=first,
            )
        return
    yield First(
        id="head-norm-missing",
        title="the norm of each head is left out",
        case=_with_step(case, norm=None),
    )
    yield from _weights_of_norm(case, step.norm)


def _of_norm(case: Case, step: Norm) -> Iterator[First]:
    yield from _weights_of_norm(case, step)


def _weights_of_norm(case: Case, step: Norm) -> Iterator[First]:
    weight_W = vector(case.observed.truth.weights, step.weight)
    for id_, title, changed_W in (
        ("norm-weight-missing", "the norm's weight is left out", np.ones_like(weight_W)),
        ("norm-one-plus-weight", "the norm's weight is taken as 1 + w", weight_W + 1),
        ("norm-weight-less-one", "1 is missing in the norm's weight", weight_W - 1),
    ):
        yield First(id=id_, title=title, case=_with_weight(case, step.weight, changed_W))


def _of_product(case: Case, step: Project) -> Iterator[First]:
    if step.bias is None or case.bias is None:
        return
    yield First(
        id="bias-missing", title="the bias is left out", case=_with_step(case, bias=None)
    )
    for id_, title, factor in (
        ("bias-doubled", "the bias is added twice", 2.0),
        ("bias-sign", "the bias is subtracted", -1.0),
    ):
        yield First(id=id_, title=title, case=_with_weight(case, step.bias, factor * case.bias))
