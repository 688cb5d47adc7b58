"""Files, folders and kinds of file; places of findings; what is not judged is no pass."""

import json
import os
from pathlib import Path

import pytest

from cotejar.contracts.read import parse_contract
from cotejar.contracts.rules.example import BASE_BLOCKS, fill_example
from cotejar.contracts.validate import (
    ArtifactKind,
    validate_contract,
    validate_file,
    validate_path,
)
from cotejar.errors import ContractLimitError, NoContractsError
from cotejar.verdict import Verdict

GOOD = "".join(BASE_BLOCKS.values())


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_all_violations_are_found_at_once_each_at_its_place() -> None:
    text = fill_example(
        "metadata:\n"
        "  version: ''\n"
        "  description: d\n"
        "  kind: kernel\n"
        "proof_obligations:\n"
        "  - property: ''\n"
        "    requires: PRE-1\n"
        "  - {property: p, na_owner: x}\n"
        "falsification_tests:\n"
        "  - {id: F, prediction: p}\n"
        "  - {id: F, if_fails: x}\n"
    )

    found = [
        (f.rule, f.line, f.column, f.path) for f in validate_contract(parse_contract(text))
    ]

    assert found == [
        ("SCHEMA-001", 6, 1, "metadata.references"),
        ("SCHEMA-002", 7, 3, "metadata.version"),
        ("SCHEMA-005", 11, 5, "proof_obligations[0].property"),
        ("SCHEMA-014", 12, 5, "proof_obligations[0].requires"),
        ("SCHEMA-023", 13, 19, "proof_obligations[1].na_owner"),
        ("SCHEMA-007", 16, 6, "falsification_tests[1].id"),
        ("SCHEMA-008", 16, 5, "falsification_tests[1].prediction"),
        ("SCHEMA-009", 15, 5, "falsification_tests[0].if_fails"),
    ]


def test_a_finding_prints_as_upstreams_line_with_its_place() -> None:
    text = fill_example("qa_gate:\n")

    (finding,) = validate_contract(parse_contract(text, file="c.yaml"))

    assert finding.as_text() == "[WARN] SCHEMA-013: there is no qa_gate (c.yaml:13:1)"


def test_the_first_kernel_only_error_explains_the_default_kind_and_no_other_does() -> None:
    findings = validate_contract(parse_contract("metadata: {version: 1, description: d}\n"))

    told = [f.rule for f in findings if f.message.endswith("judged kernel by default)")]
    assert told == ["SCHEMA-003"]


def test_a_declared_kernel_is_not_told_of_a_default() -> None:
    text = "metadata: {version: 1, description: d, kind: kernel}\n"

    assert not [f for f in validate_contract(parse_contract(text)) if "default" in f.message]


@pytest.mark.parametrize("kind", ["schema", "registry"])
def test_a_count_of_nothing_is_allowed_to_kind_schema_alone(kind: str) -> None:
    text = (
        f"metadata: {{version: 1, description: d, kind: {kind}, references: [a]}}\n"
        "verification_summary: {total_obligations: 3}\n"
    )

    rules = [f.rule for f in validate_contract(parse_contract(text))]
    assert rules == ([] if kind == "schema" else ["SCHEMA-024"])


def test_one_finding_names_every_repeated_key_of_a_document() -> None:
    text = fill_example("x: {a: 1, a: 2}\ny: {b: 1, b: 2}\n")

    (finding,) = validate_contract(parse_contract(text))

    assert finding.message == (
        "the key `a` is there twice in one mapping, first on line 14: one of the two values "
        "is dropped; merge them (and 1 more: `b` line 15)"
    )


# --- files and folders --------------------------------------------------------------


def test_a_broken_file_fails_and_carries_its_error(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "{{invalid")

    report = validate_path(file)

    assert (report.verdict, report.files[0].findings) == (Verdict.FAIL, ())
    assert report.files[0].problem is not None
    assert report.files[0].problem.facts["code"] == "PV-E002"


def test_a_binding_registry_is_recognised_and_typed(tmp_path: Path) -> None:
    text = (
        "version: 1\ntarget_crate: c\nbindings: [{contract: a.yaml, equation: e, status: %s}]\n"
    )

    good = validate_file(write(tmp_path / "a.yaml", text % "partial"))
    bad = validate_file(write(tmp_path / "b.yaml", text % "done"))

    assert (good.kind, good.verdict) == (ArtifactKind.BINDING, Verdict.PASS)
    assert (bad.kind, bad.verdict) == (ArtifactKind.BINDING, Verdict.FAIL)


