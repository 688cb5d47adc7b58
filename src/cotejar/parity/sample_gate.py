"""The sample-size gate: which samples may be compared, and how far their spreads may differ.

    a cell agrees      both sides counted the same number of values, and more than none
    a spread           max(r, 1 / r) of two standard deviations, r their ratio
    a spread is inside it is finite and spread <= limit; NaN never is

The spread is larger / smaller, one division rounded once. A band of two quotients,
[1 / x, x], is not symmetric in floating point: a = 1.1406249999999998 and
b = 1.4257812499999998 pass [0.8, 1.25] in one order only. This form is symmetric bit for bit.

Pure functions of plain numbers, without numpy, because `pv prove` reads this very source:
`contracts/harnesses/sample_gate.py` states what must hold, for every input.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence


def samples_agree(reference_count: int, candidate_count: int) -> bool:
    """Did both sides count the same number of values, and more than none?"""
    return reference_count == candidate_count and reference_count > 0


def std_spread(reference_std: float, candidate_std: float) -> float:
    """Larger over smaller: at least 1; 1 where both are the same, infinite where one is 0.

    NaN where it means nothing: a side is NaN or negative, or both are infinite.
    """
    if not (reference_std >= 0 and candidate_std >= 0):
        return math.nan
    if reference_std == candidate_std:
        return 1.0 if reference_std < math.inf else math.nan
    larger, smaller = reference_std, candidate_std
    if candidate_std > reference_std:
        larger, smaller = candidate_std, reference_std
    return larger / smaller if smaller > 0 else math.inf


def judge_samples(
    reference_counts: Sequence[int],
    candidate_counts: Sequence[int],
    reference_stds: Sequence[float],
    candidate_stds: Sequence[float],
    limits: Sequence[float],
) -> Verdict:
    """Judge all cells of one scope: counts of every cell, spreads of those that have a limit.

    The counts come first: where one pair differs, or nothing was counted, no ratio is formed
    and the verdict is INCOMPARABLE. Lists of unequal lengths pair nothing: INCOMPARABLE too.
    """
    if len(reference_counts) != len(candidate_counts) or len(reference_counts) == 0:
        return Verdict.INCOMPARABLE
    if len(reference_stds) != len(candidate_stds) or len(reference_stds) != len(limits):
        return Verdict.INCOMPARABLE
    for cell in range(len(reference_counts)):
        if not samples_agree(reference_counts[cell], candidate_counts[cell]):
            return Verdict.INCOMPARABLE
    for cell in range(len(limits)):
        spread = std_spread(reference_stds[cell], candidate_stds[cell])
        if not (math.isfinite(spread) and spread <= limits[cell]):
            return Verdict.FAIL
    return Verdict.PASS
