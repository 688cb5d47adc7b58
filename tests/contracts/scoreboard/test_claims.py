"""Each claim without evidence is found, at its place; the same claim with it is not."""

from __future__ import annotations

from typing import Any

import pytest

from cotejar.contracts.corpus import read_corpus
from cotejar.contracts.scoreboard.claims import check_claims
from cotejar.contracts.scoreboard.states import score_corpus


@pytest.fixture
def example(bench: Any) -> Any:
    bench.blocks["kani_harnesses"] = [{"id": "KH-1", "obligation": "PO-1", "bound": 8}]
    return bench.test("python tests/test_x.py")


def found(bench: Any) -> list[tuple[str, str, str]]:
    bench.save()
    findings = check_claims(score_corpus(read_corpus(bench.file)))
    return [(f.rule, f.path, f.message) for f in findings]


def claim_summary(bench: Any, **counts: int) -> None:
    bench.blocks["verification_summary"] = {"total_obligations": 1, **counts}


def test_no_claim_is_no_finding(example: Any) -> None:
    assert found(example) == []


def test_tested_obligations_are_counted(example: Any) -> None:
    claim_summary(example, l2_property_tested=1)
    unsupported = found(example)
    example.record()

    assert unsupported == [
        (
            "PV-CLM-001",
            "verification_summary.l2_property_tested",
            "l2_property_tested claims 1 obligations; fresh evidence shows 0",
        )
    ]
    assert found(example) == []


def test_proved_obligations_are_counted(example: Any) -> None:
    claim_summary(example, l3_kani_proved=1)
    unsupported = found(example)
    example.prove()

    assert unsupported == [
        (
            "PV-CLM-002",
            "verification_summary.l3_kani_proved",
            "l3_kani_proved claims 1 obligations; fresh evidence shows 0",
        )
    ]
    assert found(example) == []


def test_a_lean_proof_is_never_on_record(example: Any) -> None:
    claim_summary(example, l4_lean_proved=1)
    example.blocks["proof_obligations"][0]["lean"] = {"theorem": "t", "status": "proved"}

    assert found(example) == [
        (
            "PV-CLM-003",
            "verification_summary.l4_lean_proved",
            "l4_lean_proved claims 1; no Lean proof is on record",
        ),
        (
            "PV-CLM-003",
            "proof_obligations[0].lean.status",
            "t is called proved; no Lean proof is on record",
        ),
    ]


@pytest.mark.parametrize("word", ["DISCHARGED", "shipped", "ACTIVE-RUNTIME"])
def test_a_status_that_claims_all_needs_every_obligation_discharged(
    example: Any, word: str
) -> None:
    example.blocks["status"] = word
    unsupported = found(example)
    example.prove()
    partly = found(example)
    example.record()

    assert unsupported == [
        (
            "PV-CLM-004",
            "status",
            f"status {word} needs every obligation DISCHARGED; 1 of 1 are not: PO-1 is OPEN",
        )
    ]
    assert partly[0][2].endswith("PO-1 is PARTIAL")
    assert found(example) == []


def test_a_status_in_metadata_that_claims_a_part(example: Any) -> None:
    example.blocks["metadata"]["status"] = "PARTIAL_ALGORITHM_LEVEL"
    unsupported = found(example)
    example.prove()

    assert [(rule, path) for rule, path, _ in unsupported] == [
        ("PV-CLM-004", "metadata.status")
    ]
    assert found(example) == []


def test_a_tests_own_status_needs_its_survival(example: Any) -> None:
    example.blocks["falsification_tests"][0]["discharge_status"] = "DISCHARGED"
    unsupported = found(example)
    example.record()

    assert unsupported == [
        (
            "PV-CLM-005",
            "falsification_tests[0].discharge_status",
            "F-1 is called DISCHARGED; it is NOT-RUN (never run)",
        )
    ]
    assert found(example) == []


def test_a_harness_called_verified_needs_its_proof(example: Any) -> None:
    example.blocks["kani_harnesses"][0]["actually_verified"] = True
    unsupported = found(example)
    example.prove()

    assert unsupported == [
        (
            "PV-CLM-006",
            "kani_harnesses[0].actually_verified",
            "KH-1 is called verified; it is NOT-RUN (never run)",
        )
    ]
    assert found(example) == []


def test_stale_evidence_bears_out_no_claim(example: Any) -> None:
    claim_summary(example, l2_property_tested=1)
    example.save().record()
    (example.root / "src" / "code.py").write_text("x = 2\n")

    assert [rule for rule, _, _ in found(example)] == ["PV-CLM-001"]


@pytest.mark.parametrize("word", ["PROPOSED", "draft", "PRE-REGISTERED"])
def test_a_status_that_claims_nothing_needs_nothing(example: Any, word: str) -> None:
    example.blocks["status"] = word

    assert found(example) == []


def test_an_unknown_status_is_noted(example: Any) -> None:
    example.blocks["status"] = "SHINY"

    assert found(example) == [
        (
            "PV-CLM-007",
            "status",
            "'SHINY' is no word of status that this check knows; nothing was checked",
        )
    ]
