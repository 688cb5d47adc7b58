"""The score: every part of upstream's formula, the grades' edges, the weights."""

import math

import pytest

from cotejar.contracts.binding import BindingRegistry, build_bindings
from cotejar.contracts.corpus import Corpus
from cotejar.contracts.coverage import coverage_text, measure_coverage
from cotejar.contracts.proof_level import (
    ProofLevel,
    declared_enforcement_level,
    declared_proof_level,
)
from cotejar.contracts.read import parse_contract, parse_source
from cotejar.contracts.rules.example import fill_example
from cotejar.contracts.score import (
    Score,
    parse_weights,
    score_contract,
    score_json,
    score_text,
)
from cotejar.errors import UsageError

FULL = """metadata:
  {version: 1, description: d, references: [a], depends_on: [b]}
equations:
  f: {formula: y, domain: R, invariants: [i]}
kernel_structure: {phases: [{name: n, description: d}]}
proof_obligations:
  - {property: p, tolerance: 0, lean: {theorem: t, status: proved}}
kani_harnesses: [{id: k, obligation: p, bound: 1, strategy: exhaustive}]
"""


def contract(blocks: str, file: str = "example-v1.yaml"):
    return parse_contract(fill_example(blocks), file=file)


def registry(*statuses: str) -> BindingRegistry:
    entries = [
        f"{{contract: example-v1.yaml, equation: e{i}, status: {status}}}"
        for i, status in enumerate(statuses)
    ]
    text = f"version: 1\ntarget_crate: c\nbindings: [{', '.join(entries)}]\n"
    return build_bindings(parse_source(text, file="binding.yaml"))


def part(name: str, blocks: str) -> float:
    return score_contract(contract(blocks)).parts[name]


def test_everything_there_scores_1_and_grade_a() -> None:
    score = score_contract(contract(FULL), registry("implemented"))

    assert math.isclose(score.composite, 1.0)
    assert (score.grade, [cost for _, cost in score.gaps if cost > 1e-9]) == ("A", [])


@pytest.mark.parametrize(
    ("removed", "lost"),
    [
        (", domain: R", 0.15),
        (", invariants: [i]", 0.15),
        ("kernel_structure: {phases: [{name: n, description: d}]}\n", 0.15),
        (", tolerance: 0", 0.10),
        ("references: [a], ", 0.10),
        (", depends_on: [b]", 0.05),
    ],
)
def test_each_part_of_a_specification_has_its_weight(removed: str, lost: float) -> None:
    assert removed in FULL

    assert math.isclose(part("specification", FULL.replace(removed, "")), 1.0 - lost)


def test_without_equations_a_specification_loses_all_three_of_theirs() -> None:
    text = FULL.replace("equations:\n  f: {formula: y, domain: R, invariants: [i]}\n", "")

    assert math.isclose(part("specification", text + "equations: {}\n"), 0.4)


TWO = "proof_obligations: [{property: p}, {property: q}]\n"


@pytest.mark.parametrize(
    ("tests", "obligations", "share"),
    [
        ("[]", TWO, 0.0),
        ("[{id: a}]", TWO, 0.5),
        ("[{id: a}, {id: b}, {id: c}]", TWO, 1.0),
        ("[]", "proof_obligations: []\n", 0.0),
        ("[{id: a}]", "proof_obligations: []\n", 1.0),
    ],
)
def test_falsification_is_tests_over_obligations(tests, obligations, share) -> None:
    assert part("falsification", f"falsification_tests: {tests}\n{obligations}") == share


@pytest.mark.parametrize(
    ("strategy", "weight"),
    [
        (", strategy: exhaustive", 1.0),
        (", strategy: bounded_int", 0.9),
        (", strategy: stub_float", 0.8),
        (", strategy: compositional", 0.7),
        ("", 0.5),
        (", strategy: compositional, actually_verified: true", 1.0),
        (", actually_verified: false", 0.5),
    ],
)
def test_a_harness_weighs_by_its_strategy(strategy: str, weight: float) -> None:
    blocks = f"kani_harnesses: [{{id: k, obligation: p{strategy}}}]\n{TWO}"

    assert math.isclose(part("harnesses", blocks), weight / 2)


@pytest.mark.parametrize(
    ("statuses", "share"),
    [
        (["proved", "sorry"], 0.5),
        (["proved", "not-applicable"], 1.0),
        (["not-applicable"], 0.0),
        ([], 0.0),
    ],
)
def test_lean_is_proved_over_applicable(statuses: list, share: float) -> None:
    entries = [f"{{property: {s}, lean: {{theorem: t, status: {s}}}}}" for s in statuses]
    entries = entries or ["{property: p}"]

    assert part("lean", f"proof_obligations: [{', '.join(entries)}]\n") == share


def test_binding_is_the_mean_of_its_entries() -> None:
    bindings = registry("implemented", "partial", "not_implemented", "pending")

    assert score_contract(contract(FULL), bindings).parts["binding"] == 0.375
    assert score_contract(contract(FULL, "other-v1.yaml"), bindings).parts["binding"] == 0
    assert score_contract(contract(FULL)).parts["binding"] == 0


