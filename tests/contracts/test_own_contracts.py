"""Our own contracts meet our own rules, and the documents that they cite point back."""

from pathlib import Path

import pytest

from cotejar.contracts.audit import audit_corpus
from cotejar.contracts.corpus import read_corpus
from cotejar.contracts.read import read_contract
from cotejar.contracts.validate import validate_path

CONTRACTS = Path(__file__).parents[2] / "contracts"
FORWARD_PARITY = CONTRACTS / "apr-vs-gguf-forward-parity-v1.yaml"


@pytest.mark.parametrize("file", sorted(CONTRACTS.glob("**/*.yaml")), ids=lambda f: f.stem)
def test_a_contract_breaks_no_rule_and_warns_of_nothing(file: Path) -> None:
    report = validate_path(file)

    assert report.files[0].problem is None
    assert [finding.as_text() for finding in report.findings] == []


def test_every_name_in_our_contracts_leads_somewhere_and_back() -> None:
    report = audit_corpus(read_corpus(CONTRACTS))

    assert [finding.as_text() for finding in report.findings] == []


def test_forward_parity_names_ten_slots_and_280_cells() -> None:
    contract = read_contract(FORWARD_PARITY)
    parity = contract.source.value_of("parity")

    (harness,) = contract.harnesses
    assert (harness.id, harness.bound) == ("KH-APR-GGUF-PARITY-003", 28 * 10)
    assert len(parity["required_sites"]) == 10
    assert [test.id for test in contract.tests] == [
        f"FALSIFY-APR-GGUF-PARITY-{number:03}" for number in range(1, 8)
    ]
    assert [o.type.value for o in contract.obligations] == ["invariant", "soundness"]
