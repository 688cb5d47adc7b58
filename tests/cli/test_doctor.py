"""`apr doctor` says what is used, and refuses what there is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from cotejar.kernels.instruction_set import runnable_isas
from cotejar.report.doctor import doctor_facts, doctor_lines

COMMAND = [sys.executable, "-c", "from cotejar.cli.apr.main import main; main()", "doctor"]


def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("COTEJAR_")}
    return subprocess.run(
        [*COMMAND, *options],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_best_instruction_set_is_used_unless_another_is_forced() -> None:
    free = json.loads(run("--json").stdout)
    forced = json.loads(run("--json", COTEJAR_ISA="portable", COTEJAR_THREADS="3").stdout)

    assert (free["isa"], free["isas"]) == (runnable_isas()[0], list(runnable_isas()))
    assert (forced["isa"], forced["threads"]) == ("portable", 3)


def test_the_text_says_the_same() -> None:
    result = run(COTEJAR_ISA="numpy", COTEJAR_THREADS="2")

    assert result.returncode == 0
    assert "kernels  numpy, 2 threads" in result.stdout.splitlines()


@pytest.mark.parametrize(
    ("state", "lines"),
    [
        ("ready", []),
        ("absent", []),
        (
            "refused",
            ["         amx is off: the operating system gives this process no tile registers"],
        ),
        (
            "different",
            [
                "         amx is off: its self test has other bits than the portable kernel; "
                "all else is used"
            ],
        ),
    ],
)
def test_a_reason_is_given_where_amx_is_there_and_not_used(
    state: str, lines: list[str]
) -> None:
    found = doctor_lines(doctor_facts() | {"amx": state})

    assert [line for line in found if "amx is" in line] == lines


def test_an_unknown_instruction_set_is_bad_usage() -> None:
    result = run("--json", COTEJAR_ISA="mmx")

    assert result.returncode == 2
    assert json.loads(result.stdout)["error"]["found"] == "mmx"
    assert "there is no instruction set 'mmx' here" in result.stderr
