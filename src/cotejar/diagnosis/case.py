"""What a hypothesis is given: one operation, what went in, what came out, and a judge.

Shape letters: T tokens, W width, R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.arithmetic import (
    DECODED_GROUPS,
    GROUPS,
    ProductInput,
    can_round,
    product_input,
)
from cotejar.diagnosis.limits import ACCEPTED, divide
from cotejar.diagnosis.observed import cap, replay
from cotejar.diagnosis.operations import Project, vector
from cotejar.diagnosis.products import multiply

if TYPE_CHECKING:
    from jaxtyping import Float64, Int

    from cotejar.diagnosis.arithmetic import Arithmetic
    from cotejar.diagnosis.observed import Observed
    from cotejar.diagnosis.operations import Operation
    from cotejar.diagnosis.replay import LocalError
    from cotejar.quant.block_matrix import BlockMatrix
    from cotejar.trace.site import Site


LOWERED = 4.0
"""A cause that leaves more than a limit leaves at most this part of what there was."""

TIES = 0.03
"""Share of the values that may be rounded the other way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """How near an alternative comes to what was recorded."""

    rel_l2: float
    """Relative L2 of the token that is furthest beyond its limit."""
    limit: float
    """Of that token."""
    before: float = np.inf
    """Limits that the right operation leaves, at its worst token."""

    @property
    def ratio(self) -> float:
        """`rel_l2` over `limit`."""
        return float(divide(np.array([self.rel_l2]), np.array([self.limit]))[0])

    @property
    def accepted(self) -> bool:
        """Does it explain what was recorded? NaN does not, nor what changes little."""
        if self.ratio <= 1:
            return self.ratio <= self.before / 2
        return self.ratio <= min(ACCEPTED, self.before / LOWERED)


@dataclass(frozen=True, kw_only=True, eq=False)
class Alternative:
    """One way to be wrong, and what would come out of it."""

    id: str
    title: str
    output: Float64[np.ndarray, "T W"]
    parameters: int = 0
    """Numbers that were fitted to what was recorded: of two that explain it, the one with
    fewer is the better explanation."""
    also: int = 0
    """Other recorded sites that it explains as well, and that the right operation does not."""
    declared: bool = False
    """Does it leave out what this very model declares? Of two that are equal it comes first."""
    slack: float = 0.0
    """Relative L2 that what was computed on the way, and not recorded, may add to the limit."""


