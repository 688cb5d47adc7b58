"""`pv prove` and the evidence: what is appended, when it is fresh, and what is kept out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("bitwuzla")
pytest.importorskip("z3")

from click.testing import CliRunner

from cotejar.cli.pv.prove import prove
from cotejar.contracts.corpus import read_corpus
from cotejar.contracts.evidence.ledger import read_ledger
from cotejar.contracts.evidence.record import ProofRecord
from cotejar.contracts.falsify.supervise import DEPTH_VARIABLE
from cotejar.contracts.prove import run as run_module
from cotejar.contracts.prove.harness import HARNESSES
from cotejar.contracts.prove.outcome import ProofVerdict
from cotejar.contracts.scoreboard.states import Standing, State, score_corpus
from cotejar.errors import SettingsError, WriteError

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from cotejar.contracts.scoreboard.states import ObligationState

HARNESS = """
from cotejar.contracts.prove.harness import Strategy, harness


@harness("{id}", obligation="PO-1", bound=3, strategy=Strategy.EXHAUSTIVE,
         assumes=("counts are small",))
def every_count_is_small(inputs):
    count = inputs.choose("count", range(inputs.bound))
    inputs.cover("the largest", count == 2)
    assert count <= {limit}, "too large"
"""
CONFORMANCE = {"compared": 9, "difference": ""}


class Project:
    """A folder with a contract and its harness, and what `pv prove` and the board say of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.contract = root / "c-v1.yaml"
        self.harness = root / "harness_file.py"
        root.mkdir()
        (root / "pyproject.toml").write_text("")
        (root / "src").mkdir()
        (root / "src" / "code.py").write_text("x = 1\n")

    def write(self, harness_id: str, *, limit: int = 2, bound: int = 3) -> None:
        self.harness.write_text(HARNESS.format(id=harness_id, limit=limit))
        self.demand(harness_id, bound)

    def demand(self, harness_id: str, bound: int) -> None:
        facts = {
            "metadata": {"version": "1.0.0", "description": "d", "references": ["r"]},
            "equations": {"e": {"formula": "f"}},
            "proof_obligations": [{"id": "PO-1", "type": "invariant", "property": "p"}],
            "falsification_tests": [
                {"id": "F-1", "rule": "other", "prediction": "p", "if_fails": "i"}
            ],
            "kani_harnesses": [{"id": harness_id, "obligation": "PO-1", "bound": bound}],
        }
        self.contract.write_text(json.dumps(facts))

    def prove(self, *args: str) -> Result:
        base = [str(self.contract), "--harnesses", str(self.harness), *args]
        return CliRunner().invoke(prove, base)

    def records(self, folder: str = "evidence") -> list[ProofRecord]:
        found = read_ledger(self.root / folder, "c-v1").records
        assert all(isinstance(record, ProofRecord) for record in found)
        return list(found)  # type: ignore[arg-type]

    def obligation(self) -> ObligationState:
        (board,) = score_corpus(read_corpus(self.contract)).contracts
        return board.obligations[0]

    def standing(self) -> tuple[Standing, str]:
        (harness,) = self.obligation().harnesses
        return harness.standing, harness.reason


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(HARNESSES, "_claims", dict(HARNESSES._claims))
    # These tests may themselves run under `pv falsify`.
    monkeypatch.delenv(DEPTH_VARIABLE, raising=False)
    right = run_module._Pool._run_one

    def without_conformance(self: Any, task: dict[str, Any], deadline: float) -> Any:
        # No claim here is symbolic, so what the comparison says decides nothing.
        if task["kind"] == "conformance":
            return CONFORMANCE, 0.0
        return right(self, task, deadline)

    monkeypatch.setattr(run_module._Pool, "_run_one", without_conformance)
    return Project(tmp_path / "project")


def test_a_proof_is_recorded_and_counts_on_the_scoreboard(project: Project) -> None:
    project.write("KH-R1")

    found = json.loads(project.prove("--json").stdout)["harnesses"][0]

    (record,) = project.records()
    assert found["recorded"] is True
    assert (record.id, record.verdict, record.reason) == ("KH-R1", ProofVerdict.PROVED, "")
    assert (record.bound, record.strategy, record.solver) == (3, "exhaustive", None)
    assert (record.assumptions, record.counterexample) == (("counts are small",), None)
    assert record.stamp.words == ("harness_file.py",)
    assert record.details["obligation"] == "PO-1"
    (claim,) = record.details["claims"]
    assert (claim["name"], claim["runs"]) == ("every_count_is_small", 3)
    assert record.details["conformance"] == CONFORMANCE
    assert project.obligation().state is State.PARTIAL
    assert project.standing() == (Standing.PROVED, "")


