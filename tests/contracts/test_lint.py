"""The lint rules on their own examples; gates, suppressions, severities, verdicts."""

from pathlib import Path

import pytest

from cotejar.contracts.binding import build_bindings
from cotejar.contracts.findings import Severity
from cotejar.contracts.lint import ASKED_FOR, GATES, lint_path
from cotejar.contracts.lint_config import read_lint_config
from cotejar.contracts.lint_report import lint_text
from cotejar.contracts.read import parse_source, read_contract
from cotejar.contracts.rules.every_rule import LINT_RULES, RUN_RULES
from cotejar.contracts.rules.example import LINT_BLOCKS, fill_example
from cotejar.contracts.rules.lint_code import is_command
from cotejar.contracts.rules.lint_rule import LintSettings, LintSubject
from cotejar.contracts.schema import EnforcementLevel
from cotejar.contracts.validate import validate_contract
from cotejar.errors import (
    MissingFileError,
    NoContractsError,
    UnknownRuleError,
    UsageError,
)
from cotejar.verdict import Verdict

GOOD = "".join(LINT_BLOCKS.values())
NO_DOMAIN = """equations:
  identity: {formula: y, preconditions: [x], postconditions: [y], lean_theorem: t}
"""
REGISTRY = "version: 1\ntarget_crate: c\n"
ALL_BOUND = "bindings: [{contract: example-v1.yaml, equation: identity, status: implemented}]"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_example.py").write_text("def test_it(): pass\n")
    (tmp_path / "contracts").mkdir()
    return tmp_path


def write(project: Path, name: str, text: str) -> Path:
    file = project / "contracts" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


def fired(blocks: str, project: Path) -> list[str]:
    bindings = blocks if blocks.startswith("bindings:") else ALL_BOUND
    text = GOOD if blocks == bindings else fill_example(blocks, LINT_BLOCKS)
    contract = read_contract(write(project, "example-v1.yaml", text))
    subject = LintSubject(
        contract=contract,
        violations=validate_contract(contract),
        settings=LintSettings(
            bindings=build_bindings(parse_source(REGISTRY + bindings, file="binding.yaml")),
            min_score=0.9,
            strict_test_binding=True,
        ),
    )
    return [finding.rule for rule in LINT_RULES for finding in rule.check(subject)]


@pytest.mark.parametrize("rule", LINT_RULES, ids=lambda rule: rule.id)
def test_a_rule_fires_on_its_bad_example_and_none_on_its_good_one(rule, project: Path) -> None:
    assert rule.id in fired(rule.help().bad, project)
    assert fired(rule.help().good, project) == []


def test_every_rule_belongs_to_a_gate() -> None:
    gates = {rule.gate for rule in (*LINT_RULES, *RUN_RULES)}

    assert gates == {*GATES, "suppressions"}


def test_a_clean_folder_passes_every_gate(project: Path) -> None:
    write(project, "example-v1.yaml", GOOD)

    report = lint_path("contracts")

    assert [(gate.name, gate.state.value) for gate in report.gates] == [
        (name, "skipped" if name in ASKED_FOR else "passed") for name in GATES
    ]
    assert (report.findings, report.verdict) == ([], Verdict.PASS)


def test_a_broken_contract_fails_the_first_gate_and_the_rest_is_skipped(project: Path) -> None:
    write(project, "a.yaml", "{{")
    write(project, "b.yaml", GOOD)

    report = lint_path("contracts")

    assert [gate.state.value for gate in report.gates] == ["failed"] + ["skipped"] * 9
    (finding,) = report.findings
    assert (finding.rule, finding.file) == ("PV-VAL-001", "contracts/a.yaml")
    assert finding.message.startswith("PV-E002: Failed to parse YAML: ")
    assert report.verdict is Verdict.FAIL


def test_an_unreadable_file_in_a_folder_is_a_finding_and_alone_an_error(project: Path) -> None:
    write(project, "b.yaml", GOOD)
    (project / "contracts/a.yaml").symlink_to("nowhere")

    assert [f.rule for f in lint_path("contracts").findings] == ["PV-VAL-001"]
    with pytest.raises(MissingFileError):
        lint_path("contracts/a.yaml")


