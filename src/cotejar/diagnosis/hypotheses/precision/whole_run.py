"""What the whole run has in common: it computes in another type than it says; or drops values.

Shape letters: T tokens, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.arithmetic import ROUNDINGS, UNIT
from cotejar.diagnosis.case import Alternative
from cotejar.diagnosis.hypotheses.numbers import nice
from cotejar.diagnosis.operations import Project, Rotate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.diagnosis.case import Case

_SITES = 24
"""That are looked at, from all over the run."""
_FEWEST_SITES = 4
_OF_THAT_TYPE = 0.9
"""Share of them whose every value is a number of the type."""
_UNDECLARED = {"f16": "float16", "bf16": "bfloat16"}
_LEAST_DROPPED, _MOST_DROPPED = 0.005, 0.95
"""Share of values that are 0 where some are dropped on purpose."""


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of any site."""
    yield from _nothing(case)
    yield from _another_type(case)
    yield from _dropped(case)


def _nothing(case: Case) -> Iterator[Alternative]:
    """The output is 0 throughout; of a product, the bias alone."""
    if not isinstance(case.operation.step, Project):
        if not case.recorded.any():
            output = np.zeros_like(case.recorded)
            yield Alternative(id="output-zero", title="the output is 0", output=output)
        return
    plain_TR = np.zeros_like(case.right)
    bias = case.bias
    yield Alternative(
        id="output-zero",
        title="the output is 0: a weight of zeros, one that was not loaded?",
        output=plain_TR,
    )
    if bias is not None:
        yield Alternative(
            id="output-zero",
            title="the product is 0 and the bias alone comes out: a weight of zeros, one that "
            "was not loaded?",
            output=case.finish(plain_TR),
        )


def _another_type(case: Case) -> Iterator[Alternative]:
    """Nearly all recorded sites hold numbers of a type that the run does not declare."""
    arithmetic, trace = case.observed.arithmetic, case.observed.trace
    if arithmetic.values not in {"f32", "f64"} or arithmetic.recorded:
        return
    names = [n for n in trace.arrays if n != "logits"]
    names = names[:: max(1, len(names) // _SITES)]
    if len(names) < _FEWEST_SITES:
        return
    for how, words in _UNDECLARED.items():
        rounded = ROUNDINGS[how]
        count = sum(_is_of_type(np.asarray(trace.arrays[n][-1:]), how) for n in names)
        if count < _OF_THAT_TYPE * len(names):
            continue
        output = rounded(case.right)
        if isinstance(case.operation.step, (Project, Rotate)):
            output = case.but_for_ties(output, UNIT[how])
        yield Alternative(
            id="run-type",
            title=f"the run is in {words} and says {arithmetic.name}: {count} of {len(names)} "
            "recorded sites hold nothing else",
            output=output,
            also=count,
        )


def _is_of_type(values: np.ndarray, how: str) -> bool:
    return bool((ROUNDINGS[how](values) == values).all())


def _dropped(case: Case) -> Iterator[Alternative]:
    """Each value is 0, or the right one over the share that is kept: dropout that is on."""
    right, recorded = case.right, case.recorded
    is_zero = (recorded == 0) & (right != 0)
    if is_zero.all(axis=1).any() or is_zero.all(axis=0).any():
        return  # a whole token, or a whole output, that is 0 was not dropped by chance
    share = float(is_zero.mean())
    kept = ~is_zero & (right != 0)
    if not _LEAST_DROPPED < share < _MOST_DROPPED or not kept.any():
        return
    with np.errstate(all="ignore"):
        found = float(np.median(recorded[kept] / right[kept]))
    # What is kept makes up for what is lost, or is as it was: a network that is pruned.
    scaled = (nice(1 / (1 - nice(1 - 1 / found, 1)), 12), nice(found, 4), found)
    for factor in dict.fromkeys((1.0, *scaled)):
        yield Alternative(
            id="dropout",
            title=f"{100 * share:.1f} % of the values are 0 and the others "
            + (
                "are right" if factor == 1 else f"are multiplied by {factor:.4g}: dropout is on"
            ),
            output=np.where(is_zero, 0.0, factor * right),
            parameters=2,
        )
