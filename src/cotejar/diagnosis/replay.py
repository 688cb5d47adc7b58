"""Every operation's local error: what an engine made of the inputs that it recorded itself.

An error that came in with the inputs is not an operation's own. Float64 makes of the same
inputs what ought to come out; the distance from what was recorded is the local error, and
`limits` says how much of it is honest.

One weight is read at a time, by blocks of rows, for both sides and every rounding at once. A
local error is a function of the operation, its arithmetic and the bits that were recorded
around it: where those are the same, on both sides or as in a run that was replayed before,
it is not computed again.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.arithmetic import activation_block, product_input
from cotejar.diagnosis.limits import (
    derived_limit,
    divide,
    flips_limit,
    product_limit,
    step_limit,
)
from cotejar.diagnosis.observed import cap, embed, replay, rounded_inputs
from cotejar.diagnosis.operations import (
    Activate,
    Add,
    Attend,
    Embed,
    Project,
    compute,
    vector,
)
from cotejar.diagnosis.products import stream_products
from cotejar.parity.metrics import same_bits
from cotejar.trace.array_store import read_columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float, Float64, Int

    from cotejar.diagnosis.observed import Inputs, Observed, SideName
    from cotejar.diagnosis.operations import Operation, Step


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LocalError:
    """One operation on one side."""

    site: str
    side: SideName
    exact: Float64[np.ndarray, "T"]
    """Relative L2 a token, recorded against float64 on unrounded inputs."""
    left: Float64[np.ndarray, "T"]
    """The same after the roundings that the numerics declares."""
    limits: Float64[np.ndarray, "T"]
    output_norm: Float64[np.ndarray, "T"]
    """L2 norm a token of what float64 makes of it."""
    derived: tuple[str, ...]
    """Inputs that were not recorded."""

    @property
    def ratios(self) -> Float64[np.ndarray, "T"]:
        """What is left over its limit, a token; NaN counts as infinite."""
        ratios = divide(self.left, self.limits)
        ratios[~np.isfinite(self.left)] = np.inf
        return ratios

    def of_rows(self, rows: Int[np.ndarray, "N"]) -> LocalError:
        """The error of some tokens alone."""
        return replace(
            self,
            exact=self.exact[rows],
            left=self.left[rows],
            limits=self.limits[rows],
            output_norm=self.output_norm[rows],
        )

    @property
    def worst_token(self) -> int:
        """Index of the token that is furthest beyond its limit."""
        return int(self.ratios.argmax())

    @property
    def ratio(self) -> float:
        """Of that token."""
        return float(self.ratios[self.worst_token])

    @property
    def rel_l2(self) -> float:
        """Of that token."""
        return float(self.left[self.worst_token])

    @property
    def limit(self) -> float:
        """Of that token."""
        return float(self.limits[self.worst_token])

    @property
    def explained(self) -> bool:
        """Within the limit at every token."""
        return self.ratio <= 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Replayed:
    """A side that was replayed, and what came of it."""

    observed: Observed
    errors: Mapping[str, LocalError]
    """By site."""

    def find(self, side: Observed, name: str) -> LocalError | None:
        """The error there, if that side recorded the same bits around it, or None.

        What was derived is not looked at: it would have to be derived to be compared.
        """
        error, other = self.errors.get(name), self.observed
        if error is None or error.derived or not side.runs_like(other):
            return None
        operation = side.truth.operations[name]
        for site in (operation.site, *operation.inputs):
            ours, theirs = side.as_recorded(site), other.as_recorded(site)
            if ours is None or theirs is None:
                return None
            if ours is not theirs and not same_bits(ours, theirs):
                return None
        return replace(error, side=side.side)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Job:
    operation: Operation
    observed: Observed
    inputs: Inputs
    recorded: Float[np.ndarray, "T W"]
    """Of a product as it was recorded, to be read by columns: logits are large."""


def replay_sides(
    sides: Sequence[Observed],
    *,
    layers: frozenset[int] | None = None,
    jobs: int = 1,
    known: Sequence[Replayed] = (),
) -> list[LocalError]:
    """Local errors of both sides, in forward order.

    Args:
        sides: what each recorded; they share a weight's decoding where they share a model.
        layers: those to look at, and what is outside the layers; None for all.
        jobs: threads.
        known: sides that were replayed before.
    """
    groups: list[list[tuple[Observed, str]]] = []
    for name in dict.fromkeys(name for side in sides for name in side.truth.operations):
        found = [(side, name) for side in sides if _is_wanted(side, name, layers)]
        shared = len({id(side.truth) for side, _ in found}) == 1
        groups += [found] if shared else [[one] for one in found]
    measure = partial(_measure, known=known)
    if jobs <= 1:
        return [error for group in groups for error in measure(group)]
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        return [error for errors in pool.map(measure, groups) for error in errors]


def _is_wanted(side: Observed, name: str, layers: frozenset[int] | None) -> bool:
    operation = side.truth.operations.get(name)
    if operation is None:
        return False
    layer = operation.site.layer
    return layers is None or layer is None or layer in layers


def _measure(
    group: Sequence[tuple[Observed, str]], known: Sequence[Replayed]
) -> list[LocalError]:
    """Of one operation, on each side on which it can be replayed."""
    found: dict[SideName, LocalError] = {}
    for side, name in group:
        error = next((e for one in known if (e := one.find(side, name)) is not None), None)
        if error is not None:
            found[side.side] = error
    jobs = [
        job
        for side, name in group
        if side.side not in found and (job := _job(side, name)) is not None
    ]
    alike = len(jobs) == 2 and _are_alike(*jobs)  # noqa: PLR2004 - both sides
    # Infinite weights make NaN, which is a finding and no warning.
    with np.errstate(all="ignore"):
        measured = _measure_jobs(jobs[:1] if alike else jobs)
    found |= {error.side: error for error in measured}
    if alike:
        other = jobs[1].observed.side
        found[other] = replace(measured[0], side=other)
    return [found[side.side] for side, _ in group if side.side in found]


def _are_alike(a: _Job, b: _Job) -> bool:
    """Is what one gives what the other gives, to the bit?"""
    pairs = zip((*a.inputs.arrays, a.recorded), (*b.inputs.arrays, b.recorded), strict=True)
    return (
        a.observed.runs_like(b.observed)
        and a.inputs.derived == b.inputs.derived
        and all(same_bits(ours, theirs) for ours, theirs in pairs)
    )


def _measure_jobs(jobs: Sequence[_Job]) -> list[LocalError]:
    if jobs and isinstance(jobs[0].operation.step, Project):
        return _measure_products(jobs)
    return [_measure_step(job) for job in jobs]


def _job(side: Observed, name: str) -> _Job | None:
    operation = side.truth.operations[name]
    is_product = isinstance(operation.step, Project)
    read = side.as_recorded if is_product else side.recorded
    recorded = read(operation.site)
    inputs = None if recorded is None else side.inputs(operation, recorded)
    if recorded is None or inputs is None:
        return None
    return _Job(operation=operation, observed=side, inputs=inputs, recorded=recorded)


def _measure_step(job: _Job) -> LocalError:
    side, step, inputs = job.observed, job.operation.step, job.inputs.arrays
    if isinstance(step, Embed):
        ids = side.trace.token_ids[-len(job.recorded) :]  # of the last token alone, or of all
        exact = rounded = embed(step, side.truth, ids)
    else:
        exact = rounded = compute(step, inputs, side.truth.weights)
        if isinstance(step, (Attend, Activate)):
            rounded = replay(job.operation, inputs, side)
    norm_T = _norms(exact)
    given = rounded_inputs(step, inputs, side.arithmetic)
    limits_T = step_limit(step, given, exact, side.arithmetic)
    return LocalError(
        site=job.operation.name,
        side=side.side,
        exact=divide(_norms(job.recorded - exact), norm_T),
        left=divide(_norms(job.recorded - rounded), norm_T),
        limits=limits_T + _derived_limit(job) * _growth(step, inputs, norm_T),
        output_norm=norm_T,
        derived=job.inputs.derived,
    )


def _growth(
    step: Step, inputs: Sequence[Float64[np.ndarray, "T W"]], norm_T: Float64[np.ndarray, "T"]
) -> Float64[np.ndarray, "T"]:
    """How much larger the greater summand is than the sum, where two nearly cancel."""
    if not isinstance(step, Add):
        return np.ones(len(norm_T))
    largest_T = np.maximum(*(_norms(array) for array in inputs))
    growth_T: np.ndarray = np.maximum(divide(largest_T, norm_T), 1.0)
    return growth_T


def _derived_limit(job: _Job) -> float:
    operations = job.observed.truth.operations
    steps = [operations[name].step for name in job.inputs.derived]
    return derived_limit(steps, job.observed.arithmetic)


def _norms(values_TW: Float64[np.ndarray, "T W"]) -> Float64[np.ndarray, "T"]:
    norms: np.ndarray = np.linalg.norm(values_TW, axis=1)
    return norms


class _Sums:
    """Squared norms a token, gathered over blocks of rows."""

    def __init__(self, job: _Job, step: Project) -> None:
        self.job = job
        truth = job.observed.truth
        arithmetic = job.observed.arithmetic.of_product(job.operation.site.slot)
        how, weights = arithmetic.activations, arithmetic.weights
        matrix = truth.weights[step.weight]
        x_TC = job.inputs.arrays[0]
        self.x_squares = x_TC * x_TC
        self.given = [product_input(x_TC, "exact", matrix.block_type)]
        if (how, weights) != ("exact", "exact"):
            self.given.append(product_input(x_TC, how, matrix.block_type, weights=weights))
        self.columns = matrix.columns
        self.block = activation_block(arithmetic, matrix.block_type)
        # Held against products in the order of the weight's rows.
        self.recorded = job.recorded
        if step.row_order is not None:
            self.recorded = np.empty_like(job.recorded)
            self.recorded[:, step.row_order] = job.recorded
        self.softcap = step.softcap
        self.bias = None if step.bias is None else vector(truth.weights, step.bias)
        tokens = len(x_TC)
        self.output = np.zeros(tokens)
        self.column_squares = np.zeros(matrix.columns)
        self.errors = [np.zeros(tokens) for _ in self.given]

    def add(self, rows: slice, rows_RC: np.ndarray, products: Sequence[np.ndarray]) -> None:
        for i, product_TR in enumerate(products):
            output_TR = product_TR if self.bias is None else product_TR + self.bias[rows]
            output_TR = cap(output_TR, self.softcap)
            if i == 0:
                self.output += np.einsum("tr,tr->t", output_TR, output_TR)
            error_TR = read_columns(self.recorded, rows) - output_TR
            self.errors[i] += np.einsum("tr,tr->t", error_TR, error_TR)
        self.column_squares += np.einsum("rc,rc->c", rows_RC, rows_RC)

    def local_error(self) -> LocalError:
        norm_T = np.sqrt(self.output)
        exact, left = self.errors[0], self.errors[-1]
        return LocalError(
            site=self.job.operation.name,
            side=self.job.observed.side,
            exact=divide(np.sqrt(exact), norm_T),
            left=divide(np.sqrt(left), norm_T),
            limits=product_limit(
                self.job.observed.arithmetic,
                columns=self.columns,
                output_T=norm_T,
                spread_T=np.sqrt(self.x_squares @ self.column_squares),
            )
            + self._derived_limit(norm_T),
            output_norm=norm_T,
            derived=self.job.inputs.derived,
        )

    def _derived_limit(self, norm_T: Float64[np.ndarray, "T"]) -> Float64[np.ndarray, "T"]:
        """What inputs that were not recorded add, activations in the next step among it."""
        known = _derived_limit(self.job)
        if not known or self.block is None:
            return np.full(len(norm_T), known)
        return known + flips_limit(
            self.job.inputs.arrays[0],
            known=known,
            block=self.block,
            column_squares_C=self.column_squares,
            output_T=norm_T,
        )


def _measure_products(jobs: Sequence[_Job]) -> list[LocalError]:
    step = jobs[0].operation.step
    if not isinstance(step, Project):
        raise TypeError(type(step).__name__)
    matrix = jobs[0].observed.truth.weights[step.weight]
    gathered = [_Sums(job, step) for job in jobs]
    inputs = [given for sums in gathered for given in sums.given]
    for rows, rows_RC, products in stream_products(matrix, inputs):
        start = 0
        for sums in gathered:
            stop = start + len(sums.given)
            sums.add(rows, rows_RC, products[start:stop])
            start = stop
    return [sums.local_error() for sums in gathered]
