"""`pv falsify` and `pv scoreboard` from the outside: output, JSON and exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cotejar.cli.pv.group import pv


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a contract of the given tests into a project."""
    for name in ("COTEJAR_FALSIFYING", "PYTEST_ADDOPTS", "CI"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "pyproject.toml").write_text("")

    def contract(*commands: str, **blocks: Any) -> str:
        tests = [
            {"id": f"F-{n}", "rule": "PO-1", "prediction": "y = x", "if_fails": "z", "test": c}
            for n, c in enumerate(commands, start=1)
        ]
        facts = {
            "metadata": {"version": "1.0.0", "description": "d", "references": ["r"]},
            "equations": {"e": {"formula": "y = x"}},
            "proof_obligations": [{"id": "PO-1", "type": "invariant", "property": "p|q"}],
            "falsification_tests": tests,
            **blocks,
        }
        file = tmp_path / "contracts" / "c.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(facts))
        return str(file)

    return contract


def run(*args: str) -> Result:
    return CliRunner().invoke(pv, list(args))


def test_survivors_exit_0_and_the_scoreboard_shows_them(write: Any) -> None:
    file = write("python -c pass", "Look at it")

    done = run("falsify", file)
    board = run("scoreboard", file)

    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == (
        "2 tests: 1 survived, 0 falsified, 0 stopped, 1 not run. PASS"
    )
    assert (board.exit_code, board.stdout) == (
        0,
        f"{file}\n  DISCHARGED PO-1: F-1 SURVIVED\n\n"
        "1+0 of 1 obligations (1 discharged, 0 partial, 0 open, 0 blocked)\n",
    )


def test_a_falsified_test_exits_1_and_says_what_follows(write: Any) -> None:
    file = write("python -c 'print(7); raise SystemExit(1)'")

    done = run("falsify", file, "--no-record")

    assert done.exit_code == 1
    first, *rest = done.stdout.splitlines()
    assert first.startswith("FALSIFIED F-1 (")
    assert first.endswith(" s): exit 1")
    assert rest == [
        "  command   python -c 'print(7); raise SystemExit(1)'",
        "  predicted y = x",
        "  so        z",
        "  | 7",
        "1 tests: 0 survived, 1 falsified, 0 stopped, 0 not run. FAIL",
    ]


@pytest.mark.parametrize(
    ("commands", "options", "exit_code"),
    [
        (("Look at it",), (), 3),
        ((), (), 3),
        (("python -c pass", "Look at it"), (), 0),
        (("python -c pass", "Look at it"), ("--strict",), 3),
        (("python -c pass", "python -c 'raise SystemExit(1)'"), ("--strict",), 1),
        (("python -c 'import time; time.sleep(60)'",), ("--timeout", "0.2"), 1),
    ],
)
def test_nothing_run_is_never_a_pass(
    write: Any, commands: tuple[str, ...], options: tuple[str, ...], exit_code: int
) -> None:
    assert run("falsify", write(*commands), *options).exit_code == exit_code


def test_an_unknown_id_exits_through_one_error(write: Any) -> None:
    done = run("falsify", write("python -c pass"), "--id", "F-9")

    assert type(done.exception).__name__ == "UnknownTestError"


def test_json_holds_the_records(write: Any) -> None:
    done = run("falsify", write("python -c pass"), "--json", "--no-record")

    facts = json.loads(done.stdout)
    assert (facts["verdict"], facts["exit_code"], facts["counts"]["SURVIVED"]) == ("PASS", 0, 1)
    assert facts["results"][0]["record"]["kind"] == "falsification"
    assert done.stderr.startswith("SURVIVED  F-1")


def test_another_folder_of_evidence_is_written_and_read(write: Any, tmp_path: Path) -> None:
    file = write("python -c pass")
    folder = str(tmp_path / "elsewhere")

    run("falsify", file, "--evidence", folder)

    assert "DISCHARGED" in run("scoreboard", file, "--evidence", folder).stdout
    assert "NOT-RUN" in run("scoreboard", file).stdout


def test_a_claim_without_evidence_exits_1_only_when_checked(write: Any) -> None:
    file = write("python -c pass", status="SHIPPED")

    assert run("scoreboard", file).exit_code == 0
    done = run("scoreboard", file, "--check")
    assert done.exit_code == 1
    assert "[ERROR] PV-CLM-004: status SHIPPED needs every obligation DISCHARGED" in done.stdout
    run("falsify", file)
    assert run("scoreboard", file, "--check").exit_code == 0


def test_markdown_is_a_table_with_the_total_above(write: Any) -> None:
    done = run("scoreboard", write("Look | at it"), "--markdown")

    lines = done.stdout.splitlines()
    assert lines[0] == ("**0+0 of 1 obligations (0 discharged, 0 partial, 1 open, 0 blocked)**")
    assert lines[2:4] == [
        "| contract | obligation | state | why |",
        "| --- | --- | --- | --- |",
    ]
    assert lines[4].startswith("| `c` | PO-1 | OPEN | F-1 NOT-RUNNABLE (prose: ")


def test_json_of_the_scoreboard_has_the_total_and_every_obligation(write: Any) -> None:
    facts = json.loads(run("scoreboard", write("python -c pass"), "--json").stdout)

    assert (facts["total"], facts["counts"]["OPEN"]) == ("0+0", 1)
    (obligation,) = facts["contracts"][0]["obligations"]
    assert obligation["tests"] == [{"id": "F-1", "standing": "NOT-RUN", "reason": "never run"}]


def test_cut_evidence_is_reported_by_the_scoreboard(write: Any, tmp_path: Path) -> None:
    file = write("python -c pass")
    run("falsify", file)
    with (tmp_path / "evidence" / "c.jsonl").open("a") as evidence:
        evidence.write('{"sch')

    done = run("scoreboard", file)

    assert "DISCHARGED" in done.stdout
    assert done.stderr.startswith("warning: ")
    assert done.stderr.endswith("c.jsonl:2: the last line is cut short after 5 bytes\n")


@pytest.mark.parametrize("verb", ["falsify", "scoreboard"])
def test_an_empty_folder_is_declined(verb: str, tmp_path: Path) -> None:
    done = run(verb, str(tmp_path))

    assert type(done.exception).__name__ == "NoContractsError"
    assert getattr(done.exception, "exit_code", None) == 3
