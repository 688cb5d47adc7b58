"""KH-APR-GGUF-PARITY-003: the sample-size gate, for models of up to `bound` cells.

A cell is a layer and one of the ten slots; 28 layers make 280. Counts are any integers,
standard deviations and limits any binary64: NaN, infinities, zeros of both signs, subnormals
and negative numbers too. The claims are about the functions that `apr parity` calls.

What is claimed of a ratio is claimed of the rounded quotient larger / smaller. The exact one
can lie up to half a unit in the last place above it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cotejar.contracts.prove.harness import Side, Strategy, harness
from cotejar.parity.sample_gate import judge_samples, samples_agree, std_spread
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from cotejar.contracts.prove.inputs import Inputs

ID = "KH-APR-GGUF-PARITY-003"
OBLIGATION = "PO-APR-GGUF-PARITY-002"
SLOTS = 10
TARGETS = (judge_samples, samples_agree, std_spread)
"""What production calls, and what the mutants are made of."""


ASSUMES = (
    "counts are Python integers of any size",
    "standard deviations and limits are binary64 floats, any of them",
    "the arithmetic is IEEE 754's, rounding to nearest even, as CPython's floats have it",
)


def shapes_up_to(bound: int) -> list[tuple[int, int]]:
    """How many cells have counts, and how many of them a limit: all, one in ten, or none."""
    cells = [n for n in range(1, bound + 1) if n <= SLOTS or n % SLOTS == 0 or n == bound]
    return [(n, m) for n in cells for m in (n, n // SLOTS, 0) if m == n or m != n // SLOTS or m]


def is_fine(reference_std: float, candidate_std: float, limit: float) -> bool:
    """The specification of a ratio in its band, in other words than the gate's."""
    if reference_std == 0 and candidate_std == 0:
        return limit >= 1
    if not (0 < reference_std < math.inf and 0 < candidate_std < math.inf):
        return False
    quotient = max(reference_std, candidate_std) / min(reference_std, candidate_std)
    return quotient < math.inf and quotient <= limit


@harness(
    ID,
    obligation=OBLIGATION,
    bound=280,
    strategy=Strategy.SYMBOLIC,
    side=Side.SOUNDNESS,
    targets=TARGETS,
    assumes=ASSUMES,
)
def pass_implies_equal_counts_and_ratios_in_band(inputs: Inputs) -> None:
    """PASS: every pair of counts is equal and above 0, every ratio finite and in its band."""
    cells, ratios = inputs.choose("cells", shapes_up_to(inputs.bound))
    counts, others = inputs.ints("reference_counts", cells), inputs.ints("candidate_counts", cells)
    stds, other_stds = inputs.floats("reference_stds", ratios), inputs.floats("candidate_stds", ratios)
    limits = inputs.floats("limits", ratios)
    verdict = judge_samples(counts, others, stds, other_stds, limits)
    inputs.cover("some samples pass", verdict is Verdict.PASS)
    if verdict is Verdict.PASS:
        assert all(n == m and n > 0 for n, m in zip(counts, others, strict=True))
        assert all(is_fine(a, b, x) for a, b, x in zip(stds, other_stds, limits, strict=True))
