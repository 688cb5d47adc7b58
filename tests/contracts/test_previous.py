"""The version before: a file, a folder, or a revision that git knows."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from cotejar.contracts.audit import audit_corpus, audit_text
from cotejar.contracts.corpus import read_corpus
from cotejar.contracts.previous import PreviousVersions
from cotejar.contracts.rules.example import fill_example
from cotejar.errors import ContractLimitError, CotejarError, MissingFileError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

META = "metadata: {version: %s, description: d, references: [a]}\n"
PARITY = "parity: {gates: [{metric: rel_l2_max, sites: all, limit: %s}]}\n"
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def write(file: Path, version: str, limit: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(fill_example(META % version + PARITY % limit))
    return file


def audited(target: Path, old: str) -> list[str]:
    against = PreviousVersions(old, str(target))
    report = audit_corpus(read_corpus(target), against=against)
    return [f"{finding.rule} {finding.file}" for finding in report.findings]


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits of one contract: its limit is loosened by the second."""
    folder = tmp_path / "repository"
    for version, limit in (("1.0.0", "1e-5"), ("2.0.0", "1e-2")):
        write(folder / "contracts/a-v1.yaml", version, limit)
        if version == "1.0.0":
            git(folder, "init", "--quiet")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", version)
    return folder


def test_a_loosened_gate_is_found_against_a_file_and_against_a_folder(tmp_path: Path) -> None:
    old = write(tmp_path / "old/deep/a.yaml", "1.0.0", "1e-5")
    new = write(tmp_path / "new/deep/a.yaml", "2.0.0", "1e-2")
    write(tmp_path / "new/b.yaml", "1.0.0", "1")

    assert audited(new, str(old)) == [f"TRACE-009 {new}"]
    assert audited(tmp_path / "new", str(tmp_path / "old")) == [f"TRACE-009 {new}"]
    assert audited(old, str(old)) == []


@needs_git
def test_a_loosened_gate_is_found_against_a_revision(repository: Path) -> None:
    file = repository / "contracts/a-v1.yaml"

    assert audited(file, "git:HEAD~1") == [f"TRACE-009 {file}"]
    assert audited(file.parent, "git:HEAD~1") == [f"TRACE-009 {file}"]
    assert audited(file, "git:HEAD") == []


@needs_git
def test_what_is_not_committed_yet_is_found_against_the_last_commit(repository: Path) -> None:
    file = write(repository / "contracts/a-v1.yaml", "3.0.0", "1")

    assert audited(file, "git:HEAD") == [f"TRACE-009 {file}"]


@needs_git
def test_the_audit_says_what_it_compared_with(repository: Path) -> None:
    folder = repository / "contracts"
    write(folder / "b-v1.yaml", "1.0.0", "1")
    against = PreviousVersions("git:HEAD", str(folder))

    text = audit_text(audit_corpus(read_corpus(folder), against=against))

    compared = [line for line in text.splitlines() if line.startswith("  compared with")]
    assert compared == [
        "  compared with version 2.0.0 in git:HEAD",
        "  compared with nothing: it is new since git:HEAD",
    ]


def refused(kind: type[CotejarError], old: str, target: Path) -> str:
    with pytest.raises(kind) as caught:
        PreviousVersions(old, str(target))
    assert type(caught.value) is kind
    return str(caught.value)


@needs_git
@pytest.mark.parametrize("revision", ["gone", "", "--help", "HEAD~9"])
def test_a_revision_that_git_does_not_know(repository: Path, revision: str) -> None:
    folder = repository / "contracts"

    assert refused(UsageError, f"git:{revision}", folder) == (
        "error[APR-U001]: git knows no such revision\n"
        f"  where     --against git:{revision}\n"
        f"  expected  a commit of the repository that holds {folder}\n"
        f"  found     {revision or 'no revision'}\n"
        "  try       `git log --oneline` lists commits; a shallow clone has few of them"
    )


def test_an_old_version_that_is_not_there(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "1.0.0", "1")

    assert refused(MissingFileError, f"{tmp_path}/gone", file) == (
        "error[APR-F002]: there is no old version to compare with\n"
        f"  where     --against {tmp_path}/gone\n"
        "  expected  a contract, a folder of contracts, or git:REV\n"
        "  found     nothing at this path\n"
        "  try       `--against git:HEAD~1` takes the version of the last commit but one"
    )


def test_a_path_longer_than_the_system_allows_is_not_there(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "1.0.0", "1")

    refused(MissingFileError, "a" * 5000, file)


def test_a_file_is_not_compared_with_a_folder(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "1.0.0", "1")

    assert refused(UsageError, str(tmp_path), file) == (
        "error[APR-U001]: a folder is compared with a folder, and a file with a file\n"
        f"  where     --against {tmp_path}\n"
        f"  expected  a file, as {file} is\n"
        "  found     a folder\n"
        "  try       name both of one kind, or give git:REV"
    )


@needs_git
def test_an_old_version_of_absurd_size_is_not_read(repository: Path) -> None:
    file = repository / "contracts/a-v1.yaml"
    kept = file.read_text()
    file.write_text("# " + "x" * (3 << 20))
    git(repository, "commit", "--quiet", "-a", "-m", "large")
    file.write_text(kept)

    with pytest.raises(ContractLimitError):
        audited(file, "git:HEAD")


def test_without_git_a_file_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.yaml", "1.0.0", "1")
    monkeypatch.setenv("PATH", str(tmp_path))

    message = refused(UsageError, "git:HEAD", file)

    assert message.startswith("error[APR-U001]: git cannot be asked what was before\n")
    assert message.endswith(
        "  try       put git on the PATH, or do without --diff and --against git:REV"
    )
