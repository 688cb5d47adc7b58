"""What one contract assumes of another's arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cotejar.contracts.findings import Severity
from cotejar.contracts.lint import lint_path
from cotejar.contracts.read import parse_contract
from cotejar.contracts.rules.example import LINT_BLOCKS, fill_example
from cotejar.contracts.rules.lint_shapes import COMPOSITION_RULES
from cotejar.errors import ContractSchemaError
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.contracts.schema import Contract

GRANTS = "guarantees: {shapes: {out: {dims: [batch, 2 * width], dtype: f32}}}"


def contract(stem: str, *parts: str) -> Contract:
    fields = ", ".join(["formula: y = x", *parts])
    blocks = f"equations:\n  f: {{{fields}}}\n"
    return parse_contract(fill_example(blocks, LINT_BLOCKS), file=f"{stem}.yaml")


def found(*contracts: Contract) -> list[tuple[str, str, str]]:
    return [
        (finding.rule, finding.severity.value, finding.message)
        for rule in COMPOSITION_RULES
        for finding in rule.check(contracts)
    ]


@pytest.mark.parametrize("rule", COMPOSITION_RULES, ids=lambda rule: rule.id)
def test_a_rule_fires_on_its_bad_example_alone_and_not_on_its_good_one(rule) -> None:
    def fired(blocks: str) -> list[str]:
        text = fill_example(blocks, LINT_BLOCKS)
        return [one[0] for one in found(parse_contract(text, file="example-v1.yaml"))]

    assert fired(rule.help().bad) == [rule.id]
    assert fired(rule.help().good) == []


def test_a_chain_holds_where_what_is_assumed_is_guaranteed() -> None:
    assumes = "assumes: {from_contract: up-v1, from_equation: f, shapes: {out: %s}}"

    assert found(contract("up-v1", GRANTS)) == []
    for shape in ("{dims: [batch, 2*width], dtype: f32}", "{dims: ['batch', '2 * width']}"):
        assert found(contract("up-v1", GRANTS), contract("down-v1", assumes % shape)) == []


@pytest.mark.parametrize(
    ("assumes", "severity", "message"),
    [
        ("from_contract: gone-v1", "warning", "the contract gone-v1, and it is not here"),
        (
            "from_contract: two-v1",
            "warning",
            "the contract two-v1, and more than one contract has that name",
        ),
        (
            "from_contract: up-v1, from_equation: g",
            "warning",
            "up-v1.g, and there is no such equation",
        ),
        (
            "from_contract: bare-v1, from_equation: f",
            "error",
            "bare-v1.f, which guarantees nothing",
        ),
        (
            "from_contract: bare-v1",
            "warning",
            "bare-v1, none of whose equations guarantees anything",
        ),
        (
            "from_contract: up-v1, from_equation: f, shapes: {in: {dims: [batch]}}",
            "warning",
            "in of up-v1.f, which does not guarantee it",
        ),
    ],
)
def test_a_chain_that_breaks_is_an_error_and_one_that_is_lost_a_warning(
    assumes: str, severity: str, message: str
) -> None:
    others = (
        contract("up-v1", GRANTS),
        contract("bare-v1"),
        contract("two-v1", GRANTS),
        contract("two-v1", GRANTS),
    )

    findings = found(*others, contract("down-v1", f"assumes: {{{assumes}}}"))

    assert findings == [("COMPOSITION-001", severity, f"f assumes {message}")]


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        ("{dims: [2 * width, batch]}", "[2*width, batch]"),
        ("{dims: [batch, 2 * width], dtype: f16}", "[batch, 2*width] f16"),
        ("{dims: [batch]}", "[batch]"),
    ],
)
def test_another_shape_of_the_same_name_is_an_error(shape: str, shown: str) -> None:
    down = contract(
        "down-v1",
        f"assumes: {{from_contract: up-v1, from_equation: f, shapes: {{out: {shape}}}}}",
    )

    assert found(contract("up-v1", GRANTS), down) == [
        (
            "COMPOSITION-002",
            "error",
            f"f assumes out to be {shown}; up-v1 guarantees [batch, 2*width] f32",
        )
    ]


def test_a_broken_chain_fails_its_gate_alone(tmp_path: Path) -> None:
    assumes = "{from_contract: a-v1, from_equation: f}"
    blocks = f"equations: {{f: {{formula: y, domain: R, assumes: {assumes}}}}}"
    (tmp_path / "a-v1.yaml").write_text(fill_example(blocks, LINT_BLOCKS))

    report = lint_path(str(tmp_path), gates=["validate", "composition"])

    assert [gate.state.value for gate in report.gates] == ["passed", "failed"]
    assert report.verdict is Verdict.FAIL
    (finding,) = report.findings
    assert (finding.severity, finding.path) == (Severity.ERROR, "equations.f.assumes")


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ("{y: {dtype: f32}}", "a key `dims`"),
        ("{y: {dims: [4096]}}", "text"),
        ("{y: {dims: batch}}", "a list"),
        ("[y]", "a mapping"),
    ],
)
def test_what_is_no_shape_does_not_parse(shapes: str, expected: str) -> None:
    with pytest.raises(ContractSchemaError) as caught:
        contract("a-v1", f"guarantees: {{shapes: {shapes}}}")

    assert caught.value.parts["expected"] == expected
