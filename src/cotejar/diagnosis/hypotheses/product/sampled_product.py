"""A few rows of a product, which tell whether an input is worth multiplying whole.

A head has a hundred thousand rows and more, and there are dozens of suspects.

Shape letters: T tokens, R sampled rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.observed import cap
from cotejar.diagnosis.some_rows import rows_looked_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float64, Int

    from cotejar.diagnosis.case import Case

_ROWS = 32
_BETTER = 2.0
"""What is worth it leaves so many times less of the sample, at every token."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledProduct:
    """Rows from all over the weight."""

    rows: Int[np.ndarray, "R"]
    weight: Float64[np.ndarray, "R C"]
    bias: Float64[np.ndarray, "R"]
    softcap: float | None
    recorded: Float64[np.ndarray, "T R"]
    before: Float64[np.ndarray, "T"]
    """Length of what the right input leaves, token by token."""
    looked_at: Int[np.ndarray, "N"]
    """Tokens that have to be explained."""

    @classmethod
    def of(cls, case: Case) -> SampledProduct:
        """Of a product."""
        matrix = case.matrix
        rows = np.unique(np.linspace(0, matrix.rows - 1, _ROWS).astype(int))
        weight = np.concatenate([matrix.decode_rows(int(r), int(r) + 1) for r in rows])
        order = case.project.row_order
        place = rows if order is None else np.argsort(order)[rows]
        return cls(
            rows=rows,
            weight=weight.astype(np.float64),
            bias=np.zeros(len(rows)) if case.bias is None else case.bias[rows],
            softcap=case.project.softcap,
            recorded=case.recorded_rows[:, rows],
            before=np.linalg.norm((case.recorded - case.right)[:, place], axis=1),
            looked_at=rows_looked_at(case),
        )

    def is_worth(
        self,
        values_TC: Float64[np.ndarray, "T C"],
        weight_RC: Float64[np.ndarray, "R C"] | None = None,
        rounded: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> bool:
        """Does that input, with that weight if it is another, leave much less?

        `rounded` rounds the output.
        """
        weight_RC = self.weight if weight_RC is None else weight_RC
        output_TR = cap(values_TC @ weight_RC.T + self.bias, self.softcap)
        output_TR = output_TR if rounded is None else rounded(output_TR)
        left_T = np.linalg.norm(self.recorded - output_TR, axis=1)
        return bool((left_T * _BETTER <= self.before)[self.looked_at].all())
