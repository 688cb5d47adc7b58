"""Writes that can only be noticed."""

import os
from pathlib import Path

import pytest

from cotejar.contracts.falsify.snapshot import changed_paths, take_snapshot


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_text("1")
    return tmp_path


@pytest.mark.parametrize(
    "change", ["append", "same size", "remove", "create", "folder", "link"]
)
def test_the_smallest_change_is_seen(root: Path, change: str) -> None:
    before = take_snapshot(root, ())
    file = root / "sub" / "file"
    if change == "append":
        file.write_text("12")
    elif change == "same size":
        file.write_text("2")
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    elif change == "remove":
        file.unlink()
    elif change == "create":
        (root / "sub" / "other").write_text("")
    elif change == "folder":
        (root / "sub" / "other").mkdir()
    else:
        (root / "sub" / "other").symlink_to("file")

    expected = "sub/file" if change in {"append", "same size", "remove"} else "sub/other"
    assert changed_paths(before, take_snapshot(root, ())) == [expected]


def test_writable_folders_byte_code_and_environments_do_not_count(root: Path) -> None:
    (root / "venv").mkdir()
    (root / "venv" / "pyvenv.cfg").write_text("")
    before = take_snapshot(root, (root / "sub",))
    (root / "sub" / "file").write_text("12")
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "x.pyc").write_text("")
    (root / "venv" / "x").write_text("")

    assert changed_paths(before, take_snapshot(root, (root / "sub",))) == []
