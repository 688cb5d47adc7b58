"""A fault in an operation that was not recorded, carried on to the first site that was.

A fused program records the end of several operations. What can go wrong on the way is
computed there and the operations behind it are computed again. Numbers come from a list of
those that programs have; failing that, one at a time is fitted to what was recorded.

Shape letters: T tokens, W width.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis import exact
from cotejar.diagnosis.case import Alternative, Case
from cotejar.diagnosis.hypotheses.attention import attention, score_scales
from cotejar.diagnosis.hypotheses.attention.attended import Attended
from cotejar.diagnosis.hypotheses.attention.attention_masks import mask_kinds
from cotejar.diagnosis.hypotheses.function import activation, norm, residual
from cotejar.diagnosis.hypotheses.numbers import factor_text
from cotejar.diagnosis.hypotheses.product.low_precision import roundings
from cotejar.diagnosis.hypotheses.rotation import rope
from cotejar.diagnosis.hypotheses.unrecorded import (
    carried_attention,
    carried_layers,
    carried_positions,
    carried_products,
    carried_rope,
)
from cotejar.diagnosis.hypotheses.unrecorded.carried_norms import other_norms
from cotejar.diagnosis.hypotheses.unrecorded.carried_numbers import eps_of_norms, fitted
from cotejar.diagnosis.hypotheses.unrecorded.carried_rows import (
    beside_right_rows,
    later_passes_alone,
)
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Attend, Norm, Project, Rotate
from cotejar.diagnosis.replay import LocalError
from cotejar.diagnosis.some_rows import RowsCase
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType
from cotejar.trace.site import Site, parse_site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jaxtyping import Float64

    from cotejar.diagnosis.operations import Operation

_FAMILIES = (norm, rope, attention, activation, residual)
_THETAS = (10_000.0, 100_000.0, 500_000.0, 1_000_000.0)
_SCALES = (0.125, 0.25, 0.5, 2.0, 4.0, 8.0)
_OFFSETS = (-1, 1, 2)
_EPSILONS = (0.0, 1e-8, 1e-6, 1e-5, 1e-3)
_ATTENTION_SCALES = (0.0625, 0.25, 0.5, 2.0, 4.0)
_MOST_MASKED = 48
"""Tokens of a prompt on which every mask is tried."""
_CONTRADICTED = 4.0
"""Times as far from another reader as the right operation is: it happened elsewhere."""
_ROUGH = 1e-3
"""Limits from which on a number from a list may stand for another one near it."""
_WIDE, _WELL_WITHIN = 1e-2, 1 / 8
"""Where limits are that wide, what is right leaves less than so much of one, and what is not
may be within it as well."""
_TOGETHER = {"q_rope": "k_rope"}
"""What one routine makes of both."""
_NO_SITES: tuple[str, ...] = ()
_FITTED = frozenset({"rope-theta", "rope-frequencies", "norm-weight", "norm-eps"})
"""Read off what was recorded, where there is something to read."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of any site whose inputs were not all recorded; up to the first that explains it."""
    if not case.error.derived:
        return
    case = _decoded(case)
    wide = float(np.median(case.error.limits)) >= _WIDE
    for family in _by_site(case):
        explaining: dict[str, float] = {}
        for alternative in family:
            yield alternative
            judged = case.judge(alternative.output)
            if judged.accepted:
                explaining.setdefault(alternative.id, judged.ratio)
                explaining[alternative.id] = min(explaining[alternative.id], judged.ratio)
        if explaining:
            yield from _other_numbers(case, frozenset(explaining))
            if not wide or min(explaining.values()) <= _WELL_WITHIN:
                return


def _other_numbers(case: Case, ids: frozenset[str]) -> Iterator[Alternative]:
    """Where much is honest a number from a list explains what another explains better."""
    if float(np.median(case.error.limits)) < _ROUGH:
        return
    derived = sorted(case.error.derived, key=lambda name: parse_site(name).order)
    for name in derived:
        yield from _numbers(case, name, derived, ids)


def _decoded(case: Case) -> Case:
    """With the weights of its layer decoded, since each is multiplied many times."""
    truth = case.observed.truth
    if case.observed.arithmetic.activations != "exact":
        return case  # the type of the blocks says how activations are rounded
    names = [*case.error.derived, case.operation.name]
    steps = [truth.operations[name].step for name in names]
    decoded = {}
    for step in steps:
        if isinstance(step, Project):
            matrix = truth.weights[step.weight]
            values = matrix.decode_rows(0, matrix.rows)
            decoded[step.weight] = BlockMatrix(
                block_type=BlockType.F32,
                rows=matrix.rows,
                columns=matrix.columns,
                raw=np.ascontiguousarray(values).reshape(-1).view(np.uint8),
            )
    held = replace(truth, weights=truth.weights.replaced(decoded))
    return replace(case, observed=replace(case.observed, truth=held, _derived={}))


