"""A field reads what serde_yaml would read, and refuses what it would refuse."""

import math
import os
import stat
from pathlib import Path

import pytest

from cotejar.contracts.read import parse_contract, read_contract
from cotejar.contracts.rules.example import fill_example
from cotejar.contracts.schema import ContractKind, ObligationType
from cotejar.contracts.yaml_nodes import MAX_BYTES
from cotejar.errors import (
    ContractLimitError,
    ContractSchemaError,
    ContractSyntaxError,
    MissingFileError,
    NotAFileError,
    UnreadableFileError,
)

META = "metadata: {version: 1.0.0, description: d, references: [A source]"


def read(blocks: str):
    return parse_contract(fill_example(blocks))


def refused(blocks: str) -> dict[str, str]:
    with pytest.raises(ContractSchemaError) as caught:
        read(blocks)
    return {"problem": caught.value.problem, **caught.value.parts}


@pytest.mark.parametrize(
    ("written", "version"),
    [("1.0", "1.0"), ("'1.0'", "1.0"), ("", ""), ("~", "~"), ("1e3", "1e3"), ("yes", "yes")],
)
def test_a_text_field_keeps_the_raw_text(written: str, version: str) -> None:
    contract = read(f"metadata:\n  version: {written}\n  description: d\n")

    assert contract.metadata.version == version


@pytest.mark.parametrize("written", ["", "~", "null", "Null"])
def test_an_optional_field_with_a_null_is_absent(written: str) -> None:
    assert read(META + ", author: " + written + "}").metadata.author is None


def test_a_quoted_null_is_a_text() -> None:
    assert read(META + ", author: 'null'}").metadata.author == "null"


def test_a_list_with_nothing_after_the_colon_is_empty_and_an_explicit_null_is_refused() -> None:
    assert read("falsification_tests:\n").tests == ()

    assert refused("falsification_tests: null\n") == {
        "problem": "Failed to parse YAML: falsification_tests: wrong type or value",
        "where": "contract.yaml:12:22",
        "expected": "a list",
        "found": "null",
        "try": "the schema of a contract is in docs/spec.md section 5",
    }


def test_inside_equations_an_explicit_null_list_is_empty_and_a_number_is_no_text() -> None:
    assert (
        read("equations: {a: {formula: x, invariants: null}}\n").equations[0].invariants == ()
    )

    assert refused("equations: {a: {formula: 1}}\n")["found"] == "the int '1'"


def test_an_equation_without_anything_has_an_empty_formula() -> None:
    assert read("equations:\n  a:\n").equations[0].formula == ""


def test_a_list_of_equations_is_named_by_id_or_by_position() -> None:
    contract = read("equations:\n  - {id: first, formula: x}\n  - {formula: y}\n")

    assert [e.name for e in contract.equations] == ["first", "equation_1"]
    assert contract.source.place_of(("equations", "equation_1", "formula")) == (14, 6)


@pytest.mark.parametrize(
    ("written", "tolerance"), [("1e-5", 1e-5), ("8", 8.0), ("-.inf", -math.inf), ("~", None)]
)
def test_a_number_is_read_without_a_dot_or_an_integer(written: str, tolerance: object) -> None:
    contract = read(f"proof_obligations: [{{property: p, tolerance: {written}}}]\n")

    assert contract.obligations[0].tolerance == tolerance


@pytest.mark.parametrize("written", ["'1e-5'", "1_0", "tiny", "[1]", "true"])
def test_what_is_no_plain_number_is_refused(written: str) -> None:
    facts = refused(f"proof_obligations: [{{property: p, tolerance: {written}}}]\n")

    assert facts["expected"] == "a number"


@pytest.mark.parametrize("written", ["2.5", "-1", "4294967296", "'8'", "045", "yes"])
def test_a_bound_is_an_unsigned_integer_of_32_bits(written: str) -> None:
    facts = refused(f"kani_harnesses: [{{id: k, obligation: o, bound: {written}}}]\n")

    assert facts["expected"] == "an integer in 0..4294967295"


@pytest.mark.parametrize("written", ["yes", "1", "'true'", "~"])
def test_a_boolean_is_true_or_false_only(written: str) -> None:
    facts = refused(META + f", registry: {written}}}")

    assert facts["expected"] == "true or false"


def test_a_word_outside_its_list_is_refused_with_the_list() -> None:
    facts = refused("kani_harnesses: [{id: k, obligation: o, strategy: random}]\n")

    assert facts["expected"] == "one of: exhaustive, stub_float, compositional, bounded_int"
    assert facts["found"] == "the text 'random'"


