"""Eight bugs that such a gate can have: each is REFUTED at bound 280, and CPython agrees."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("bitwuzla")
pytest.importorskip("z3")

from cotejar.contracts.harnesses.sample_gate import ID
from cotejar.contracts.prove.harness import HARNESSES
from cotejar.contracts.prove.outcome import ProofVerdict
from cotejar.contracts.prove.replay import replay
from cotejar.contracts.prove.substitute import with_functions
from cotejar.contracts.prove.symbolic import SymbolicProof

if TYPE_CHECKING:
    from collections.abc import Callable

CLAIMS = {claim.name: claim for claim in HARNESSES.claims_of(ID)}
COUNTS = """    for cell in range(len(reference_counts)):
        if not samples_agree(reference_counts[cell], candidate_counts[cell]):
            return Verdict.INCOMPARABLE
"""
RATIOS = """    for cell in range(len(limits)):
        spread = std_spread(reference_stds[cell], candidate_stds[cell])
        if not (math.isfinite(spread) and spread <= limits[cell]):
            return Verdict.FAIL
"""
SOUND = "pass_implies_equal_counts_and_ratios_in_band"
MISMATCH = "any_mismatch_is_incomparable"
LENGTHS = "lists_of_unequal_lengths_are_incomparable"

BUGS = {
    "zip truncation": (
        LENGTHS,
        ("len(reference_counts) != len(candidate_counts) or ", ""),
        (
            COUNTS,
            COUNTS.replace(
                "cell in range(len(reference_counts))",
                "n, m in zip(reference_counts, candidate_counts, strict=False)",
            ).replace("(reference_counts[cell], candidate_counts[cell])", "(n, m)"),
        ),
    ),
    "at least 0 for above 0": (
        MISMATCH,
        ("candidate_count and reference_count > 0", "candidate_count and reference_count >= 0"),
    ),
    "a NaN hole": (
        SOUND,
        (
            "if not (math.isfinite(spread) and spread <= limits[cell])",
            "if spread > limits[cell]",
        ),
    ),
    "a skipped layer": (
        MISMATCH,
        (
            COUNTS,
            COUNTS.replace(
                "):\n        if",
                "):\n        if cell // 10 == 3:\n            continue\n        if",
            ),
        ),
    ),
    "one slot too few": (
        MISMATCH,
        ("range(len(reference_counts))", "range(len(reference_counts) - 1)"),
    ),
    "any for all": (
        MISMATCH,
        (
            COUNTS,
            "    if not any(\n"
            "        samples_agree(reference_counts[cell], candidate_counts[cell])\n"
            "        for cell in range(len(reference_counts))\n"
            "    ):\n"
            "        return Verdict.INCOMPARABLE\n",
        ),
    ),
    "the precondition after the ratio": (MISMATCH, (COUNTS + RATIOS, RATIOS + COUNTS)),
    "a product that overflows 32 bits": (
        MISMATCH,
        (
            "reference_count == candidate_count",
            "(4 * reference_count) & 0xFFFFFFFF == (4 * candidate_count) & 0xFFFFFFFF",
        ),
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_seeded_bug_is_refuted(bug: str, changed_gate: Callable) -> None:
    claim, *changes = BUGS[bug]
    body = with_functions(CLAIMS[claim].body, changed_gate(*changes))

    outcome = SymbolicProof(body, 280, time.monotonic() + 60).prove()

    assert outcome.verdict is ProofVerdict.REFUTED
    with pytest.raises(AssertionError):
        replay(body, outcome.counterexample, bound=280)
    # The gate that production calls is right on the same values.
    replay(CLAIMS[claim].body, outcome.counterexample, bound=280)


def test_a_band_of_two_quotients_is_refuted(load: Callable) -> None:
    """1.25 above and 0.8 below: one order of sides passes, the other does not."""
    module = load(
        "def is_inside(a, b):\n"
        "    return 0.8 <= a / b <= 1.25\n\n\n"
        "def claim(inputs):\n"
        "    a, b = inputs.double('a'), inputs.double('b')\n"
        "    inputs.assume(a == 1.1406249999999998 and 1 < b < 2)\n"
        "    inputs.cover('a pair inside', is_inside(a, b))\n"
        "    assert is_inside(a, b) == is_inside(b, a)\n"
    )

    outcome = SymbolicProof(module.claim, 1, time.monotonic() + 60).prove()

    assert outcome.verdict is ProofVerdict.REFUTED


def test_an_exception_that_escapes_is_refuted(changed_gate: Callable) -> None:
    changes = ("larger / smaller if smaller > 0 else math.inf", "larger / smaller")
    body = with_functions(CLAIMS[SOUND].body, changed_gate(changes))

    outcome = SymbolicProof(body, 3, time.monotonic() + 60).prove()

    assert outcome.verdict is ProofVerdict.REFUTED
    assert outcome.why == "ZeroDivisionError: float division by zero"
