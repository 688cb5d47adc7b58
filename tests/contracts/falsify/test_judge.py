"""How a command ended -> a verdict."""

import os
from pathlib import Path
from typing import Any

import pytest

from cotejar.contracts.falsify.command import Program
from cotejar.contracts.falsify.judge import find_refused_write, judge
from cotejar.contracts.falsify.pytest_report import PytestReport, read_pytest_report


def reply(**changes: Any) -> dict[str, Any]:
    return {
        "exit_code": 0,
        "signal": None,
        "stopped": None,
        "detail": "",
        "not_started": None,
        "output_tail": "",
        "num_left": 0,
        **changes,
    }


@pytest.mark.parametrize(
    ("program", "code", "verdict", "reason"),
    [
        (Program.OTHER, 0, "SURVIVED", ""),
        (Program.OTHER, 2, "FALSIFIED", "exit 2"),
        (Program.PYTEST, 1, "FALSIFIED", "exit 1"),
        (
            Program.PYTEST,
            2,
            "STOPPED",
            "exit 2: the run was interrupted, or a test file does not import",
        ),
        (Program.PYTEST, 3, "STOPPED", "exit 3: an internal error of pytest"),
        (Program.PYTEST, 4, "STOPPED", "exit 4: bad usage, or no such test"),
        (Program.PYTEST, 5, "STOPPED", "exit 5: no test was found"),
        (Program.COTEJAR, 1, "FALSIFIED", "exit 1"),
        (Program.COTEJAR, 2, "STOPPED", "exit 2: bad usage or bad input"),
        (Program.COTEJAR, 3, "STOPPED", "exit 3: nothing was measured"),
        (Program.COTEJAR, 70, "STOPPED", "exit 70: a bug of ours"),
    ],
)
def test_an_exit_code_means_what_its_program_says(
    program: Program, code: int, verdict: str, reason: str
) -> None:
    ending = judge(reply(exit_code=code), program, None, refused=None, changed=())

    assert (ending.verdict, ending.reason) == (verdict, reason)


@pytest.mark.parametrize(
    ("report", "verdict", "reason"),
    [
        (None, "NOT-RUN", "pytest left no report of which tests it ran"),
        ((2, 2, "no model"), "NOT-RUN", "every test was skipped: no model"),
        ((0, 0, ""), "NOT-RUN", "every test was skipped: no reason given"),
        ((2, 1, "no model"), "SURVIVED", "1 of 2 tests ran, the rest were skipped"),
        ((2, 0, ""), "SURVIVED", ""),
    ],
)
def test_pytest_survives_only_with_a_test_that_ran(
    report: tuple[int, int, str] | None, verdict: str, reason: str
) -> None:
    told = report and PytestReport(
        num_tests=report[0], num_skipped=report[1], skip_reason=report[2]
    )

    ending = judge(reply(exit_code=0), Program.PYTEST, told, refused=None, changed=())

    assert (ending.verdict, ending.reason) == (verdict, reason)


def test_exit_0_after_a_write_outside_is_no_survival() -> None:
    ending = judge(reply(), Program.OTHER, None, refused=None, changed=["a", "b", "c"])

    assert (ending.verdict, ending.reason) == (
        "STOPPED",
        "it wrote outside its folder: a and 2 more",
    )


@pytest.mark.parametrize(
    "line",
    [
        "PermissionError: [Errno 13] Permission denied: '{path}'",
        "sh: 1: cannot create {path}: Permission denied",
        "touch: cannot touch '{path}': Permission denied",
    ],
)
def test_a_refused_write_is_recognised_in_the_output(tmp_path: Path, line: str) -> None:
    path = f"{tmp_path}/project/file"
    (tmp_path / "project").mkdir()

    inside = (tmp_path / "project",)
    assert find_refused_write(line.format(path=path), tmp_path, ()) == path
    assert find_refused_write(line.format(path=path), tmp_path, inside) is None


@pytest.mark.parametrize(
    "line",
    [
        "{flood}",
        "{flood} Permission denied",
        "[Errno 13] {flood}: '{flood}",
        "{flood}: Permission denied",
        "'{flood}': Permission denied",
        "[Errno 13] Permission denied: '\0'",
        ": Permission denied",
    ],
)
def test_a_flood_in_one_line_names_no_path(tmp_path: Path, line: str) -> None:
    assert find_refused_write(line.format(flood="x" * 4_000_000), tmp_path, ()) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing denies root")
def test_what_the_system_denies_anyway_is_no_refused_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    line = f"PermissionError: [Errno 13] Permission denied: '{tmp_path}/x'"

    assert find_refused_write(line, tmp_path, ()) is None


def test_an_expected_failure_counts_as_a_test_that_ran(tmp_path: Path) -> None:
    file = tmp_path / "pytest.xml"
    file.write_text(
        '<testsuites><testsuite><testcase><skipped type="pytest.xfail" message="known"/>'
        '</testcase><testcase><skipped type="pytest.skip" message="no model"/></testcase>'
        "</testsuite></testsuites>"
    )

    report = read_pytest_report(file)

    assert report == PytestReport(num_tests=2, num_skipped=1, skip_reason="no model")
    assert report.num_tried == 1


@pytest.mark.parametrize("content", [None, "", "<testsuites>", "not XML"])
def test_a_report_that_cannot_be_read_is_none(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "pytest.xml"
    if content is not None:
        file.write_text(content)

    assert read_pytest_report(file) is None
