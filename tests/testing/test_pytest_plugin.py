"""`pytest --contracts DIR` from the outside."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cotejar.testing.contract_items import ContractFailure, judge_proof

PYTEST = (sys.executable, "-m", "pytest", "-p", "cotejar.testing.pytest_plugin")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    commands = {
        "F-GOOD": "python -c pass",
        "F-BAD": "python -c 'raise SystemExit(1)'",
        "F-PROSE": "Look at it",
        "F-SHELL": "python -c pass | cat",
        "F-BLOCKED": "python -c pass",
    }
    tests = [
        {"id": name, "rule": "PO-1", "prediction": "y = x", "if_fails": "z", "test": command}
        for name, command in commands.items()
    ]
    tests[-1]["fixtures"] = ["absent.gguf"]  # type: ignore[assignment]
    facts = {
        "metadata": {"version": "1.0.0", "description": "d", "references": ["r"]},
        "falsification_tests": tests,
    }
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "c.yaml").write_text(json.dumps(facts))
    (tmp_path / "test_other.py").write_text("def test_other(): pass\n")
    return tmp_path


def run(project: Path, *args: str) -> subprocess.CompletedProcess[str]:
    # Without other plugins pytest starts sooner; ours is named, installed or not.
    left_out = {"COTEJAR_FALSIFYING", "PYTEST_ADDOPTS"}
    env = {name: value for name, value in os.environ.items() if name not in left_out}
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    return subprocess.run(
        [*PYTEST, *args], cwd=project, env=env, capture_output=True, text=True, check=False
    )


def test_each_test_is_an_item_by_its_id_and_skips_say_why(project: Path) -> None:
    done = run(project, "--contracts", "contracts", "-v", "-ra")

    outcomes = [
        tuple(line.split()[:2]) for line in done.stdout.splitlines() if line.endswith("%]")
    ]
    assert outcomes == [
        ("contracts/c.yaml::F-GOOD", "PASSED"),
        ("contracts/c.yaml::F-BAD", "FAILED"),
        ("contracts/c.yaml::F-PROSE", "SKIPPED"),
        ("contracts/c.yaml::F-SHELL", "SKIPPED"),
        ("contracts/c.yaml::F-BLOCKED", "SKIPPED"),
    ]
    assert "prose: it starts with 'Look'" in done.stdout
    assert "it needs a shell for `|`" in done.stdout
    assert "a fixture is absent: absent.gguf" in done.stdout
    assert "  predicted y = x\n" in done.stdout
    assert "Traceback" not in done.stdout
    lines = (project / "evidence" / "c.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["F-GOOD", "F-BAD"]


def test_one_item_is_chosen_by_its_id_and_nothing_is_recorded(project: Path) -> None:
    options = ("--contracts", "contracts", "--contracts-no-record", "-q")

    done = run(project, *options, "contracts/c.yaml::F-GOOD", "test_other.py")

    assert done.stdout.splitlines()[-1].startswith("2 passed in ")
    assert not (project / "evidence").exists()


def test_without_the_option_nothing_is_collected_or_imported(project: Path) -> None:
    (project / "test_other.py").write_text(
        "import sys\n"
        "def test_other():\n"
        "    assert not [m for m in sys.modules if m.startswith('cotejar.contracts')]\n"
    )

    done = run(project, "-q")

    assert done.stdout.splitlines()[-1].startswith("1 passed in ")


def test_an_empty_folder_is_bad_usage(project: Path) -> None:
    (project / "contracts" / "c.yaml").unlink()

    done = run(project, "--contracts", "contracts")

    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "decline: 0 contracts under" in done.stderr


def test_the_package_imports_no_pytest() -> None:
    program = (
        "import sys, cotejar.testing, cotejar.testing.pytest_plugin, cotejar.cli.pv.falsify\n"
        "import cotejar.contracts.falsify.run, cotejar.contracts.scoreboard.states\n"
        "print('pytest' in sys.modules, 'numpy' in sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout == "False False\n"


ANSWERS_FOR_PV = """
import json
import types
from cotejar.testing import contract_items

def run(argv, **kwargs):
    with open("argv.json", "w") as file:
        json.dump(argv[3:], file)
    facts = {"harnesses": [{"id": "KH-1", "verdict": "PROVED"}]}
    return types.SimpleNamespace(stdout=json.dumps(facts), stderr="")

contract_items.subprocess = types.SimpleNamespace(run=run)
"""


@pytest.mark.parametrize(
    ("given", "passed_on"), [([], []), (["--contracts-no-record"], ["--no-record"])]
)
def test_a_harness_is_an_item_that_pv_prove_records_unless_told_not_to(
    project: Path, given: list[str], passed_on: list[str]
) -> None:
    contract = project / "contracts" / "c.yaml"
    facts = json.loads(contract.read_text())
    facts["kani_harnesses"] = [{"id": "KH-1", "obligation": "PO-1", "bound": 8}]
    contract.write_text(json.dumps(facts))
    (project / "conftest.py").write_text(ANSWERS_FOR_PV)

    done = run(project, "--contracts", "contracts", *given, "contracts/c.yaml::KH-1", "-q")

    assert done.stdout.splitlines()[-1].startswith("1 passed in ")
    argv = ["prove", str(contract), "--harness", "KH-1", "--json", *passed_on]
    assert json.loads((project / "argv.json").read_text()) == argv


def proof(verdict: str) -> str:
    return json.dumps({"harnesses": [{"id": "KH-1", "verdict": verdict, "bound": 8}]})


def test_only_a_proof_passes() -> None:
    judge_proof("KH-1", proof("PROVED"), "")
    for verdict in ("REFUTED", "UNKNOWN"):
        with pytest.raises(ContractFailure, match=f'"verdict": "{verdict}"'):
            judge_proof("KH-1", proof(verdict), "")


@pytest.mark.parametrize(
    ("stdout", "reason"),
    [
        (proof("NOT FOUND"), "no harness is registered under this id"),
        ('{"harnesses": []}', "no harness is registered under this id"),
        ('{"error": {"code": "APR-U006", "problem": "z3 is not there"}}', "z3 is not there"),
    ],
)
def test_a_harness_that_cannot_be_tried_is_skipped_with_the_reason(
    stdout: str, reason: str
) -> None:
    with pytest.raises(pytest.skip.Exception) as caught:
        judge_proof("KH-1", stdout, "")

    assert caught.value.msg == reason


@pytest.mark.parametrize(
    "stdout", ["", "Traceback", '{"error": {"code": "PV-E005", "problem": "p"}}']
)
def test_no_answer_is_no_proof(stdout: str) -> None:
    with pytest.raises(ContractFailure, match="what stderr said"):
        judge_proof("KH-1", stdout, "what stderr said")
