"""`pv` from the outside: output, exit codes, and a start that imports nothing heavy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cotejar.cli.group import COTEJAR_VERBS, cotejar
from cotejar.cli.pv.group import PV_VERBS, pv
from cotejar.contracts.rules.example import BASE_BLOCKS, fill_example
from cotejar.errors import CotejarError, MissingFileError, OutputExistsError

GOOD = "".join(BASE_BLOCKS.values())


def run(*args: str) -> Result:
    return CliRunner().invoke(pv, list(args))


def run_process(*args: str) -> subprocess.CompletedProcess[str]:
    program = (
        f"from cotejar.cli.pv.main import main; import sys; sys.argv[1:] = {list(args)}; main()"
    )
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    file = tmp_path / "good.yaml"
    file.write_text(GOOD)
    return file


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    file = tmp_path / "bad.yaml"
    file.write_text(fill_example("kind: x\n"))
    return file


def test_help_lists_every_verb_without_importing_one() -> None:
    program = (
        "import sys; from cotejar.cli.pv.group import pv\n"
        "from click.testing import CliRunner\n"
        "print(CliRunner().invoke(pv, ['--help']).output)\n"
        "heavy = {'yaml', 'numpy', 'cotejar.contracts', 'cotejar.cli.pv.validate'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert all(f"  {verb} " in done.stdout for verb in PV_VERBS)
    assert "loaded: []" in done.stdout


@pytest.mark.parametrize("verb", PV_VERBS)
def test_every_verb_of_the_table_is_there_and_has_help(verb: str) -> None:
    assert run(verb, "--help").exit_code == 0


def test_the_umbrella_offers_pv_as_a_group(good: Path) -> None:
    assert "pv" in COTEJAR_VERBS

    done = CliRunner().invoke(cotejar, ["pv", "validate", str(good)])

    assert (done.exit_code, done.output) == (
        0,
        "\n0 error(s), 0 warning(s)\nContract is valid.\n",
    )


def test_an_unknown_verb_is_bad_usage() -> None:
    done = run_process("valdate")

    assert (done.returncode, done.stdout) == (2, "")
    assert "No such command 'valdate'" in done.stderr


def test_an_invalid_contract_exits_1_with_its_findings(bad: Path) -> None:
    done = run("validate", str(bad))

    assert done.exit_code == 1
    assert done.stdout.startswith("[ERROR] SCHEMA-018: ")
    assert done.stdout.endswith("\n\n1 error(s), 0 warning(s)\n")
    assert done.stderr == "error: Contract has 1 validation error(s)\n"


def test_a_file_that_does_not_parse_exits_1_with_one_message(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("- a\n- b\n")

    done = run("validate", str(file))

    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        "error[PV-E005]: Failed to parse YAML: the document: wrong type or value\n"
        f"  where     {file}:1:1\n"
        "  expected  a mapping\n"
        "  found     a list of 2\n"
        "  try       the schema of a contract is in docs/spec.md section 5\n"
    )


def test_json_is_one_object_with_the_verdict_and_every_finding(bad: Path) -> None:
    done = run("validate", str(bad), "--json")

    report = json.loads(done.stdout)
    assert (done.exit_code, report["exit_code"], report["verdict"]) == (1, 1, "FAIL")
    (finding,) = report["files"][0]["findings"]
    assert (finding["rule"], finding["line"], finding["column"]) == ("SCHEMA-018", 14, 1)


def test_every_format_is_written_for_a_folder(good: Path, bad: Path) -> None:
    folder = str(good.parent)

    outputs = {f: run("validate", folder, "--format", f) for f in ("sarif", "github", "junit")}

    assert {done.exit_code for done in outputs.values()} == {1}
    assert (
        json.loads(outputs["sarif"].stdout)["runs"][0]["results"][0]["ruleId"] == "SCHEMA-018"
    )
    assert outputs["github"].stdout.startswith(f"::error file={bad},line=14,col=1,")
    assert outputs["junit"].stdout.startswith("<?xml version='1.0' encoding='utf-8'?>")


@pytest.mark.parametrize(("make_folder", "exit_code"), [(False, 2), (True, 3)])
def test_nothing_to_check_is_never_a_pass(
    tmp_path: Path, make_folder: bool, exit_code: int
) -> None:
    target = tmp_path / "contracts"
    if make_folder:
        target.mkdir()

    done = run_process("validate", str(target), "--json")

    assert done.returncode == exit_code
    assert json.loads(done.stdout)["exit_code"] == exit_code
    assert done.stderr.startswith("error[")


# --- the other verbs ----------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    contracts = tmp_path / "contracts"
    contracts.mkdir()
    (contracts / "a-v1.yaml").write_text(
        fill_example(
            "metadata: {version: 1.0.0, description: d, references: [a], depends_on: [b-v1]}\n"
        )
    )
    (contracts / "broken.yaml").write_text("{{")
    return contracts


OVER_A_FOLDER = ("audit", "coverage", "graph", "score")


@pytest.mark.parametrize("verb", OVER_A_FOLDER)
def test_a_verb_over_a_folder_names_what_it_skipped(verb: str, folder: Path) -> None:
    plain, as_json = run(verb, str(folder)), run(verb, str(folder), "--json")

    assert (plain.exit_code, as_json.exit_code) == (0, 0)
    assert plain.stderr.startswith(f"warning: skipped {folder}/broken.yaml:")
    assert [s["file"] for s in json.loads(as_json.stdout)["skipped"]] == [
        f"{folder}/broken.yaml"
    ]


@pytest.mark.parametrize("verb", ["validate", "lint", *OVER_A_FOLDER])
def test_a_folder_without_contracts_is_declined_by_every_verb(
    verb: str, tmp_path: Path
) -> None:
    done = run_process(verb, str(tmp_path), "--json")

    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["code"] == "PV-E006"


ON_A_FILE = (
    ("status",),
    ("audit",),
    ("coverage",),
    ("graph",),
    ("equations",),
    ("score",),
    ("scaffold",),
    ("diff", "GOOD"),
)


@pytest.mark.parametrize("verb", ON_A_FILE, ids=lambda verb: verb[0])
@pytest.mark.parametrize("content", ["{{", "- a", "metadata: {version: 1}", "[" * 500])
def test_bad_input_is_one_error_and_exit_2(
    verb: tuple, content: str, good: Path, tmp_path: Path
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    args = [str(good) if arg == "GOOD" else arg for arg in verb]

    done = run(*args, str(file))

    error = done.exception
    assert isinstance(error, CotejarError)
    assert (error.exit_code, str(file) in error.parts["where"]) == (2, True)


def test_status_prints_its_counts_and_its_json(good: Path) -> None:
    assert run("status", str(good)).stdout.startswith("Contract: An example\nVersion: 1.0.0\n")
    assert json.loads(run("status", str(good), "--json").stdout)["equations"] == 1


def test_audit_fails_on_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(fill_example("kani_harnesses: [{id: K, obligation: ''}]\n"))

    done = run("audit", str(file))

    assert done.exit_code == 1
    assert "[ERROR] AUDIT-002: the harness K names no obligation" in done.stdout


def test_audit_and_coverage_and_score_take_a_registry(good: Path, tmp_path: Path) -> None:
    registry = tmp_path / "binding.yaml"
    entry = "{contract: good.yaml, equation: identity, status: partial}"
    registry.write_text(f"version: 1\ntarget_crate: c\nbindings: [{entry}]\n")
    options = [str(good), "--binding", str(registry), "--json"]

    audit, coverage, score = (
        json.loads(run(verb, *options).stdout) for verb in ("audit", "coverage", "score")
    )

    # Nobody registered a harness for the example: a note.
    found = [f["rule"] for f in audit["contracts"][0]["findings"]]
    assert found == ["BIND-002", "TRACE-010"]
    assert coverage["contracts"][0]["binding_partial"] == 1
    assert score["contracts"][0]["parts"]["binding"] == 0.5


def test_diff_checks_the_bump_only_when_asked(good: Path, tmp_path: Path) -> None:
    changed = tmp_path / "new.yaml"
    changed.write_text(fill_example("equations: {identity: {formula: y = 2}}\n"))

    plain = run("diff", str(good), str(changed))
    checked = run("diff", str(good), str(changed), "--check", "--json")

    assert (plain.exit_code, checked.exit_code) == (0, 1)
    assert json.loads(checked.stdout)["suggested_bump"] == "major"
    assert checked.stderr == (
        "error: the changes ask for a major bump, but 1.0.0 -> 1.0.0 is none\n"
        "error: 1 change(s) alter what a gate means, and the changelog of 1.0.0 has no "
        "five_whys for them: equations: ~ identity: formula\n"
    )


def test_audit_asks_for_five_whys_where_the_version_before_meant_something_else(
    good: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "new.yaml"
    meta = "metadata: {version: 2.0.0, description: d, references: [a]}\n"
    blocks = meta + "equations: {identity: {formula: y = 2}}\n"
    changed.write_text(fill_example(blocks))

    silent = run("audit", str(changed), "--against", str(good))
    whys = "five_whys: [{why: Why 2?, because: It is what was measured}]"
    changed.write_text(fill_example(blocks + f"changelog: [{{version: 2.0.0, {whys}}}]\n"))
    explained = run("audit", str(changed), "--against", str(good))

    assert (silent.exit_code, explained.exit_code) == (1, 0)
    assert "[ERROR] TRACE-009: since version 1.0.0 1 change(s) alter what" in silent.stdout
    assert f"  compared with version 1.0.0 in {good}\n" in explained.stdout


def test_a_cycle_of_contracts_exits_1_after_it_is_drawn(tmp_path: Path) -> None:
    for stem, target in (("a", "b"), ("b", "a")):
        meta = f"metadata: {{version: 1, description: d, depends_on: [{target}]}}\n"
        (tmp_path / f"{stem}.yaml").write_text(fill_example(meta))

    results = {
        f: run("graph", str(tmp_path), "-f", f) for f in ("text", "dot", "mermaid", "json")
    }

    assert {done.exit_code for done in results.values()} == {1}
    assert results["text"].stdout.endswith("cycle: a -> b -> a\n")
    assert results["dot"].stdout.startswith("digraph contracts {")
    assert results["mermaid"].stdout.startswith("graph LR")
    assert json.loads(results["json"].stdout)["cycles"] == [["a", "b"]]


def test_equations_are_written_in_three_formats(good: Path) -> None:
    outputs = {
        f: run("equations", str(good), "-f", f).stdout for f in ("text", "latex", "json")
    }

    assert outputs["text"] == "identity:\n  y = x\n"
    assert "\\begin{equation}\n  y = x\n\\end{equation}" in outputs["latex"]
    assert json.loads(outputs["json"])["equations"][0]["latex"] == "y = x"


def test_score_fails_below_the_least(good: Path) -> None:
    assert run("score", str(good), "--min-score", "0.5").exit_code == 0
    assert run("score", str(good), "--min-score", "0.9").exit_code == 1


def test_scaffold_writes_a_new_file_and_never_over_one(good: Path, tmp_path: Path) -> None:
    output = tmp_path / "test_new.py"

    first = run("scaffold", str(good), "-o", str(output))
    written = output.read_text()
    second = run("scaffold", str(good), "-o", str(output))

    assert (first.exit_code, written) == (0, run("scaffold", str(good)).stdout)
    assert isinstance(second.exception, OutputExistsError)
    assert output.read_text() == written
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good.yaml", "test_new.py"]


def test_scaffold_into_a_folder_that_is_not_there_leaves_nothing(
    good: Path, tmp_path: Path
) -> None:
    done = run("scaffold", str(good), "-o", str(tmp_path / "none/test.py"))

    assert isinstance(done.exception, MissingFileError)
    assert [p.name for p in tmp_path.iterdir()] == ["good.yaml"]


def test_lint_writes_every_format_and_fails_on_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(fill_example("kind: x\n"))

    outputs = {f: run("lint", str(file), "-f", f) for f in ("text", "json", "sarif", "github")}

    assert {done.exit_code for done in outputs.values()} == {1}
    assert outputs["text"].stdout.endswith("Result: FAIL\n")
    assert json.loads(outputs["json"].stdout)["gates"][0]["state"] == "failed"
    rules = {r["ruleId"] for r in json.loads(outputs["sarif"].stdout)["runs"][0]["results"]}
    assert rules == {"PV-VAL-001", "PV-VAL-003"}
    assert outputs["github"].stdout.startswith(
        f"::error file={file},line=14,col=1,title=PV-VAL"
    )


def test_lint_of_an_unknown_gate_is_bad_input(good: Path) -> None:
    done = run_process("lint", str(good), "--gate", "sigma")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error[PV-E007]: there is no gate 'sigma'\n")


def test_explain_prints_one_rule_or_lists_them_all() -> None:
    one, as_json = run("explain", "schema-012"), run("explain", "SCHEMA-012", "--json")
    every = run("explain")

    first = one.stdout.partition("\n")[0]
    assert first == "SCHEMA-012 [WARN]: a harness has no bound"
    assert json.loads(as_json.stdout)["severity"] == "warning"
    assert "\nPV-AUD-004       WARN   an equation has no domain\n" in every.stdout
    assert len(json.loads(run("explain", "--json").stdout)["rules"]) == len(
        every.stdout.splitlines()
    )


def test_explain_of_an_unknown_rule_names_its_neighbours() -> None:
    done = run_process("explain", "SCHEMA-099")

    assert done.returncode == 2
    assert "try       near it: SCHEMA-0" in done.stderr