def test_a_refutation_is_recorded_with_its_counterexample_and_opens(project: Project) -> None:
    project.write("KH-R2", limit=1)

    assert project.prove().exit_code == 1

    (record,) = project.records()
    shown: dict[str, Any] = json.loads(record.counterexample or "")
    assert record.verdict is ProofVerdict.REFUTED
    assert record.reason == "every_count_is_small: AssertionError: too large"
    assert (shown["claim"], shown["inputs"]) == ("every_count_is_small", {"count": 2})
    assert project.obligation().state is State.OPEN
    assert project.standing() == (Standing.REFUTED, record.reason)


@pytest.mark.parametrize("changed", ["harness_file.py", "src/code.py"])
def test_a_proof_is_stale_when_harness_or_code_changed(project: Project, changed: str) -> None:
    project.write("KH-R3")
    project.prove()

    (project.root / changed).write_text("x = 2\n")

    assert project.standing()[0] is Standing.STALE


def test_a_target_outside_the_code_folders_makes_a_proof_stale(project: Project) -> None:
    target = project.root / "gate_of_r4.py"
    target.write_text("def is_small(count: int):\n    return count <= 2\n")
    project.write("KH-R4")
    text = project.harness.read_text()
    load = (
        "from cotejar.contracts.prove.resolve import load_harness_file\n"
        f"gate = load_harness_file({str(target)!r})\n"
    )
    text = load + text.replace("assumes=", "targets=(gate.is_small,), assumes=")
    project.harness.write_text(text)
    project.prove("--no-mutants")
    (record,) = project.records()
    assert record.stamp.words == ("harness_file.py", "gate_of_r4.py")

    target.write_text("def is_small(count: int):\n    return count <= 9\n")

    assert project.standing()[0] is Standing.STALE


def test_a_proof_below_the_bound_that_is_asked_for_now_is_stale(project: Project) -> None:
    project.write("KH-R5", bound=3)
    project.prove()

    project.demand("KH-R5", 4)

    assert project.standing()[0] is Standing.STALE


def test_what_nobody_registered_is_not_recorded(project: Project) -> None:
    project.write("KH-R6")
    project.demand("KH-NOBODY-R6", 3)

    found = json.loads(project.prove("--json").stdout)["harnesses"][0]

    assert (found["verdict"], found["recorded"]) == ("NOT FOUND", False)
    assert not (project.root / "evidence").exists()


def test_another_folder_or_none_takes_the_record(project: Project) -> None:
    project.write("KH-R7")

    project.prove("--evidence", str(project.root / "other"))
    quiet = project.prove("--no-record")

    assert [record.id for record in project.records("other")] == ["KH-R7"]
    assert not (project.root / "evidence").exists()
    assert "recorded" not in quiet.stdout


def test_a_harness_outside_the_project_is_proved_and_not_recorded(project: Project) -> None:
    project.write("KH-R8")
    outside = project.root.parent / "elsewhere.py"
    project.harness.rename(outside)
    project.harness = outside

    result = project.prove()

    assert result.exit_code == 0
    assert result.stdout.splitlines()[1:] == [
        f"KH-R8 is not recorded: {outside} lies outside the project {project.root}",
        "1 PROVED",
    ]
    assert not (project.root / "evidence").exists()


def test_within_a_falsification_test_nothing_is_recorded(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("KH-R9")
    monkeypatch.setenv(DEPTH_VARIABLE, "1")

    found = json.loads(project.prove("--json").stdout)["harnesses"][0]

    assert (found["verdict"], found["recorded"]) == ("PROVED", False)
    assert found["unrecorded_why"] == "a falsification test runs it, and is recorded itself"
    assert not (project.root / "evidence").exists()


def test_settings_that_mean_nothing_cost_no_proof(project: Project) -> None:
    project.write("KH-R10")
    (project.root / "pyproject.toml").write_text("[tool.cotejar.falsify]\nspeed = 1\n")

    assert isinstance(project.prove().exception, SettingsError)


def test_evidence_that_cannot_be_written_is_an_error(project: Project) -> None:
    project.write("KH-R11")
    (project.root / "evidence").write_text("a file, where the folder would be")

    error = project.prove().exception

    assert isinstance(error, WriteError)
    assert error.parts["try"] == "name another folder with --evidence, or run with --no-record"
