"""A sum of the residual stream that nobody recorded: the next sum, which reads it, shows it.

Behind a sum stand a norm and, at the end of the layer, the next sum. What was recorded of
that one, less its branch, is what it was given. A norm that reads another site, or rounds its
input, shows the same in its own output as a wrong sum; but then the next sum is right.

Shape letters: T tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.arithmetic import ROUNDINGS, UNIT
from cotejar.diagnosis.case import TIES, Alternative, Case
from cotejar.diagnosis.hypotheses.function import residual
from cotejar.diagnosis.hypotheses.numbers import nice
from cotejar.diagnosis.hypotheses.precision import rounding
from cotejar.diagnosis.observed import replay
from cotejar.diagnosis.operations import Add, Norm
from cotejar.diagnosis.replay import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float64

    from cotejar.trace.site import Site

_CLEARLY = 16.0
"""So many times less does a wrong sum leave, at every token at which it says another thing, to
be what was recorded rather than the right one."""
_MEET, _FEWEST_MEET = 1e-5, 3
"""Values that are as near one another, relatively, meet; and how many make a bound."""
_TYPES = ("f16", "bf16", "bf16 cut")
"""Of a stream that is kept in one of them, the next sum is rounded as well."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Next:
    """The sum that reads the one in question."""

    recorded: Float64[np.ndarray, "T D"]
    branch: Float64[np.ndarray, "T D"]
    right: Float64[np.ndarray, "T D"]
    """What it ought to have been given."""

    def bears_out(self, sum_TD: Float64[np.ndarray, "T D"]) -> bool:
        """Is it the sum of this and its branch, and not of what it ought to be?"""
        plain = sum_TD + self.branch
        away_T = self._off(self.right + self.branch)
        nearest_T = np.min(
            [self._off(plain), *(self._but_for_ties(ROUNDINGS[how](plain)) for how in _TYPES)],
            axis=0,
        )
        clearly = _CLEARLY * nearest_T <= away_T
        return bool((clearly | (sum_TD == self.right).all(axis=1)).all())

    def _off(self, sum_TD: Float64[np.ndarray, "T D"]) -> Float64[np.ndarray, "T"]:
        off_T: np.ndarray = np.linalg.norm(self.recorded - sum_TD, axis=1)
        return off_T

    def _but_for_ties(self, sum_TD: Float64[np.ndarray, "T D"]) -> Float64[np.ndarray, "T"]:
        """Likewise, of a rounded sum: a few values may have been rounded the other way."""
        size_TD = np.abs(sum_TD) + np.abs(self.branch)
        tied = np.abs(self.recorded - sum_TD) > 4 * UNIT["f32"] * size_TD
        if tied.mean() > TIES:
            return self._off(sum_TD)
        return self._off(np.where(tied, self.recorded, sum_TD))


def alternatives(case: Case) -> Iterator[Alternative]:
    """Of a site on the way to which a sum was not recorded."""
    for name in case.error.derived:
        operation = case.observed.truth.operations.get(name)
        if operation is None or not isinstance(operation.step, Add):
            continue
        observed = replace(case.observed, _derived={})
        inputs, then = observed.inputs(operation), _next(case, operation.site)
        if inputs is None or then is None or then.right.shape != inputs.arrays[0].shape:
            continue
        there = Case(
            operation, observed, inputs.arrays, then.recorded - then.branch, _error(case, then)
        )
        for one in _sums(there, then):
            if one.output.shape != then.right.shape or not then.bears_out(one.output):
                continue
            held = replace(case.observed, _derived={name: (one.output, ())})
            given = held.inputs(case.operation)
            if given is not None:
                output_TD = replay(case.operation, given.arrays, held)
                title = f"{one.title}, in {name}"
                yield replace(one, title=title, output=output_TD, also=1)


def _sums(there: Case, then: _Next) -> Iterator[Alternative]:
    """Every other sum; a rounded one too where the next sum was rounded again."""
    yield from residual.alternatives(there)
    yield from rounding.alternatives(there)
    yield from _clipped(there, then)
    for how in _TYPES:
        yield Alternative(
            id="output-rounded",
            title=f"the output is rounded to {how}",
            output=ROUNDINGS[how](then.right),
        )


def _clipped(there: Case, then: _Next) -> Iterator[Alternative]:
    """A bound is one at which several of the greatest values meet."""
    size_TD = np.abs(there.recorded)
    bound = float(size_TD.max())
    meet = size_TD[size_TD >= (1 - _MEET) * bound]
    if len(meet) < _FEWEST_MEET or not bound < np.abs(then.right).max():
        return
    bound = nice(float(np.median(meet)), 4)
    yield Alternative(
        id="output-clipped",
        title=f"the output is clipped to {bound:.4g}",
        output=np.clip(then.right, -bound, bound),
        parameters=1,
    )


def _next(case: Case, site: Site) -> _Next | None:
    """The recorded sum that reads it; None where there is none, or its branch is not known."""
    observed = replace(case.observed, _derived={})
    for operation in case.observed.truth.operations.values():
        if not isinstance(operation.step, Add) or operation.inputs[0] != site:
            continue
        if operation.name == case.operation.name:
            continue  # it is what is to be explained
        recorded_TD = case.recorded_at(operation.site)
        branch_TD = _branch(case, operation.inputs[1])
        inputs = observed.inputs(operation)
        if recorded_TD is None or branch_TD is None or inputs is None:
            continue
        right_TD = inputs.arrays[0]
        if recorded_TD.shape == branch_TD.shape == right_TD.shape:
            return _Next(recorded=recorded_TD, branch=branch_TD, right=right_TD)
    return None


def _branch(case: Case, site: Site) -> Float64[np.ndarray, "T D"] | None:
    """As recorded; of a norm behind a branch, made of what was recorded before it."""
    recorded_TD = case.recorded_at(site)
    operation = case.observed.truth.operations[str(site)]
    if recorded_TD is not None or not isinstance(operation.step, Norm):
        return recorded_TD
    before_TD = case.recorded_at(operation.inputs[0])
    return None if before_TD is None else replay(operation, [before_TD], case.observed)


def _error(case: Case, then: _Next) -> LocalError:
    """Of what the next sum was given, within the rounding of its own output."""
    size_T = np.maximum(np.linalg.norm(then.right, axis=1), 1e-300)
    given_TD = then.recorded - then.branch
    off_T = np.linalg.norm(given_TD - then.right, axis=1) / size_T
    rounded_T = UNIT["f32"] * np.linalg.norm(then.recorded, axis=1) / size_T
    return LocalError(
        site=case.error.site,
        side=case.observed.side,
        exact=off_T,
        left=off_T,
        limits=4 * rounded_T + 1e-300,
        output_norm=size_T,
        derived=(),
    )
