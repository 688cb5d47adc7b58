"""`pv` from the outside: output, exit codes, and a start that imports nothing heavy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cotejar.cli.main import COTEJAR_VERBS, cotejar
from cotejar.cli.pv.main import PV_VERBS, pv
from cotejar.contracts.rules.example import BASE_BLOCKS, fill_example

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
        "import sys; from cotejar.cli.pv.main import pv\n"
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