def _by_site(case: Case) -> Iterator[Iterator[Alternative]]:
    derived = sorted(case.error.derived, key=lambda name: parse_site(name).order)
    for name in derived:
        yield score_scales.alternatives(case, name, partial(_carried, case))
    for name in derived:
        operation = case.observed.truth.operations.get(name)
        if operation is None or isinstance(operation.step, Project):
            continue
        if isinstance(operation.step, Rotate) and later_passes_alone(case):
            continue  # what turns wrongly turns so from the second token on
        partner = _TOGETHER.get(operation.site.slot)
        pair = name.replace(operation.site.slot, partner) if partner else ""
        yield _eps(case, name, derived)
        yield _at(case, name, pair if pair in derived else "")
        yield carried_attention.alternatives(case, name, partial(_carried, case))
    yield _gate_and_up(case)
    yield carried_layers.other_kinds(case)
    yield carried_layers.other_layers(case)
    yield _every_norm(case, derived)
    for name in derived:
        yield carried_products.alternatives(case, name, partial(_carried, case))
    for name in derived:
        yield _masks(case, name)
        yield _rounded_cache(case, name)
        yield _numbers(case, name, derived)
    if case.operation.site.layer is not None:
        layer = case.operation.site.layer
        yield carried_positions.alternatives(case, layer, partial(_carried, case))
        yield carried_rope.alternatives(case, layer, partial(_carried, case))


def _every_norm(case: Case, derived: list[str]) -> Iterator[Alternative]:
    """Each way to get a norm wrong, in all norms on the way: one routine computes them."""
    norms = [n for n in derived if isinstance(case.observed.truth.operations[n].step, Norm)]
    if len(norms) < 2:  # noqa: PLR2004 - one is tried by itself
        return
    for key, (alternative, first_TW) in _offered(case, norms[0], {}).items():
        outputs = {norms[0]: first_TW}
        for name in norms[1:]:  # what it is given depends on those before it
            found = _offered(case, name, outputs).get(key)
            if found is None:
                break
            outputs[name] = found[1]
        else:
            yield from _carry(case, alternative, outputs, " and ".join(norms))


def _numbers(
    case: Case, name: str, derived: list[str], ids: frozenset[str] = frozenset()
) -> Iterator[Alternative]:
    """One number of that operation; and of its pair, the same in both. `ids`: those alone."""
    for there in _with_inputs(case, name, derived):
        yield from fitted(case, there, partial(_carried, case), ids)


def _eps(case: Case, name: str, derived: list[str]) -> Iterator[Alternative]:
    """The eps of a norm there; of norms before turning in both, or in one."""
    for there in _with_inputs(case, name, derived):
        yield from eps_of_norms(case, there, partial(_carried, case))


def _with_inputs(
    case: Case, name: str, derived: list[str]
) -> Iterator[dict[str, tuple[Operation, tuple[np.ndarray, ...]]]]:
    """That operation and what it is given; and with its pair, where there is one."""
    operation = case.observed.truth.operations.get(name)
    if operation is None or isinstance(operation.step, Project):
        return
    sets = [[name]]
    partner = _TOGETHER.get(operation.site.slot)
    if partner:
        pair = name.replace(operation.site.slot, partner)
        sets = [[name, pair], [name]] if pair in derived else sets
    for names in sets:
        there = {}
        for one in names:
            inputs = replace(case.observed, _derived={}).inputs(
                case.observed.truth.operations[one]
            )
            if inputs is not None:
                there[one] = (case.observed.truth.operations[one], inputs.arrays)
        if len(there) == len(names):
            yield there


def _masks(case: Case, name: str) -> Iterator[Alternative]:
    """Every pattern of keys that a mask may leave visible, with every number."""
    operation = case.observed.truth.operations.get(name)
    if operation is None or not isinstance(operation.step, Attend):
        return
    there = _right_case(case, name)
    attended = None if there is None else Attended.of(there)
    if attended is None or len(attended.q) > _MOST_MASKED:
        return
    index = np.arange(len(attended.q))
    for patterns in mask_kinds(len(attended.q)).values():
        for id_, title, numbers, sees in patterns:
            visible = sees(index[:, None], index[None, :])
            if attended.step.window is not None and id_ != "window-sinks":
                visible = visible & attended.visible
            output = _carried(case, {name: attended.output(visible_TT=visible)})
            if output is not None:
                yield Alternative(
                    id=id_, title=f"{title}, in {name}", output=output, parameters=numbers
                )