def test_one_gate_can_run_alone(project: Path) -> None:
    write(project, "a.yaml", "{{")
    write(project, "b.yaml", fill_example(NO_DOMAIN, LINT_BLOCKS))

    report = lint_path("contracts", gates=["audit"])

    assert [(g.name, g.state.value) for g in report.gates] == [("audit", "passed")]
    assert [f.rule for f in report.findings] == ["PV-AUD-004"]


def test_an_unknown_gate_is_refused(project: Path) -> None:
    with pytest.raises(UnknownRuleError) as caught:
        lint_path("contracts", gates=["sigma"])

    assert caught.value.parts["found"] == "sigma"


def test_a_folder_without_contracts_is_declined(project: Path) -> None:
    write(project, "binding.yaml", REGISTRY)

    with pytest.raises(NoContractsError):
        lint_path("contracts")


def test_two_contracts_of_one_stem_fail_their_gate(project: Path) -> None:
    for folder in ("a", "b"):
        write(project, f"{folder}/x-v1.yaml", GOOD)

    report = lint_path("contracts")

    (finding,) = report.findings
    assert (finding.rule, finding.file) == ("PV-DUP-001", "contracts/b/x-v1.yaml")
    assert [g.name for g in report.gates if g.state.value == "failed"] == ["duplicate-stems"]


def test_strict_fails_on_a_warning(project: Path) -> None:
    write(project, "a-v1.yaml", fill_example(NO_DOMAIN, LINT_BLOCKS))

    assert lint_path("contracts").verdict is Verdict.PASS
    assert lint_path("contracts", strict=True).verdict is Verdict.FAIL


def test_a_test_of_the_gpu_that_is_gone_only_warns(project: Path) -> None:
    gone = (
        "falsification_tests: [{id: F, prediction: p, if_fails: f, test: pytest a.py::test_%s}]"
    )
    write(project, "a-v1.yaml", fill_example(gone % "cuda", LINT_BLOCKS))
    write(project, "b-v1.yaml", fill_example(gone % "cpu", LINT_BLOCKS))

    found = [(f.file[-9:], f.severity) for f in lint_path("contracts").findings]

    assert found == [("a-v1.yaml", Severity.WARNING), ("b-v1.yaml", Severity.ERROR)]


@pytest.mark.parametrize(
    ("lock", "kept"),
    [("L3", True), ("L4", False), ("standard", True), ("proven", False), ("high", False)],
)
def test_a_lock_holds_up_to_what_is_listed(project: Path, lock: str, kept: bool) -> None:
    meta = "{version: 1.0.0, created: 2026-01-01, description: d, references: [Doe (2024)]"
    text = fill_example(f"metadata:\n  {meta}, locked_level: {lock}}}\n", LINT_BLOCKS)
    write(project, "a-v1.yaml", text)

    assert [f.rule for f in lint_path("contracts").findings] == ["PV-LCK-001"] * (not kept)


def test_the_caller_can_ask_for_a_level(project: Path) -> None:
    write(project, "a-v1.yaml", GOOD)

    report = lint_path("contracts", settings=LintSettings(min_level=EnforcementLevel.PROVEN))

    assert [f.message for f in report.findings] == [
        "proven is asked for, but what the contract lists amounts to standard"
    ]


def test_where_nothing_could_be_read_nothing_passes(project: Path) -> None:
    write(project, "a-v1.yaml", "{{")

    report = lint_with("", project, rules=["PV-VAL-001=off"])

    assert (report.findings, report.verdict) == ([], Verdict.INCOMPARABLE)


# --- configuration ------------------------------------------------------------------


def lint_with(config: str, project: Path, **options: object):
    (project / ".pv.toml").write_text(config)
    return lint_path("contracts", config=read_lint_config(None, **options))


def test_a_rule_can_be_switched_off_or_weigh_more(project: Path) -> None:
    write(project, "a-v1.yaml", fill_example(NO_DOMAIN, LINT_BLOCKS))

    off = lint_with('[lint.rules]\nPV-AUD-004 = "off"\n', project)
    error = lint_with("", project, rules=["pv-aud-004=error"])

    assert (off.findings, off.verdict) == ([], Verdict.PASS)
    assert (len(error.findings), error.verdict) == (1, Verdict.FAIL)