def test_a_file_that_is_nothing_we_know_fails_as_a_contract(tmp_path: Path) -> None:
    report = validate_file(write(tmp_path / "c.yaml", "bindings: []\n"))

    assert report.problem is not None
    assert "missing field `metadata`" in report.problem.text


def test_an_external_corpora_declaration_is_not_judged_and_no_pass(tmp_path: Path) -> None:
    text = "schema: ont.paiml.dev/external-corpora/v1alpha1\ncorpora: []\n"

    report = validate_path(write(tmp_path / "c.yaml", text))

    assert report.verdict is Verdict.INCOMPARABLE


MANIFEST = {
    "model_id": "org/m",
    "sha256": "ab" * 32,
    "size_bytes": 5,
    "artifact_url": "https://example.org/m",
    "provenance": {"license": "mit"},
}
MANIFEST_SCHEMA = (
    GOOD
    + "schema: {required_fields: [model_id, sha256], provenance_required_fields: [license]}\n"
)


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({}, []),
        ({"model_id": " "}, ["PM-SHAPE-001"]),
        ({"sha256": None}, ["PM-SHAPE-001"]),
        ({"provenance": {}}, ["PM-SHAPE-002"]),
        ({"sha256": "AB" * 32}, ["PM-SHAPE-003"]),
        ({"sha256": "ab" * 31}, ["PM-SHAPE-003"]),
        ({"sha256": 12}, ["PM-SHAPE-003"]),
        ({"size_bytes": 0}, ["PM-SHAPE-004"]),
        ({"size_bytes": "5"}, ["PM-SHAPE-004"]),
        ({"size_bytes": True}, ["PM-SHAPE-004"]),
        ({"artifact_url": "http://example.org/m"}, ["PM-SHAPE-005"]),
        ({"artifact_url": "https://"}, ["PM-SHAPE-005"]),
    ],
)
def test_a_manifest_is_held_to_each_rule(tmp_path: Path, changes: dict, rules: list) -> None:
    write(tmp_path / "publish-manifest-v1.yaml", MANIFEST_SCHEMA)
    file = write(tmp_path / "a/b/m.yaml", json.dumps(MANIFEST | changes))

    report = validate_file(file)

    assert report.kind is ArtifactKind.PUBLISH_MANIFEST
    assert [finding.rule for finding in report.findings] == rules


def test_a_manifest_without_a_schema_near_it_fails(tmp_path: Path) -> None:
    write(tmp_path / "publish-manifest-v1.yaml", MANIFEST_SCHEMA)
    too_deep = write(tmp_path / "a/b/c/m.yaml", json.dumps(MANIFEST))

    assert [f.rule for f in validate_file(too_deep).findings] == ["PM-SHAPE-000"]


def test_a_folder_is_walked_and_one_bad_file_does_not_stop_it(tmp_path: Path) -> None:
    write(tmp_path / "b.yaml", GOOD)
    write(tmp_path / "sub/a.yml", "{{")
    write(tmp_path / "sub/big.yaml", "x" * 3_000_000)
    os.mkfifo(tmp_path / "sub/pipe.yaml")
    write(tmp_path / ".hidden/c.yaml", "{{")
    write(tmp_path / ".c.yaml", "{{")
    write(tmp_path / "notes.txt", "{{")
    (tmp_path / "sub/loop").symlink_to(tmp_path)

    report = validate_path(tmp_path)

    found = {os.path.relpath(file.file, tmp_path): file.verdict.value for file in report.files}
    assert found == {
        "b.yaml": "PASS",
        "sub/a.yml": "FAIL",
        "sub/big.yaml": "FAIL",
        "sub/pipe.yaml": "FAIL",
    }
    assert report.verdict is Verdict.FAIL


def test_a_file_over_a_limit_is_the_callers_error_when_named_alone(tmp_path: Path) -> None:
    with pytest.raises(ContractLimitError):
        validate_path(write(tmp_path / "c.yaml", "[" * 1000))


def test_a_folder_without_contracts_is_declined(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt", "")

    with pytest.raises(NoContractsError) as caught:
        validate_path(tmp_path)

    assert caught.value.exit_code == 3


def test_several_processes_give_the_same_report_as_one(tmp_path: Path) -> None:
    for number in range(240):
        write(tmp_path / f"{number:03}.yaml", "{{" if number % 7 == 0 else GOOD)

    one, two = validate_path(tmp_path), validate_path(tmp_path, jobs=2)

    assert one.as_json() == two.as_json()
    assert one.num_failed == 35
