"""Every audit rule on its own examples, inside a small project that names lead into."""

from pathlib import Path

import pytest

from cotejar.contracts.audit import audit_corpus, audit_text
from cotejar.contracts.binding import build_bindings
from cotejar.contracts.corpus import read_corpus
from cotejar.contracts.prove.harness import Registry, Strategy
from cotejar.contracts.read import parse_contract, parse_source, read_contract
from cotejar.contracts.rules.audit import AUDIT_RULES
from cotejar.contracts.rules.audit_bindings import MissingFunction
from cotejar.contracts.rules.audit_rule import AuditSubject
from cotejar.contracts.rules.example import BASE_BLOCKS, fill_example
from cotejar.contracts.rules.spec_pointers import SPEC_RULE
from cotejar.contracts.traceability import (
    defines,
    pytest_nodes,
    read_sections,
    spec_references,
    trace_contract,
)
from cotejar.verdict import Verdict

SPEC = """# Specification
## 1. First
Contracts: `example-v1`.
## 2. Second
No contract here.
### 3. Third
Contracts: `example-v1`
"""
BOUND = "version: 1\ntarget_crate: c\n"
ALL_BOUND = (
    "bindings:\n  - {contract: example-v1.yaml, equation: identity, status: implemented}"
)
BEFORE = "parity: {gates: [{metric: rel_l2_max, sites: all, limit: 1e-5}]}\n"


ON_HARNESSES = {"TRACE-010", "TRACE-011"}


def registry_of(obligation: str, *, bound: int) -> Registry:
    registry = Registry()

    def claim(inputs) -> None: ...

    registry.harness(
        "KANI-1",
        obligation=obligation,
        bound=bound,
        strategy=Strategy.EXHAUSTIVE,
        targets=(fill_example,),
    )(claim)
    return registry


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/spec.md").write_text(SPEC)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_example.py").write_text("class T:\n    def test_it(self): pass\n")
    (tmp_path / "src/package").mkdir(parents=True)
    (tmp_path / "src/package/example.py").write_text(
        "def identity(x): return x\nclass Codec:\n    def decode(self): return 1\n"
        "class Short(Codec): pass\nclass Other: pass\n"
    )
    (tmp_path / "contracts").mkdir()
    return tmp_path


def fired(rule, blocks: str, project: Path) -> list[str]:
    """The ids of all audit rules that fire on the example, in its project."""
    file = project / "contracts/example-v1.yaml"
    bindings = blocks if blocks.startswith("bindings:") else ALL_BOUND
    file.write_text(fill_example(BASE_BLOCKS["metadata"] if blocks == bindings else blocks))
    contract = read_contract(file)
    if rule is SPEC_RULE:
        return [finding.rule for finding in rule.check([contract])]
    registry = build_bindings(parse_source(BOUND + bindings, file="binding.yaml"))
    subject = AuditSubject(
        contract=contract,
        bindings=registry,
        previous=parse_contract(fill_example(BEFORE)) if rule.id == "TRACE-009" else None,
        harnesses=registry_of("y is finite", bound=8) if rule.id in ON_HARNESSES else None,
    )
    return [f.rule for one in AUDIT_RULES for f in one.check(subject)]


@pytest.mark.parametrize("rule", [*AUDIT_RULES, SPEC_RULE], ids=lambda rule: rule.id)
def test_a_rule_fires_on_its_bad_example_and_not_on_its_good_one(rule, project: Path) -> None:
    assert rule.id in fired(rule, rule.help().bad, project)
    assert fired(rule, rule.help().good, project) == []


@pytest.mark.parametrize(
    ("module", "function", "status", "message"),
    [
        ("package.example", "Codec.decode", "implemented", None),
        ("package.example", "Short.decode", "implemented", None),
        (
            "package.example",
            "Other.decode",
            "partial",
            "Other.decode, which package.example lacks",
        ),
        ("package.example", "decode", "implemented", "decode, which package.example lacks"),
        ("package.example", "Codec", "partial", "Codec, which package.example lacks"),
        ("package.gone", "f", "implemented", "package.gone, and there is no such module"),
        ("package.gone", "f", "pending", None),
        ("crate::kernels", "silu", "implemented", None),
    ],
)
def test_a_bound_function_is_looked_for_where_the_registry_says(
    project: Path, module: str, function: str, status: str, message: str | None
) -> None:
    file = project / "contracts/example-v1.yaml"
    file.write_text(fill_example(BASE_BLOCKS["metadata"]))
    entry = f"module_path: '{module}', function: {function}, status: {status}"
    bindings = f"bindings: [{{contract: example-v1.yaml, equation: identity, {entry}}}]"
    registry = build_bindings(parse_source(BOUND + bindings, file="binding.yaml"))
    subject = AuditSubject(contract=read_contract(file), bindings=registry)

    found = [f.message for f in MissingFunction().check(subject)]

    assert found == ([] if message is None else [f"identity is bound to {message}"])