def _rounded_cache(case: Case, name: str) -> Iterator[Alternative]:
    """Keys and values of an attention in a low precision."""
    operation = case.observed.truth.operations.get(name)
    if operation is None or not isinstance(operation.step, Attend):
        return
    inputs = replace(case.observed, _derived={}).inputs(operation)
    if inputs is None:
        return
    q_TW, k_TW, v_TW = inputs.arrays
    e = operation.step.head_dim
    every = roundings(k_TW.shape[1])
    by_head = {
        f"{how}, head by head": partial(_head_by_head, rounded=rounded, e=e)
        for how, rounded in every.items()
        if how.endswith(" a row")
    }
    for how, rounded in (every | by_head).items():
        for words, given in (
            ("keys and values are", (q_TW, rounded(k_TW), rounded(v_TW))),
            ("keys are", (q_TW, rounded(k_TW), v_TW)),
            ("values are", (q_TW, k_TW, rounded(v_TW))),
        ):
            output = _carried(case, {name: replay(operation, given, case.observed)})
            if output is not None:
                yield Alternative(
                    id="cache-rounded",
                    title=f"{words} rounded to {how}, in {name}",
                    output=output,
                )


def _head_by_head(
    values_TW: Float64[np.ndarray, "T W"],
    *,
    rounded: Callable[[np.ndarray], np.ndarray],
    e: int,
) -> Float64[np.ndarray, "T W"]:
    return rounded(values_TW.reshape(-1, e)).reshape(values_TW.shape)


def _at(case: Case, name: str, pair: str) -> Iterator[Alternative]:
    """Each way in which that operation can be wrong; with the pair, both in the same way."""
    own = _offered(case, name)
    other = _offered(case, pair) if pair else {}
    for key, (alternative, output_TW) in own.items():
        yield from _carry(case, alternative, {name: output_TW}, name)
        if key in other:
            both = {name: output_TW, pair: other[key][1]}
            yield from _carry(case, alternative, both, f"{name} and {pair}")


def _carry(
    case: Case,
    alternative: Alternative,
    outputs: dict[str, Float64[np.ndarray, "T W"]],
    where: str,
) -> Iterator[Alternative]:
    output_TW = _carried(case, outputs)
    if output_TW is not None:
        if case.judge(output_TW).accepted and _contradicted(case, outputs):
            return  # it happened on the way to this site alone
        title = f"{alternative.title}, in {where}"
        yield replace(alternative, title=title, output=output_TW)


def _contradicted(case: Case, outputs: Mapping[str, Float64[np.ndarray, "T W"]]) -> bool:
    """Does another recorded site that reads one of these agree better with the right ones?"""
    held = {site: (output, _NO_SITES) for site, output in outputs.items()}
    for operation in case.observed.truth.operations.values():
        if operation.name == case.operation.name or not any(
            str(site) in outputs for site in operation.inputs
        ):
            continue
        recorded_TW = case.recorded_at(operation.site)
        if recorded_TW is None:
            continue
        left = []
        for derived in ({}, held):
            observed = replace(case.observed, _derived=derived)
            inputs = observed.inputs(operation)
            if inputs is None:
                break
            output_TW = replay(operation, inputs.arrays, observed)
            if output_TW.shape != recorded_TW.shape:
                break
            left.append(float(np.linalg.norm(recorded_TW - output_TW)))
        else:
            if left[1] > _CONTRADICTED * left[0]:
                return True
    return False


def _carried(
    case: Case, outputs: Mapping[str, Float64[np.ndarray, "T W"]]
) -> Float64[np.ndarray, "T W"] | None:
    """What comes of these outputs at the recorded site."""
    if isinstance(case, RowsCase):
        outputs = beside_right_rows(case, outputs)
    held = {site: (output, _NO_SITES) for site, output in outputs.items()}
    observed = replace(case.observed, _derived=held)
    inputs = observed.inputs(case.operation)
    if inputs is None:
        return None
    return replay(case.operation, inputs.arrays, observed)


def _gate_and_up(case: Case) -> Iterator[Alternative]:
    """Each of the two taken for the other, and both."""
    layer = case.operation.site.layer
    gate, up = str(Site("ffn_gate", layer)), str(Site("ffn_up", layer))
    if not {gate, up} <= set(case.error.derived):
        return
    operations = case.observed.truth.operations
    inputs = [replace(case.observed, _derived={}).inputs(operations[n]) for n in (gate, up)]
    if inputs[0] is None or inputs[1] is None:
        return
    gate_TF = replay(operations[gate], inputs[0].arrays, case.observed)
    up_TF = replay(operations[up], inputs[1].arrays, case.observed)
    for title, outputs in (
        ("gate and up change places", {gate: up_TF, up: gate_TF}),
        ("up is taken for the gate", {gate: up_TF}),
        ("the gate is taken for up", {up: gate_TF}),
    ):
        swapped = Alternative(id="gate-up-swapped", title=title, output=gate_TF)
        yield from _carry(case, swapped, outputs, f"layer {layer}")


