"""Agreement with upstream: its 66 cases, and 59 contracts of its own corpus."""

import json
from pathlib import Path

import pytest
import yaml

from cotejar.contracts.read import parse_contract
from cotejar.contracts.validate import validate_contract, validate_path
from cotejar.errors import ContractError

CONFORMANCE = Path(__file__).parents[2] / "../shared/conformance"
CASES = CONFORMANCE / "pv/validate-cases.json"
CORPUS = CONFORMANCE / "contracts"
needs_cases = pytest.mark.skipif(not CASES.is_file(), reason="no conformance cases here")
needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason="no conformance corpus here")
LOADERS = {"pure": yaml.SafeLoader, "libyaml": getattr(yaml, "CSafeLoader", yaml.SafeLoader)}


def load_cases() -> list[dict]:
    return json.loads(CASES.read_text()) if CASES.is_file() else []


def judge(text: str, loader: type) -> dict:
    try:
        findings = validate_contract(parse_contract(text, loader=loader))
    except ContractError:
        return {"parse_error": True, "errors": [], "warnings": [], "exit": 1}
    errors = sorted(f.rule for f in findings if f.severity == "error")
    warnings = sorted(f.rule for f in findings if f.severity == "warning")
    return {
        "parse_error": False,
        "errors": errors,
        "warnings": warnings,
        "exit": 1 if errors else 0,
    }


@needs_cases
@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_every_case_agrees_in_rules_parse_failure_and_exit(loader: type) -> None:
    cases = load_cases()
    expected = {
        case["name"]: {
            "parse_error": case["expected_parse_error"],
            "errors": sorted(case["expected_errors"]),
            "warnings": sorted(case["expected_warnings"]),
            "exit": case["expected_exit"],
        }
        for case in cases
    }

    found = {case["name"]: judge(case["yaml"], loader) for case in cases}

    assert len(found) == 66
    assert found == expected


@needs_corpus
def test_the_corpus_has_no_error_and_one_warning() -> None:
    report = validate_path(CORPUS)

    assert (len(report.files), report.num_failed) == (59, 0)
    assert [(f.rule, Path(f.file).name, f.line) for f in report.findings] == [
        ("SCHEMA-006", "preprocessing-normalization-v1.yaml", 62)
    ]