def test_without_a_registry_no_rule_asks_for_code() -> None:
    subject = AuditSubject(contract=parse_contract(fill_example("qa_gate: {id: a}\n")))

    assert [f.rule for rule in AUDIT_RULES for f in rule.check(subject)] == []


def test_the_chain_goes_from_equation_to_code_by_the_names_it_gives() -> None:
    contract = parse_contract(
        fill_example(
            "equations: {f: {formula: y}, g: {formula: z}}\n"
            "proof_obligations:\n"
            "  - {id: PO-1, property: p, applies_to: f}\n"
            "  - {property: q}\n"
            "falsification_tests:\n"
            "  - {id: F-1, rule: f, prediction: a, if_fails: b}\n"
            "  - {id: F-2, rule: q, prediction: a, if_fails: b}\n"
            "  - {id: F-3, rule: free text, prediction: a, if_fails: b}\n"
            "kani_harnesses: [{id: K-1, obligation: PO-1, bound: 1}]\n"
        ),
        file="example-v1.yaml",
    )
    entry = "{contract: example-v1.yaml, equation: f, function: run, status: partial}"
    registry = build_bindings(parse_source(BOUND + f"bindings: [{entry}]", file="b"))

    chains = [chain.as_json() for chain in trace_contract(contract, registry)]

    assert chains == [
        {
            "equation": "f",
            "code": "run [partial]",
            "obligations": [
                {
                    "obligation": "PO-1",
                    "type": "invariant",
                    "tests": ["F-1"],
                    "harnesses": ["K-1"],
                }
            ],
        },
        {"equation": "g", "code": None, "obligations": []},
        {
            "equation": None,
            "code": None,
            "obligations": [
                {"obligation": "q", "type": "invariant", "tests": ["F-2"], "harnesses": []}
            ],
        },
    ]


def test_a_section_that_names_a_contract_of_no_file_is_found_where_it_stands(
    project: Path,
) -> None:
    (project / "docs/spec.md").write_text(SPEC + "Contracts: `gone-v1`\n")
    references = "references: [docs/spec.md §1, docs/spec.md §3]"
    text = fill_example(f"metadata: {{version: 1.0.0, description: d, {references}}}\n")
    (project / "contracts/example-v1.yaml").write_text(text)

    report = audit_corpus(read_corpus(project / "contracts"))

    (finding,) = report.findings
    assert (finding.rule, finding.line) == ("TRACE-008", 8)
    assert finding.message == "§3 names the contract `gone-v1`, which is not there"
    assert report.verdict is Verdict.FAIL
    assert audit_text(report).endswith("\n\n1 error(s), 0 warning(s)")


def test_one_contract_alone_is_not_judged_by_what_sections_name(project: Path) -> None:
    references = "references: [docs/spec.md §1]"
    file = project / "contracts/example-v1.yaml"
    file.write_text(
        fill_example(f"metadata: {{version: 1.0.0, description: d, {references}}}\n")
    )

    assert audit_corpus(read_corpus(file)).findings == []
    assert [f.rule for f in audit_corpus(read_corpus(file.parent)).findings] == ["TRACE-008"]


@pytest.mark.parametrize(
    "changelog", ["[1.0.0 first]", "text", "{a: 1}", "[{date: 1}]", "[[]]", "", "[~]"]
)
def test_a_changelog_of_another_shape_is_passed_over(changelog: str) -> None:
    contract = parse_contract(fill_example(f"changelog: {changelog}\n"))

    assert [f.rule for r in AUDIT_RULES for f in r.check(AuditSubject(contract=contract))] == []


def test_a_version_in_the_changelog_keeps_its_text() -> None:
    blocks = (
        "metadata: {version: 1.10, description: d, references: [a]}\n"
        "changelog: [{version: 1.10, changes: [x]}]\n"
    )
    contract = parse_contract(fill_example(blocks))

    assert [f.rule for r in AUDIT_RULES for f in r.check(AuditSubject(contract=contract))] == []