def test_what_is_no_kernel_owes_no_binding_and_half_of_lean() -> None:
    blocks = "metadata: {version: 1, description: d, kind: pattern, references: [a]}\n"
    parts = score_contract(contract(blocks)).parts

    assert (parts["binding"], parts["lean"]) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("composite", "grade"),
    [(0.9, "A"), (0.899999, "B"), (0.75, "B"), (0.6, "C"), (0.4, "D"), (0.39, "F"), (0, "F")],
)
def test_the_edges_of_the_grades(composite: float, grade: str) -> None:
    score = Score(stem="s", parts={"lean": composite}, weights={"lean": 1.0})

    assert score.grade == grade


def test_other_weights_are_divided_by_their_sum() -> None:
    weights = parse_weights("lean=0, binding=0,specification=1,falsification=2, harnesses=1")

    assert weights == {
        "specification": 0.25,
        "falsification": 0.5,
        "harnesses": 0.25,
        "lean": 0.0,
        "binding": 0.0,
    }
    assert math.isclose(sum(parse_weights("").values()), 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "speed=1",
        "lean=-1",
        "lean=.nan",
        "lean=much",
        "lean",
        "lean=.inf",
        "lean=1e999",
        "specification=0,falsification=0,harnesses=0,lean=0,binding=0",
    ],
)
def test_weights_that_give_no_score_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_weights(text)


def test_a_score_below_the_least_fails_and_is_named() -> None:
    scores = [
        Score(stem=stem, parts={"lean": value}, weights={"lean": 1.0})
        for stem, value in (("low", 0.4), ("high", 0.8))
    ]

    facts = score_json(scores, min_score=0.5)

    assert (facts["verdict"], facts["exit_code"], facts["below"]) == ("FAIL", 1, ["low"])
    assert score_json(scores, min_score=None)["verdict"] == "PASS"
    assert score_text(scores, top_gaps=1).splitlines()[-2:] == [
        "2 contract(s), mean 0.600",
        "gap 0.600  low: lean",
    ]


# --- levels and coverage ------------------------------------------------------------

SUMMARY = "verification_summary: {total_obligations: 2, l4_lean_proved: %d, %s: %d}\n"


@pytest.mark.parametrize(
    ("blocks", "level"),
    [
        ("proof_obligations: []\n", ProofLevel.L1),
        ("falsification_tests: []\n", ProofLevel.L1),
        ("kani_harnesses: []\n", ProofLevel.L2),
        ("x: 1\n", ProofLevel.L3),
        (SUMMARY % (2, "l4_sorry_count", 0), ProofLevel.L4),
        (SUMMARY % (1, "l4_not_applicable", 1), ProofLevel.L4),
        (SUMMARY % (1, "l4_sorry_count", 1), ProofLevel.L3),
        (SUMMARY % (0, "l4_not_applicable", 2), ProofLevel.L3),
    ],
)
def test_the_declared_proof_level(blocks: str, level: ProofLevel) -> None:
    assert declared_proof_level(contract(blocks)) is level


def test_the_highest_level_needs_every_binding() -> None:
    proved = contract(SUMMARY % (2, "l4_sorry_count", 0))

    assert declared_proof_level(proved, registry("implemented")) is ProofLevel.L5
    assert declared_proof_level(proved, registry("implemented", "partial")) is ProofLevel.L4
    assert declared_proof_level(proved, registry()) is ProofLevel.L4


@pytest.mark.parametrize(
    ("blocks", "level"),
    [
        ("kani_harnesses: []\n", "basic"),
        ("x: 1\n", "standard"),
        (SUMMARY % (1, "l4_sorry_count", 0), "proven"),
        (SUMMARY % (1, "l4_sorry_count", 1), "standard"),
    ],
)
def test_the_declared_enforcement_level(blocks: str, level: str) -> None:
    assert declared_enforcement_level(contract(blocks)) == level


def test_coverage_counts_by_upstreams_heuristic() -> None:
    three = "proof_obligations: [{property: p}, {property: q}, {type: bound, property: r}]\n"
    contracts = (
        contract(three + "falsification_tests: []\n"),
        contract(three, "other-v1.yaml"),
    )
    corpus = Corpus(target="c", contracts=contracts, skipped=())

    report = measure_coverage(corpus, registry("implemented"))

    rows = [(c.num_falsification_covered, c.num_harness_covered) for c in report.contracts]
    assert (rows, report.percent) == ([(0, 1), (3, 1)], 100 * 4 / 6)
    assert report.contracts[0].by_type == {"bound": 1, "invariant": 2}
    assert coverage_text(report).splitlines()[:2] == [
        "example-v1 eq=1 ob=3 ft=0 kani=1 impl=0/1",
        "other-v1 eq=1 ob=3 ft=1 kani=1 impl=0/1",
    ]
    assert report.as_json()["totals"]["obligations"] == 6


def test_coverage_of_no_obligations_is_full_and_of_bound_equations_counted() -> None:
    blocks = "proof_obligations: []\nequations: {e0: {formula: y}, e1: {formula: z}}\n"
    corpus = Corpus(target="c", contracts=(contract(blocks),), skipped=())

    report = measure_coverage(corpus, registry("implemented", "partial"))

    row = report.as_json()["contracts"][0]
    assert report.percent == 100.0
    assert [row[f"binding_{s}"] for s in ("implemented", "partial", "missing")] == [1, 1, 0]