def test_a_suppressed_finding_is_listed_with_its_reason_and_does_not_count(
    project: Path,
) -> None:
    write(project, "a-v1.yaml", fill_example(NO_DOMAIN, LINT_BLOCKS))
    write(project, "b-v1.yaml", fill_example(NO_DOMAIN, LINT_BLOCKS))
    entry = '[[lint.suppress]]\nrule = "PV-AUD-004"\ncontract = "a-v1"\nreason = "paper"\n'

    facts = lint_with(entry, project).as_json()

    (suppressed,) = facts["gates"][1]["suppressed"]
    assert (suppressed["file"], suppressed["reason"]) == ("contracts/a-v1.yaml", "paper")
    assert [f["file"] for f in facts["gates"][1]["findings"]] == ["contracts/b-v1.yaml"]
    assert (facts["num_suppressed"], facts["num_warnings"]) == (1, 1)


def test_a_suppression_that_suppresses_nothing_is_a_finding(project: Path) -> None:
    write(project, "a-v1.yaml", GOOD)

    report = lint_with("", project, suppressed=["PV-AUD-004:a-v1"])

    (finding,) = report.findings
    assert (finding.rule, finding.file) == ("PV-SUP-001", "command line")
    assert finding.message == "the suppression of PV-AUD-004 for a-v1 suppressed nothing"
    assert report.verdict is Verdict.PASS


@pytest.mark.parametrize(
    "config",
    [
        "[lint",
        "lint = 1",
        '[lint]\nrules = "all"',
        '[lint]\nsuppress = "all"',
        '[lint.rules]\nPV-AUD-004 = "loud"',
        "[lint.rules]\nPV-AUD-004 = 1",
        '[[lint.suppress]]\nrule = "PV-AUD-004"',
        '[[lint.suppress]]\nrule = "PV-AUD-004"\nreason = " "',
        '[[lint.suppress]]\nreason = "r"',
        '[[lint.suppress]]\nrule = 1\nreason = "r"',
        "[lint]\nsuppress = [1]",
    ],
)
def test_a_configuration_that_says_something_else_is_refused(
    project: Path, config: str
) -> None:
    with pytest.raises(UsageError):
        lint_with(config, project)


def test_a_rule_that_nobody_has_is_refused_with_its_neighbours(project: Path) -> None:
    with pytest.raises(UnknownRuleError) as caught:
        lint_with('[lint.rules]\nPV-AUD-044 = "off"\n', project)

    assert "PV-AUD-004" in caught.value.parts["try"]


# --- text ---------------------------------------------------------------------------


def test_the_text_has_gates_findings_by_file_and_the_result(project: Path) -> None:
    write(project, "a-v1.yaml", fill_example(NO_DOMAIN, LINT_BLOCKS))

    text = lint_text(lint_path("contracts"))

    assert text == (
        "[PASS] validate: nothing found\n"
        "[PASS] audit: 1 finding(s)\n"
        "[PASS] score: nothing found\n"
        "[PASS] verify: nothing found\n"
        "[PASS] enforce: nothing found\n"
        "[PASS] enforcement-level: nothing found\n"
        "[SKIP] reverse-coverage: needs --binding and --source\n"
        "[PASS] duplicate-stems: nothing found\n"
        "[PASS] composition: nothing found\n"
        "[SKIP] trend: needs --trend\n"
        "\n"
        "contracts/a-v1.yaml\n"
        "  12:3 [WARN] PV-AUD-004: the equation identity has no domain\n"
        "\n"
        "Summary: 0 errors, 1 warnings, 0 infos, 0 suppressed, in 1 contract(s)\n"
        "Effort: about 15 minutes\n"
        "Result: PASS"
    )
    assert "PV-AUD-004" not in lint_text(lint_path("contracts"), least=Severity.ERROR)


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("pytest x", True),
        ("./run.sh", True),
        ("try random vectors", False),
        ("", False),
        ("'open", False),
    ],
)
def test_a_command_starts_with_a_program_or_a_path(text: str, runs: bool) -> None:
    assert is_command(text) is runs