@pytest.mark.parametrize(
    ("command", "nodes"),
    [
        ("pytest a/test_b.py::test_c", [("a/test_b.py", "test_c")]),
        ("pytest -q a.py::T::test_c[1-x]", [("a.py", "test_c")]),
        ("python -m pytest a.py -k x", [("a.py", None)]),
        ("pytest", []),
        ("cargo test a.py::b", []),
        ("check that pytest a.py::b passes", []),
        ("pytest 'unclosed", []),
    ],
)
def test_the_tests_that_a_command_names(command: str, nodes: list) -> None:
    assert pytest_nodes(command) == nodes


def test_a_function_is_found_at_any_depth_and_not_in_a_broken_file(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("class A:\n    async def test_x(self): ...\ntest_y = 1\n")

    assert (defines(file, "test_x"), defines(file, "test_y")) == (True, False)
    file.write_text("def test_x(:\n")
    assert not defines(file, "test_x")


def test_spec_references_and_sections_are_read_by_number(tmp_path: Path) -> None:
    spec = tmp_path / "spec.md"
    spec.write_text("## 2.1 Deep\nContract: `a` and `b`\n# 3. Next\n## Unnumbered\n")

    sections = read_sections(spec)

    assert spec_references("see docs/spec.md § 2.1 and b.md §3") == [
        ("docs/spec.md", "2.1"),
        ("b.md", "3"),
    ]
    assert {n: s.contracts for n, s in sections.items()} == {
        "2.1": (("a", 2), ("b", 2)),
        "3": (),
    }


def test_a_name_longer_than_the_system_allows_is_no_file(project: Path) -> None:
    name = "a." * 5000 + "md"
    test = "pytest " + "b." * 5000 + "py::test_c"
    blocks = (
        f'metadata: {{version: 1.0.0, description: d, references: ["{name} §1"]}}\n'
        f'falsification_tests: [{{id: F-1, prediction: p, if_fails: f, test: "{test}"}}]\n'
    )
    file = project / "contracts/example-v1.yaml"
    file.write_text(fill_example(blocks))

    report = audit_corpus(read_corpus(file))

    assert [finding.rule for finding in report.findings] == ["TRACE-003", "TRACE-004"]


# --- what was registered for a harness ---------------------------------------------------


def harness_findings(blocks: str, registry: Registry) -> list[str]:
    subject = AuditSubject(contract=parse_contract(fill_example(blocks)), harnesses=registry)
    return [f.message for r in AUDIT_RULES for f in r.check(subject)]


NAMED = (
    "proof_obligations: [{id: PO-1, property: y is finite}, {id: PO-2, property: q}]\n"
    "falsification_tests: [{id: F-1, rule: PO-1}, {id: F-2, rule: PO-2}]\n"
    "kani_harnesses: [{id: KANI-1, obligation: PO-1, bound: 8}]\n"
)


@pytest.mark.parametrize("name", ["PO-1", "y is finite"])
def test_a_harness_may_be_registered_under_any_name_of_its_obligation(name: str) -> None:
    assert harness_findings(NAMED, registry_of(name, bound=8)) == []


def test_a_harness_of_another_obligation_or_of_a_smaller_bound_is_found() -> None:
    assert harness_findings(NAMED, registry_of("PO-2", bound=7)) == [
        "KANI-1/claim is registered for 'PO-2', and the contract has it for 'PO-1'",
        "KANI-1/claim goes up to 7, and the contract says 8",
    ]


def test_an_audit_follows_a_harness_to_the_functions_it_is_about(project: Path) -> None:
    file = project / "contracts/example-v1.yaml"
    file.write_text(fill_example("qa_gate: {id: a}\n"))

    report = audit_corpus(read_corpus(file), harnesses=registry_of("y is finite", bound=8))

    code = "cotejar.contracts.rules.example.fill_example"
    assert report.contracts[0].as_json()["harness_code"] == {"KANI-1": [code]}
    assert f"  KANI-1 -> {code}\n" in audit_text(report)


def test_a_harness_that_nobody_registered_is_noted_and_does_not_fail(project: Path) -> None:
    file = project / "contracts/example-v1.yaml"
    file.write_text(fill_example("qa_gate: {id: a}\n"))

    report = audit_corpus(read_corpus(file), harnesses=Registry())

    assert [(f.rule, f.severity.name) for f in report.findings] == [("TRACE-010", "INFO")]
    assert report.verdict is Verdict.PASS
