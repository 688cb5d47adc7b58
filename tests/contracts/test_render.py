"""Findings in the formats of other tools."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from cotejar.contracts.findings import Finding, Severity
from cotejar.contracts.render.github import github_lines
from cotejar.contracts.render.junit import junit_xml
from cotejar.contracts.render.sarif import sarif_log
from cotejar.contracts.render.text import validation_text
from cotejar.contracts.rules.every_rule import all_rules
from cotejar.contracts.rules.example import BASE_BLOCKS, fill_example
from cotejar.contracts.validate import ValidationReport, validate_path

GOOD = "".join(BASE_BLOCKS.values())


def make_finding(**changes: object) -> Finding:
    fields = {
        "rule": "SCHEMA-001",
        "severity": Severity.ERROR,
        "message": "no reference",
        "file": "c.yaml",
        "line": 3,
        "column": 5,
        "path": "metadata.references",
    }
    return Finding(**(fields | changes))


@pytest.fixture
def mixed(tmp_path: Path) -> ValidationReport:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text(fill_example("qa_gate:\nkind: x\n"))
    (tmp_path / "c.yaml").write_text("{{")
    (tmp_path / "d.yaml").write_text("schema: ont.paiml.dev/external-corpora/v1\n")
    return validate_path(tmp_path)


def test_a_valid_file_reads_as_upstream_prints_it(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(GOOD)

    output, errors = validation_text(validate_path(tmp_path / "c.yaml"))

    assert (output, errors) == ("\n0 error(s), 0 warning(s)\nContract is valid.", "")


def test_an_invalid_file_lists_its_findings_and_counts_errors_on_stderr(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(fill_example("kind: x\nqa_gate:\n"))

    output, errors = validation_text(validate_path(file))

    assert output == (
        "[ERROR] SCHEMA-018: the top-level `kind` is ignored: the kind is metadata.kind, here "
        f"kernel; move it there or delete it ({file}:13:1)\n"
        f"[WARN] SCHEMA-013: there is no qa_gate ({file}:14:1)\n"
        "\n"
        "1 error(s), 1 warning(s)"
    )
    assert errors == "error: Contract has 1 validation error(s)"


def test_a_folder_lists_every_file_and_counts_the_failed(mixed: ValidationReport) -> None:
    output, _ = validation_text(mixed)

    lines = output.splitlines()
    assert [line for line in lines if line.startswith("== ")] == [
        f"== {file.file}" for file in mixed.files
    ]
    assert "not checked: an external-corpora declaration; no rule judges it" in lines
    assert lines[-1] == f"4 artifact(s) under {mixed.target}, 2 failed"


def test_sarif_names_rule_level_place_and_path() -> None:
    log = sarif_log([make_finding(severity=Severity.INFO, file="a b.yaml")], [])

    assert log["version"] == "2.1.0"
    assert log["runs"][0]["results"] == [
        {
            "ruleId": "SCHEMA-001",
            "level": "note",
            "message": {"text": "no reference"},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": "a%20b.yaml"},
                        "region": {"startLine": 3, "startColumn": 5},
                    },
                    "logicalLocations": [{"fullyQualifiedName": "metadata.references"}],
                }
            ],
        }
    ]


def test_sarif_lists_every_rule_and_a_file_that_does_not_parse(mixed: ValidationReport) -> None:
    rules = [rule.help() for rule in all_rules()]

    run = json.loads(json.dumps(sarif_log(mixed.findings_and_problems, rules)))["runs"][0]

    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == [
        rule.id for rule in rules
    ]
    assert [(r["ruleId"], r["level"]) for r in run["results"]] == [
        ("SCHEMA-018", "error"),
        ("SCHEMA-013", "warning"),
        ("PV-E002", "error"),
    ]


def test_a_github_command_escapes_what_would_end_it() -> None:
    finding = make_finding(message="50%\nnext::x", file="a,b:c.yaml")

    assert github_lines([finding]) == [
        "::error file=a%2Cb%3Ac.yaml,line=3,col=5,title=SCHEMA-001::50%25%0Anext::x"
    ]


def test_junit_has_a_case_a_file_and_skips_what_no_rule_judges(mixed: ValidationReport) -> None:
    suite = ET.fromstring(junit_xml(mixed))[0]

    assert {k: suite.get(k) for k in ("tests", "failures", "skipped")} == {
        "tests": "4",
        "failures": "2",
        "skipped": "1",
    }
    assert [[child.tag for child in case] for case in suite] == [
        [],
        ["failure", "system-out"],
        ["failure"],
        ["skipped"],
    ]


def test_junit_survives_characters_that_xml_cannot_hold(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(fill_example('"qa_gates\\u0007": 1\n'))

    suite = ET.fromstring(junit_xml(validate_path(file)))[0]

    assert "qa_gates\N{REPLACEMENT CHARACTER}" in (suite[0][0].text or "")