def test_the_words_of_an_obligation_type_are_case_sensitive() -> None:
    assert read("proof_obligations: [{type: loop_variant, property: p}]\n").obligations[
        0
    ].type is (ObligationType.LOOP_VARIANT)
    assert refused("proof_obligations: [{type: Invariant, property: p}]\n")


def test_a_missing_field_is_named_where_its_block_starts() -> None:
    facts = refused("metadata:\n  description: d\n")

    assert (facts["problem"], facts["where"]) == (
        "Failed to parse YAML: metadata: missing field `version`",
        "contract.yaml:11:3",
    )


@pytest.mark.parametrize(
    "blocks",
    [
        "qa_gate: {id: a, id: b}\n",
        "qa_gate: {id: a}\nqa_gate: {id: a}\n",
        "falsification_tests: [{id: a, prediction: p, expected: p}]\n",
        "proof_obligations: [{property: p, statement: p}]\n",
    ],
)
def test_a_known_key_twice_or_with_its_alias_is_a_duplicate_field(blocks: str) -> None:
    assert "duplicate field" in refused(blocks)["problem"]


def test_aliases_of_older_contracts_are_read() -> None:
    contract = read(
        "proof_obligations: [{statement: s, verification: v}]\n"
        "falsification_tests: [{id: a, description: r, expected: p, command: c, fails_if: f}]\n"
    )

    obligation, test = contract.obligations[0], contract.tests[0]
    assert (obligation.property, obligation.formal) == ("s", "v")
    assert (test.rule, test.prediction, test.test, test.if_fails) == ("r", "p", "c", "f")


def test_an_alias_key_means_nothing_where_upstream_has_none() -> None:
    contract = read("kani_harnesses: [{id: k, obligation: o, property: p, statement: [1]}]\n")

    assert contract.harnesses[0].property == "p"


def test_unknown_keys_are_ignored_at_every_level() -> None:
    contract = read(META + ", status: ACTIVE, nested: {a: [1]}}\nparity: {limit: 1e-5}\n")

    assert contract.source.value_of("parity") == {"limit": 1e-5}
    assert contract.metadata.version == "1.0.0"


@pytest.mark.parametrize(
    ("extra", "kind"),
    [
        ("", ContractKind.KERNEL),
        (", registry: true", ContractKind.REGISTRY),
        (", registry: true, kind: kernel", ContractKind.REGISTRY),
        (", registry: true, kind: pattern", ContractKind.PATTERN),
        (", kind: registry", ContractKind.REGISTRY),
    ],
)
def test_an_explicit_kind_wins_over_the_registry_flag(extra: str, kind: ContractKind) -> None:
    assert read(META + extra + "}").kind is kind


def test_an_aliased_block_is_read_as_if_written_out() -> None:
    contract = read("x: &p {property: p}\nproof_obligations: [*p, *p]\n")

    assert [o.property for o in contract.obligations] == ["p", "p"]


def test_a_deep_wrong_type_is_named_by_its_path() -> None:
    facts = refused("simd_dispatch: {silu: {avx2: [f]}}\n")

    assert (
        facts["problem"] == "Failed to parse YAML: simd_dispatch.silu.avx2: wrong type or value"
    )


# --- files --------------------------------------------------------------------------


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(fill_example(META + "}"), encoding="utf-8-sig")

    assert read_contract(file).stem == "c"


def test_bytes_that_are_no_utf8_are_named_with_line_and_offset(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(b"a: 1\nb: \xff\n")

    with pytest.raises(ContractSyntaxError) as caught:
        read_contract(file)

    assert caught.value.parts["where"] == f"{file}:2"
    assert caught.value.parts["found"] == "byte 0xff at offset 8"


def test_a_file_of_50_mb_is_refused_by_its_size(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    with file.open("wb") as sparse:
        sparse.truncate(50_000_000)

    with pytest.raises(ContractLimitError) as caught:
        read_contract(file)

    assert caught.value.parts["expected"] == f"at most {MAX_BYTES} bytes"
    assert caught.value.parts["found"] == "50000000 bytes"


def test_a_missing_file_a_folder_and_a_pipe_are_three_errors(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    for path, error in [
        (tmp_path / "none.yaml", MissingFileError),
        (tmp_path, NotAFileError),
        (pipe, NotAFileError),
    ]:
        with pytest.raises(error):
            read_contract(path)


def test_a_name_that_the_system_cannot_hold_is_an_error_of_the_file() -> None:
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(UnreadableFileError):
            read_contract(name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("a: 1")
    file.chmod(stat.S_IWUSR)

    with pytest.raises(UnreadableFileError):
        read_contract(file)