@dataclass(frozen=True, eq=False)
class Case:
    """One operation whose local error is not explained."""

    operation: Operation
    observed: Observed
    inputs: tuple[Float64[np.ndarray, "T W"], ...]
    recorded: Float64[np.ndarray, "T W"]
    error: LocalError
    screened: list[str] = field(default_factory=list)
    """Titles of what a few rows have ruled out."""
    rows: Int[np.ndarray, "T"] | None = None
    """Which of the trace's rows these are, where they are not its last ones."""
    known: Float64[np.ndarray, "W R"] | None = None
    """Orthonormal directions in which `recorded` is known, where it was solved for in part."""

    @cached_property
    def right(self) -> Float64[np.ndarray, "T W"]:
        """What ought to have come out, with the roundings that the numerics declares."""
        return replay(self.operation, self.inputs, self.observed)

    def judge(self, output_TW: Float64[np.ndarray, "T W"], slack: float = 0.0) -> Judged:
        """Hold an output against what was recorded; the limit grows with a larger output.

        `slack` is an alternative's own: see there.
        """
        if output_TW.shape != self.recorded.shape:
            return Judged(rel_l2=np.inf, limit=self.error.limit)
        with np.errstate(all="ignore"):
            norm_T = self.error.output_norm
            left_T = divide(_norms(self.recorded - output_TW), norm_T)
            growth_T = divide(_norms(output_TW), norm_T)
            growth_T[~np.isfinite(growth_T)] = 1.0
            limit_T = (self.error.limits + slack) * np.maximum(growth_T, 1.0)
            ratio_T = divide(left_T, limit_T)
        ratio_T[~np.isfinite(ratio_T)] = np.inf
        worst = int(ratio_T.argmax())
        rel_l2 = float(left_T[worst])
        return Judged(
            rel_l2=np.inf if np.isnan(rel_l2) else rel_l2,
            limit=float(limit_T[worst]),
            before=self.error.ratio,
        )

    def but_for_ties(
        self, output_TW: Float64[np.ndarray, "T W"], unit: float
    ) -> Float64[np.ndarray, "T W"]:
        """A rounded output, with what was recorded where a rounding fell the other way.

        A value near the middle of two is rounded up by one program and down by another. So
        may a few values be off (`TIES` of all), each by little more than a rounding of `unit`.
        """
        with np.errstate(all="ignore"):
            size_T1 = np.linalg.norm(output_TW, axis=1, keepdims=True)
            width = output_TW.shape[1]
            off = np.abs(self.recorded - output_TW)
            near = 2 * self.error.limits[:, None] * size_T1 / np.sqrt(width)
            tied = off > near
            scale = np.abs(output_TW) + size_T1 / np.sqrt(width)
            if tied.mean() > TIES or (off > 4 * unit * scale).any():
                return output_TW
        return np.where(tied, self.recorded, output_TW)

    def recorded_at(self, site: Site) -> Float64[np.ndarray, "T W"] | None:
        """Another site of the same side, if its values are there and are finite."""
        array = self.observed.recorded(site)
        if array is None or not np.isfinite(array).all():
            return None
        if self.rows is None:
            return array[-len(self.recorded) :]
        tokens = len(self.observed.trace.token_ids)
        return array[self.rows] if len(array) == tokens else None  # else: the last one's alone

    # --- of a product alone ---------------------------------------------------------

    @property
    def project(self) -> Project:
        """The step, of a product."""
        if not isinstance(self.operation.step, Project):
            raise TypeError(f"{self.operation.name} is no product")
        return self.operation.step

    @cached_property
    def arithmetic(self) -> Arithmetic:
        """How this product rounds, as the numerics declares."""
        return self.observed.arithmetic.of_product(self.operation.site.slot)

    @cached_property
    def matrix(self) -> BlockMatrix:
        """The weight that ought to be multiplied."""
        return self.observed.truth.weights[self.project.weight]

    @cached_property
    def bias(self) -> Float64[np.ndarray, "R"] | None:
        """In the order of the weight's rows."""
        name = self.project.bias
        return None if name is None else vector(self.observed.truth.weights, name)

    @cached_property
    def givens(self) -> list[ProductInput]:
        """The input as the numerics rounds it; and, where that differs, as it is.

        What computes with a wrong weight may well do so in another way than the rest.
        """
        return self.round_input(self.inputs[0])

    def round_input(self, x_TC: Float64[np.ndarray, "T C"]) -> list[ProductInput]:
        """Any input, likewise."""
        how, weights = self.arithmetic.activations, self.arithmetic.weights
        ways = [(how, weights), ("exact", weights)]
        if weights == GROUPS:  # a weight that is wrong may have been decoded first
            ways = [(how, weights), (how, DECODED_GROUPS), ("exact", "exact")]
        kind = self.matrix.block_type
        return [
            product_input(x_TC, one, kind, weights=other) for one, other in dict.fromkeys(ways)
        ]

    @cached_property
    def other_givens(self) -> list[ProductInput]:
        """The input as a weight of any type would have it: `givens`, and what others round to.

        A weight that is taken for another is multiplied as that other is.
        """
        found = list(self.givens)
        if self.arithmetic.activations == "exact":
            return found
        weights = found[-1].weights
        for how in ("Q8_0", "Q8_K", "f16", "bf16"):
            if can_round(how, self.inputs[0].shape[1]):
                kind = self.matrix.block_type
                one = product_input(self.inputs[0], how, kind, weights=weights)
                if not any(np.array_equal(one.values, held.values) for held in found):
                    found.append(one)
        return found

    @property
    def exact_given(self) -> int:
        """Which of `givens` is the input as it is."""
        return len(self.givens) - 1

    @cached_property
    def products(self) -> list[Float64[np.ndarray, "T R"]]:
        """The right weight times each of `givens`, without bias, in the weight's order."""
        return multiply(self.matrix, self.givens)

    @cached_property
    def recorded_rows(self) -> Float64[np.ndarray, "T R"]:
        """What was recorded, in the order of the weight's rows."""
        order = self.project.row_order
        if order is None:
            return self.recorded
        rows = np.empty_like(self.recorded)
        rows[:, order] = self.recorded
        return rows

    def finish(self, product_TR: Float64[np.ndarray, "T R"]) -> Float64[np.ndarray, "T R"]:
        """Add the bias and bring a product in the weight's order to the site's."""
        if self.bias is not None:
            product_TR = product_TR + self.bias
        return self.in_order(cap(product_TR, self.project.softcap))

    def finishes(
        self, product_TR: Float64[np.ndarray, "T R"]
    ) -> list[tuple[str, Float64[np.ndarray, "T R"]]]:
        """The same with a word for a title: also without the softcap, where there is one.

        What replaces a product may well forget what comes behind it.
        """
        whole = self.finish(product_TR)
        if self.project.softcap is None:
            return [("", whole)]
        if self.bias is not None:
            product_TR = product_TR + self.bias
        return [("", whole), (", and the softcap is left out", self.in_order(product_TR))]

    def in_order(self, output_TR: Float64[np.ndarray, "T R"]) -> Float64[np.ndarray, "T R"]:
        """From the order of the weight's rows to the site's."""
        order = self.project.row_order
        return output_TR if order is None else output_TR[:, order]


def _norms(values_TW: Float64[np.ndarray, "T W"]) -> Float64[np.ndarray, "T"]:
    """Of each token. Logits are large, and numpy's own makes copies of them."""
    norms_T: np.ndarray = np.sqrt(np.einsum("tw,tw->t", values_TW, values_TW))
    return norms_T
