"""Which known way to be wrong reproduces what was recorded?

Every family is asked for alternatives; those that come within `limits.ACCEPTED` limits of
what was recorded explain it. Of those, one with fewer fitted numbers is the better
explanation, and what only says what happened to the output comes after what says why.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.hypotheses import pairs, unstructured
from cotejar.diagnosis.hypotheses.attention import (
    attention,
    attention_forms,
    attention_heads,
    attention_masks,
    attention_weights,
    extra_key,
    hidden_ranges,
)
from cotejar.diagnosis.hypotheses.blocks import block_codes, flat_blocks
from cotejar.diagnosis.hypotheses.cache import cache_steps, later_scales
from cotejar.diagnosis.hypotheses.function import (
    activation,
    elementwise,
    layer_runs,
    lookup_table,
    norm,
    norm_after_sum,
    plain,
    residual,
)
from cotejar.diagnosis.hypotheses.precision import (
    activation_precision,
    low_sums,
    rounding,
    two_roundings,
    undeclared_rounding,
    whole_run,
)
from cotejar.diagnosis.hypotheses.rotation import bias_after_turning, rope, rope_ends
from cotejar.diagnosis.hypotheses.unrecorded import carried, carried_pairs, unrecorded_sums
from cotejar.diagnosis.hypotheses.weight import (
    changed_values,
    columns,
    embedding,
    low_rank,
    one_place,
    other_basis,
    other_inputs,
    other_row_order,
    permutation,
    projection,
    transposed_bytes,
    weights,
)
from cotejar.diagnosis.operations import Embed
from cotejar.diagnosis.some_outputs import outputs_alone
from cotejar.diagnosis.some_rows import rows_alone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.diagnosis.case import Alternative, Case, Judged
    from cotejar.diagnosis.some_outputs import SomeOutputs
    from cotejar.diagnosis.some_rows import SomeRows

FAMILIES = (
    whole_run,
    cache_steps,
    embedding,
    later_scales,
    norm,
    norm_after_sum,
    rope,
    rope_ends,
    attention,
    projection,
    bias_after_turning,
    weights,
    activation,
    residual,
    rounding,
    activation_precision,
    permutation,
    elementwise,
    block_codes,
    undeclared_rounding,
    two_roundings,
    one_place,
    attention_masks,
    attention_heads,
    attention_forms,
    attention_weights,
    extra_key,
    hidden_ranges,
    other_inputs,
    transposed_bytes,
    changed_values,
    flat_blocks,
    columns,
    low_sums,
    layer_runs,
    low_rank,
    lookup_table,
    other_basis,
    unrecorded_sums,
    carried,
)
"""Those that say why; `plain` is asked if none of them explains it."""

OF_SOME_OUTPUTS = (projection, weights, rounding, block_codes, undeclared_rounding)
"""Those that speak of each row of a weight by itself, or of rows beside one another."""

FEW_PARAMETERS = 3
"""What is fitted with more numbers is named only where nothing simpler explains it."""

EQUAL = 2.0
"""Two explanations are equal if one leaves at most so many times what the other leaves."""

ROUNDER = 0.9
"""A fitted number takes the place of a rounder one if it leaves less than so much of it."""

CLEARLY_MORE, SMALL = 16.0, 1 / 4
"""Of two vectors of fitted numbers one is no explanation that leaves so many times more than
the other, and so much of a limit."""

NEGLIGIBLE = 1 / 64
"""Of a limit: less than that tells no two explanations apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """A way to be wrong that explains what was recorded, or comes nearest to it."""

    id: str
    title: str
    residual_before: float
    """Relative L2 of the worst token, with the right operation."""
    residual_after: float
    """The same with the wrong one."""
    limit: float
    """What honest arithmetic leaves there."""
    parameters: int
    """Numbers that were fitted."""
    also: int = 0
    """Other sites that it explains as well."""
    declared: bool = False
    """It leaves out what this very model declares."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Found:
    """What the search gives."""

    causes: tuple[Cause, ...]
    """Best first; empty where nothing explains it."""
    nearest: Cause | None
    """Of those that do not explain it, the one that leaves least."""
    num_tried: int
    output: Float64[np.ndarray, "T W"] | None = None
    """What the best cause makes of the inputs."""
    looks_like: str | None = None
    """Of what kind the difference is, where nothing reproduces it."""
    explaining: tuple[tuple[Cause, Float64[np.ndarray, "T W"]], ...] = ()
    """All that explain it with few numbers, and what each gives; the best are `causes`."""


def find_causes(case: Case) -> Found:
    """Ask every family; then, if need be, for two faults, and what can happen to anything."""
    accepted: dict[str, tuple[int, Cause, float]] = {}
    outputs: dict[str, Float64[np.ndarray, "T W"]] = {}
    nearest: Cause | None = None
    tried, case = 0, _of_its_tokens(case)
    for rank, (families, part) in enumerate(_stages(case)):
        if accepted and families == (plain,):
            break  # a vector of numbers says more than what happened to the output
        for alternative, judged in _judged(case if part is None else part.case, families):
            tried += 1
            shown = alternative if part is None else part.among_all(case, alternative)
            cause = _cause(case, shown, judged)
            if judged.accepted:
                held = accepted.get(cause.id)
                if held is None or _is_better((rank, cause), (held[0], held[1])):
                    accepted[cause.id] = (rank, cause, judged.ratio)
                    outputs[cause.id] = shown.output
            elif nearest is None or cause.residual_after < nearest.residual_after:
                nearest = cause
        if any(cause.parameters <= FEW_PARAMETERS for _, cause, _ in accepted.values()):
            break
    causes = tuple(cause for _, cause, _ in _best(list(accepted.values())))
    output = outputs[causes[0].id] if causes else None
    tried += len(case.screened)
    looks_like = None if causes or case.error.derived else unstructured.describe(case)
    return Found(
        causes=causes,
        nearest=nearest,
        num_tried=tried,
        output=output,
        looks_like=looks_like,
        explaining=tuple(
            (cause, outputs[cause.id])
            for _, cause, _ in accepted.values()
            if cause.parameters <= FEW_PARAMETERS
        ),
    )


def _of_its_tokens(case: Case) -> Case:
    """An embedding of which the last token alone was recorded is made of its id alone."""
    trace, rows = case.observed.trace, len(case.recorded)
    if not isinstance(case.operation.step, Embed) or rows == len(trace.token_ids):
        return case
    short = replace(trace, token_ids=trace.token_ids[-rows:], passes=())
    return replace(case, observed=replace(case.observed, trace=short, _derived={}))


def _stages(
    case: Case,
) -> Iterator[tuple[tuple[object, ...], SomeRows | SomeOutputs | None]]:
    """What is asked, one after the other, until something simple explains it."""
    yield FAMILIES, None
    parts = list(rows_alone(case))
    for part in parts:
        yield FAMILIES, part
    for outputs in outputs_alone(case):
        yield OF_SOME_OUTPUTS, outputs
    yield (other_row_order,), None
    yield (pairs, carried_pairs), None
    yield (plain,), None
    for part in parts:
        yield (plain,), part


def _best(accepted: list[tuple[int, Cause, float]]) -> list[tuple[int, Cause, float]]:
    """Those that explain it as well as the best does, the simplest first.

    What is barely wrong is barely not explained, by many things: only what leaves about as
    little as the best counts. A vector of fitted numbers leaves least and says least.
    """
    few = [one for one in accepted if one[1].parameters <= FEW_PARAMETERS]
    if not few:
        least = min((ratio for _, _, ratio in accepted), default=0.0)
        near = [one for one in accepted if one[2] <= max(CLEARLY_MORE * least, SMALL)]
        return sorted(near, key=lambda a: _order(a[0], a[1]))
    least = min(ratio for _, _, ratio in few)
    equal = [one for one in few if one[2] <= max(EQUAL * least, NEGLIGIBLE)]
    fewest = min(one[1].parameters for one in equal)
    equal = [one for one in equal if one[1].parameters == fewest]
    return sorted(equal, key=lambda a: _order(a[0], a[1]))


def _judged(case: Case, families: tuple[object, ...]) -> Iterator[tuple[Alternative, Judged]]:
    with np.errstate(all="ignore"):
        for family in families:
            for alternative in family.alternatives(case):  # type: ignore[attr-defined]  # a module
                yield alternative, case.judge(alternative.output, alternative.slack)


def _cause(case: Case, alternative: Alternative, judged: Judged) -> Cause:
    return Cause(
        id=alternative.id,
        title=alternative.title,
        residual_before=case.error.rel_l2,
        residual_after=judged.rel_l2,
        limit=judged.limit,
        parameters=alternative.parameters,
        also=alternative.also,
        declared=alternative.declared,
    )


def _order(rank: int, cause: Cause) -> tuple[int, int, int, bool, int]:
    """Of equal ones the family that is asked first comes first, so residuals are coarse."""
    size = max(cause.residual_after, NEGLIGIBLE * cause.limit, 1e-300)
    eighth = round(8 * math.log2(size)) if math.isfinite(size) else sys.maxsize
    return rank, cause.parameters, -cause.also, not cause.declared, eighth


def _is_better(new: tuple[int, Cause], held: tuple[int, Cause]) -> bool:
    """Of two of one name. The one that was offered first has the rounder number."""
    if _order(*new)[:-1] != _order(*held)[:-1]:
        return _order(*new) < _order(*held)
    return new[1].residual_after < ROUNDER * held[1].residual_after
