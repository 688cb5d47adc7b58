"""Where a contract belongs, and the project's settings."""

from pathlib import Path
from typing import Any

import pytest

from cotejar.contracts.evidence.project import DEFAULT_ALLOW, find_project
from cotejar.errors import SettingsError


def test_the_nearest_pyproject_is_the_root(bench: Any) -> None:
    bench.settings('allow = ["pytest", "./tool"]\nwritable = ["out"]\ntimeout_s = 1.5')

    project = find_project(bench.file)

    assert (project.root, project.evidence) == (bench.root, bench.root / "evidence")
    assert project.allow == ("pytest", "./tool")
    assert project.writable == (bench.root / "out",)
    assert (project.limits.timeout_s, project.limits.output_mib) == (1.5, 4)


def test_without_settings_the_defaults_hold(bench: Any) -> None:
    (bench.root / "pyproject.toml").write_text("[project]\nname = 'x'\n")

    project = find_project(bench.file)

    assert (project.allow, project.writable, project.code) == (DEFAULT_ALLOW, (), ("src",))


def test_a_contract_of_no_project_is_its_own(tmp_path: Path) -> None:
    if any((folder / "pyproject.toml").exists() for folder in tmp_path.parents):
        pytest.skip("the temporary folder lies in a project")

    assert find_project(tmp_path / "c.yaml").root == tmp_path


@pytest.mark.parametrize(
    ("settings", "expected", "found"),
    [
        (
            "alow = []",
            "keys of: allow, writable, code, timeout_s, memory_mib, output_mib, file_mib, "
            "processes, evidence",
            "alow",
        ),
        ('allow = "pytest"', "allow: a list of texts", "'pytest'"),
        ("timeout_s = 0", "timeout_s: a number above 0, at most 10000000", "0"),
        ("timeout_s = nan", "timeout_s: a number above 0, at most 10000000", "nan"),
        ("processes = 1.5", "processes: an integer above 0, at most 10000000", "1.5"),
        ("processes = true", "processes: an integer above 0, at most 10000000", "True"),
        ("evidence = 1", "evidence: the name of a folder", "1"),
        ("x = ", "TOML", "Invalid value (at line 2, column 5)"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(
    bench: Any, settings: str, expected: str, found: str
) -> None:
    bench.settings(settings)

    with pytest.raises(SettingsError) as caught:
        find_project(bench.file)

    assert str(caught.value) == (
        "error[PV-E008]: a setting of `pv falsify` means nothing\n"
        f"  where     {bench.root}/pyproject.toml, [tool.cotejar.falsify]\n"
        f"  expected  {expected}\n"
        f"  found     {found}\n"
        "  try       docs/evidence.md lists the settings"
    )


@pytest.mark.parametrize("writable", [".", "evidence", "evidence/sub"])
def test_no_command_may_write_where_evidence_is(bench: Any, writable: str) -> None:
    bench.settings(f'writable = ["{writable}"]')

    with pytest.raises(SettingsError) as caught:
        find_project(bench.file)

    expected = "an evidence folder apart from every writable one"
    assert caught.value.parts["expected"] == expected
