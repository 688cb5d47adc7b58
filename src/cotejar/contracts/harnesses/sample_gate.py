"""KH-APR-GGUF-PARITY-003: the sample-size gate, for models of up to `bound` cells.

A cell is a layer and one of the ten slots; 28 layers make 280. Counts are any integers,
standard deviations and limits any binary64: NaN, infinities, zeros of both signs, subnormals
and negative numbers too. The claims are about the functions that `apr parity` calls.

What is claimed of a ratio is claimed of the rounded quotient larger / smaller. The exact one
can lie up to half a unit in the last place above it.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from cotejar.contracts.prove.harness import Side, Strategy, harness
from cotejar.parity.sample_gate import judge_samples, samples_agree, std_spread
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from cotejar.contracts.prove.inputs import Inputs

ID = "KH-APR-GGUF-PARITY-003"
OBLIGATION = "PO-APR-GGUF-PARITY-002"
SLOTS = 10


ASSUMES = (
    "counts are Python integers of any size",
    "standard deviations and limits are binary64 floats, any of them",
    "the arithmetic is IEEE 754's, rounding to nearest even, as CPython's floats have it",
)


def shapes_up_to(bound: int) -> list[tuple[int, int]]:
    """How many cells have counts, and how many of them a limit.

    Every small number of cells, with a limit each; every number of whole layers, with a limit
    at one slot of each, as the contract has it; and the bound, with a limit everywhere.
    """
    small = [(cells, cells) for cells in range(1, min(bound, SLOTS) + 1)]
    whole = [(SLOTS * layers, layers) for layers in range(1, bound // SLOTS + 1)]
    return [*small, *whole, (bound, 0), (bound, bound)]


Cells = tuple[list[int], list[int], list[float], list[float], list[float]]
"""The arguments of `judge_samples`."""


def draw_cells(inputs: Inputs) -> Cells:
    """Any counts, standard deviations and limits, in each of the shapes."""
    cells, ratios = inputs.choose("cells", shapes_up_to(inputs.bound))
    return (
        inputs.integers("reference_counts", cells),
        inputs.integers("candidate_counts", cells),
        inputs.doubles("reference_stds", ratios),
        inputs.doubles("candidate_stds", ratios),
        inputs.doubles("limits", ratios),
    )


def is_inside(reference_std: float, candidate_std: float, limit: float) -> bool:
    """A ratio in its band, on `std_spread`, about which the claims on one pair say the rest."""
    spread = std_spread(reference_std, candidate_std)
    return math.isfinite(spread) and spread <= limit


def are_comparable(counts: list[int], others: list[int]) -> bool:
    """Every pair of counts is equal and above 0."""
    return all(n == m and n > 0 for n, m in zip(counts, others, strict=True))


def are_inside(stds: list[float], others: list[float], limits: list[float]) -> bool:
    """Every ratio is finite and in its band."""
    return all(is_inside(a, b, x) for a, b, x in zip(stds, others, limits, strict=True))


claim = partial(
    harness,
    ID,
    obligation=OBLIGATION,
    bound=280,
    strategy=Strategy.SYMBOLIC,
    targets=(judge_samples, samples_agree, std_spread),
    assumes=ASSUMES,
)


@claim(side=Side.SOUNDNESS)
def pass_implies_equal_counts_and_ratios_in_band(inputs: Inputs) -> None:
    """PASS: every pair of counts is equal and above 0, every ratio finite and in its band."""
    counts, others, stds, other_stds, limits = draw_cells(inputs)
    verdict = judge_samples(counts, others, stds, other_stds, limits)
    inputs.cover("some samples pass", verdict is Verdict.PASS)
    if verdict is Verdict.PASS:
        assert are_comparable(counts, others)
        assert are_inside(stds, other_stds, limits)


@claim(side=Side.COMPLETENESS)
def equal_counts_and_ratios_in_band_pass(inputs: Inputs) -> None:
    """Comparable counts and every ratio in its band: PASS; one ratio outside: FAIL."""
    counts, others, stds, other_stds, limits = draw_cells(inputs)
    inputs.assume(are_comparable(counts, others))
    verdict = judge_samples(counts, others, stds, other_stds, limits)
    if are_inside(stds, other_stds, limits):
        inputs.cover("every ratio is in its band")
        assert verdict is Verdict.PASS
    else:
        inputs.cover("a ratio is outside")
        assert verdict is Verdict.FAIL


@claim(side=Side.BOTH)
def any_mismatch_is_incomparable(inputs: Inputs) -> None:
    """One pair of counts differs or is 0: INCOMPARABLE, whatever the ratios are."""
    counts, others, stds, other_stds, limits = draw_cells(inputs)
    inputs.assume(not are_comparable(counts, others))
    inputs.cover("the last pair alone differs", counts[:-1] == others[:-1])
    verdict = judge_samples(counts, others, stds, other_stds, limits)
    assert verdict is Verdict.INCOMPARABLE


@claim(
    strategy=Strategy.CROSSHAIR,
    side=Side.BOTH,
    targets=(samples_agree,),
    assumes=(ASSUMES[0],),
)
def two_counts_agree_where_equal_and_above_0(inputs: Inputs) -> None:
    """One pair: both counts are the same number, at least 1; no order of the two matters."""
    n, m = inputs.integer("reference_count"), inputs.integer("candidate_count")
    agrees = samples_agree(n, m)
    inputs.cover("they agree", agrees)
    inputs.cover("equal and empty", n == m == 0)
    assert agrees == (min(n, m) == max(n, m) >= 1)
    assert samples_agree(m, n) == agrees


@claim(side=Side.BOTH)
def lists_of_unequal_lengths_are_incomparable(inputs: Inputs) -> None:
    """A list is one short or one long, or there is no cell: INCOMPARABLE, and no exception."""
    lengths = inputs.choose("lengths", unequal_lengths(inputs.bound))
    verdict = judge_samples(
        inputs.integers("reference_counts", lengths[0]),
        inputs.integers("candidate_counts", lengths[1]),
        inputs.doubles("reference_stds", lengths[2]),
        inputs.doubles("candidate_stds", lengths[3]),
        inputs.doubles("limits", lengths[4]),
    )
    inputs.cover("the longest list", max(lengths) >= inputs.bound)
    assert verdict is Verdict.INCOMPARABLE


def unequal_lengths(bound: int) -> list[list[int]]:
    """Lengths of the five lists, of which some that must agree do not, or no cell at all."""
    small = [
        [a, b, c, d, e]
        for a in range(2)
        for b in range(2)
        for c in range(2)
        for d in range(2)
        for e in range(2)
        if a != b or a == 0 or c != d or c != e
    ]
    off_by_one = [
        [bound + change * (at == i) for i in range(5)] for at in range(5) for change in (-1, 1)
    ]
    return [*small, *off_by_one]


@claim(side=Side.BOTH)
def swapping_the_sides_changes_no_verdict(inputs: Inputs) -> None:
    """Reference for candidate: the same verdict."""
    counts, others, stds, other_stds, limits = draw_cells(inputs)
    verdict = judge_samples(counts, others, stds, other_stds, limits)
    inputs.cover("some samples fail", verdict is Verdict.FAIL)
    assert judge_samples(others, counts, other_stds, stds, limits) is verdict


@claim(side=Side.BOTH)
def a_spread_is_the_same_from_either_side(inputs: Inputs) -> None:
    """One pair: the same bits whichever comes first, at least 1 or NaN."""
    a, b = inputs.double("reference_std"), inputs.double("candidate_std")
    spread, swapped = std_spread(a, b), std_spread(b, a)
    inputs.cover("a spread that is no NaN", not math.isnan(spread))
    assert spread == swapped or (math.isnan(spread) and math.isnan(swapped))
    assert spread >= 1 or math.isnan(spread)


@claim(side=Side.BOTH)
def a_spread_is_larger_over_smaller(inputs: Inputs) -> None:
    """One pair: the value, and NaN or infinity where there is none."""
    a, b = inputs.double("reference_std"), inputs.double("candidate_std")
    spread = std_spread(a, b)
    inputs.cover("two numbers", 0 < a < b < math.inf)
    if not (a >= 0 and b >= 0) or a == b == math.inf:
        assert math.isnan(spread)
    elif a == b:
        assert spread == 1
    elif a == 0 or b == 0:
        assert spread == math.inf
    else:
        assert spread == max(a, b) / min(a, b)


@claim(side=Side.SOUNDNESS)
def a_ratio_inside_its_band_is_finite_and_at_most_the_limit(inputs: Inputs) -> None:
    """One pair: both sides are 0, or both above 0 and finite with larger / smaller <= x."""
    a, b = inputs.double("reference_std"), inputs.double("candidate_std")
    limit = inputs.double("limit")
    if is_inside(a, b, limit):
        inputs.cover("inside")
        if a == 0 or b == 0:
            assert a == 0 and b == 0 and limit >= 1  # noqa: PT018 - one claim
        else:
            assert 0 < a < math.inf and 0 < b < math.inf  # noqa: PT018 - one fact
            quotient = max(a, b) / min(a, b)
            assert quotient < math.inf and quotient <= limit  # noqa: PT018 - one fact


@claim(side=Side.COMPLETENESS)
def a_ratio_outside_its_band_is_outside(inputs: Inputs) -> None:
    """One pair: NaN, an infinity, a negative or one zero side, or a quotient above x."""
    a, b = inputs.double("reference_std"), inputs.double("candidate_std")
    limit = inputs.double("limit")
    if not is_inside(a, b, limit):
        inputs.cover("two positive numbers outside", 0 < a < math.inf and 0 < b < math.inf)
        if 0 < a < math.inf and 0 < b < math.inf:
            quotient = max(a, b) / min(a, b)
            assert not (quotient < math.inf and quotient <= limit)
        else:
            assert not (a == 0 and b == 0 and limit >= 1)