def _offered(
    case: Case, name: str, before: Mapping[str, Float64[np.ndarray, "T W"]] | None = None
) -> dict[tuple[str, str, int], tuple[Alternative, Float64[np.ndarray, "T W"]]]:
    """By id, title and turn: what families say of the operation, had it been right.

    Those before it gave what `before` says, and else what they ought to; with `before`, of a
    norm, only its formulas.
    """
    there = _right_case(case, name, before)
    if there is None:
        return {}
    operation, right_TW = there.operation, there.recorded
    found: dict[tuple[str, str, int], tuple[Alternative, np.ndarray]] = {}
    offers = list(_from_lists(there, operation, of_every_norm=before is not None))
    if before is not None and isinstance(operation.step, Norm):
        offers += norm.formulas(there, operation.step)
    else:
        every = (a for family in _FAMILIES for a in family.alternatives(there))
        offers += [a for a in every if a.id not in _FITTED]
    turns: Counter[tuple[str, str]] = Counter()
    for one in offers:
        named = one.id, one.title
        turns[named] += 1
        fits = one.output.shape == right_TW.shape and np.isfinite(one.output).all()
        if fits and not np.allclose(one.output, right_TW, rtol=1e-9, atol=0):
            found[*named, turns[named]] = (one, one.output)
    return found


def _right_case(
    case: Case, name: str, before: Mapping[str, Float64[np.ndarray, "T W"]] | None = None
) -> Case | None:
    """The operation of that name as if it had been recorded, and was right."""
    operation = case.observed.truth.operations[name]
    given = {site: (array, ()) for site, array in (before or {}).items()}
    observed = replace(case.observed, _derived=dict(given))
    inputs = observed.inputs(operation)
    if inputs is None:
        return None
    right_TW = replay(operation, inputs.arrays, observed)
    nothing_T = np.zeros(len(right_TW))
    error = LocalError(
        site=name,
        side=observed.side,
        exact=nothing_T,
        left=nothing_T,
        limits=case.error.limits,
        output_norm=np.linalg.norm(right_TW, axis=1),
        derived=(),
    )
    return Case(operation, observed, inputs.arrays, right_TW, error)


def _from_lists(
    case: Case, operation: Operation, *, of_every_norm: bool
) -> Iterator[Alternative]:
    step = operation.step
    if isinstance(step, Norm):
        for eps in _EPSILONS if of_every_norm else ():  # of one alone `_eps` tells it
            yield Alternative(
                id="norm-eps",
                title=f"eps of the norm is {eps:.3g} and ought to be {step.eps:.3g}",
                output=replay(replace(operation, step=replace(step, eps=eps)), case.inputs,
                              case.observed),
                parameters=1,
            )  # fmt: skip
        yield from other_norms(case, operation, step)
    if isinstance(step, Attend):
        for factor in _ATTENTION_SCALES:
            other = replace(step, scale=step.scale * factor)
            yield Alternative(
                id="attention-scale",
                title=f"scores are scaled by {factor_text(factor)} times the right number",
                output=replay(replace(operation, step=other), case.inputs, case.observed),
                parameters=1,
            )
    if isinstance(step, Rotate):
        yield from _turned(case, operation, step)


def _turned(case: Case, operation: Operation, step: Rotate) -> Iterator[Alternative]:
    right_P = np.array(step.frequencies)
    index_P = np.arange(len(right_P)) / len(right_P)

    def output(frequencies_P: np.ndarray) -> np.ndarray:
        other = replace(step, frequencies=tuple(frequencies_P.tolist()))
        return replay(replace(operation, step=other), case.inputs, case.observed)

    for theta in _THETAS:
        yield Alternative(
            id="rope-theta",
            title=f"theta is {theta:,.6g} and ought to be {step.theta:,.6g}",
            output=output(right_P * (theta / step.theta) ** -index_P),
            parameters=1,
        )
    for scale in _SCALES:
        yield Alternative(
            id="rope-scaling",
            title=f"positions are scaled by {factor_text(scale)}",
            output=output(scale * right_P),
            parameters=1,
        )
    right_THE = exact.split_heads(replay(operation, case.inputs, case.observed), step.head_dim)
    for offset in _OFFSETS:
        further = exact.turn(right_THE, np.tile(offset * right_P, (len(right_THE), 1)))
        yield Alternative(
            id="rope-position-offset",
            title=f"positions start at {offset} and ought to start at 0",
            output=exact.join_heads(further),
            parameters=1,
        )
