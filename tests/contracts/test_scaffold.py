"""Test skeletons compile whatever the contract says, and fail until they are written."""

# ruff: noqa: RUF001 - formulas hold these very characters

import ast
import json
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cotejar.contracts.read import parse_contract
from cotejar.contracts.rules.example import BASE_BLOCKS, fill_example
from cotejar.contracts.scaffold import scaffold_tests

TEXT = st.text(st.characters(max_codepoint=0xFFFD, exclude_categories=["Cs"]), max_size=30)


def names(source: str) -> list[str]:
    tree = ast.parse(source)
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_every_test_obligation_and_harness_becomes_a_function() -> None:
    blocks = (
        "falsification_tests:\n"
        "  - {id: FALSIFY-X-001, prediction: p, if_fails: f}\n"
        "  - {id: F-2, prediction: p, if_fails: f, test: 'pytest a.py::test_named_there'}\n"
        "proof_obligations: [{id: PO-1, property: p}, {property: 'y ≥ 0'}]\n"
        "kani_harnesses: [{id: K, obligation: p, harness: verify_it}]\n"
    )

    source = scaffold_tests(parse_contract(fill_example(blocks)))

    assert names(source) == [
        "test_falsify_x_001",
        "test_named_there",
        "test_obligation_po_1",
        "test_obligation_y_0",
        "test_harness_verify_it",
    ]


def test_names_that_would_be_alike_are_numbered() -> None:
    blocks = "falsification_tests: [{id: A-1}, {id: a.1}, {id: 'σ'}, {id: '∀'}]\n"

    source = scaffold_tests(parse_contract(fill_example(blocks)))

    assert names(source)[:4] == ["test_a_1", "test_a_1_2", "test_unnamed", "test_unnamed_2"]


@given(TEXT, TEXT, TEXT)
def test_any_text_of_a_contract_compiles(description: str, rule: str, identifier: str) -> None:
    blocks = (
        f"metadata: {{version: 1, description: {json.dumps(description)}, references: [a]}}\n"
        f"falsification_tests: [{{id: {json.dumps(identifier)}, rule: {json.dumps(rule)}}}]\n"
    )

    source = scaffold_tests(parse_contract(fill_example(blocks)))

    assert len(names(source)) == 3
    assert ast.get_docstring(ast.parse(source), clean=False) is not None


def test_every_skeleton_fails_under_pytest(tmp_path: Path) -> None:
    source = scaffold_tests(parse_contract(fill_example(BASE_BLOCKS["equations"])))
    (tmp_path / "test_it.py").write_text(source)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )

    assert done.returncode == 1
    assert "3 failed" in done.stdout


def test_a_contract_that_claims_nothing_gives_a_module_without_tests() -> None:
    empty = (
        "equations: {}\nproof_obligations: []\nfalsification_tests: []\nkani_harnesses: []\n"
    )

    assert names(scaffold_tests(parse_contract(fill_example(empty)))) == []
