"""A file appears whole or not at all, whatever goes wrong while it is written."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cotejar.errors import (
    MissingFileError,
    NotAFileError,
    OutputExistsError,
    UsageError,
    WriteError,
)
from cotejar.formats import atomic
from cotejar.formats.atomic import (
    atomic_write,
    atomic_write_json,
    atomic_write_text,
    require_writable,
)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_the_file_is_there_after_the_block_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"

    with atomic_write(path) as output:
        output.write(b"one")
        output.flush()
        assert not path.exists()
        output.write(b"two")

    assert path.read_bytes() == b"onetwo"
    assert names(tmp_path) == ["out.bin"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0, 0o666)])
def test_the_umask_decides_the_permissions(tmp_path: Path, mask: int, mode: int) -> None:
    old = os.umask(mask)
    try:
        with atomic_write(tmp_path / "out.bin"):
            pass
    finally:
        os.umask(old)

    assert (tmp_path / "out.bin").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_older_file_and_nothing_else(
    tmp_path: Path, kind: type[BaseException]
) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"older")

    def write() -> None:
        with atomic_write(path, overwrite=True) as output:
            output.write(b"n" * 3_000_000)
            raise kind

    with pytest.raises(kind):
        write()

    assert path.read_bytes() == b"older"
    assert names(tmp_path) == ["out.bin"]


def test_a_full_disk_does_not_hide_why_the_writing_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def write() -> None:
        with atomic_write(tmp_path / "out.bin") as output:
            output.write(b"still in the buffer")
            monkeypatch.setattr(atomic._CountingFile, "write", refuse)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()

    assert names(tmp_path) == []


def test_an_error_of_the_caller_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="input"), atomic_write(tmp_path / "out"):
        raise FileNotFoundError(errno.ENOENT, "input")

    assert names(tmp_path) == []


def test_an_older_file_is_replaced_only_if_allowed(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"older")

    with pytest.raises(OutputExistsError) as caught, atomic_write(path):
        pytest.fail("the block ran")
    assert str(caught.value) == (
        "error[APR-F006]: the output is there already\n"
        f"  where     {path}\n"
        "  expected  no file of that name\n"
        "  found     a file of 5 bytes\n"
        "  try       name another output, or allow it to be replaced with --force"
    )

    with atomic_write(path, overwrite=True) as output:
        output.write(b"newer")
    assert path.read_bytes() == b"newer"


def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"

    def write() -> None:
        with atomic_write(path) as output:
            output.write(b"ours")
            path.write_bytes(b"theirs")

    with pytest.raises(OutputExistsError):
        write()

    assert path.read_bytes() == b"theirs"
    assert names(tmp_path) == ["out.bin"]


def test_a_symbolic_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link, real = tmp_path / "link", tmp_path / "there" / "real"
    link.symlink_to(real)

    with atomic_write(link) as output:
        output.write(b"data")

    assert link.is_symlink()
    assert real.read_bytes() == b"data"


def test_a_folder_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(NotAFileError) as caught, atomic_write(tmp_path, overwrite=True):
        pytest.fail("the block ran")

    assert str(caught.value) == (
        "error[APR-F003]: the output is not a regular file\n"
        f"  where     {tmp_path}\n"
        "  expected  a new file, or a regular file to replace\n"
        "  found     a folder\n"
        "  try       name a file to write, inside a folder that is there"
    )


def test_a_pipe_is_no_output(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with (
        pytest.raises(NotAFileError, match=r"a pipe \(FIFO\)"),
        atomic_write(tmp_path / "pipe", overwrite=True),
    ):
        pytest.fail("the block ran")


@pytest.mark.parametrize(
    ("folder", "found"), [("none", "nothing of that name"), ("file", "a file of that name")]
)
def test_a_missing_folder_is_named(tmp_path: Path, folder: str, found: str) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / folder / "out.bin"

    with pytest.raises(MissingFileError) as caught, atomic_write(path):
        pytest.fail("the block ran")

    assert str(caught.value) == (
        "error[APR-F002]: the folder to write in is not there\n"
        f"  where     {path}\n"
        f"  expected  a folder {path.parent}\n"
        f"  found     {found}\n"
        f"  try       make it first: `mkdir -p {path.parent}`"
    )


def test_a_refusal_to_create_the_file_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = tmp_path / "out.bin"
    monkeypatch.setattr(os, "open", refuse)  # permissions do not bind root

    with pytest.raises(WriteError) as caught, atomic_write(path):
        pytest.fail("the block ran")

    assert str(caught.value) == (
        "error[APR-F005]: the system refuses to write the output; nothing was left behind\n"
        f"  where     {path}\n"
        f"  expected  to write in {tmp_path}\n"
        "  found     Permission denied\n"
        f"  try       look at its permissions (`ls -ld {tmp_path}`), or write elsewhere"
    )


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fills_at_the_last_step_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "out.bin"
    monkeypatch.setattr({"fsync": os, "replace": Path}[step], step, refuse)

    with pytest.raises(WriteError) as caught, atomic_write(path) as output:
        output.write(b"x" * 100)

    assert re.sub(r"; \d+ bytes free", "; N bytes free", str(caught.value)) == (
        "error[APR-F005]: the disk is full; nothing was left behind\n"
        f"  where     {path}\n"
        "  expected  room for the whole file\n"
        "  found     No space left on device, after 100 bytes; N bytes free\n"
        "  try       free some space, or write to another disk"
    )
    assert names(tmp_path) == []


_FILL = """
import os, sys
from pathlib import Path
from cotejar.errors import WriteError
from cotejar.formats.atomic import atomic_write
path = Path(sys.argv[1]) / "out.bin"
try:
    with atomic_write(path) as output:
        for _ in range(64):
            output.write(bytes(65536))
except WriteError as error:
    print(error)
print(os.listdir(path.parent))
"""


def test_a_disk_that_is_really_full_leaves_nothing(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    mount = f"mount -t tmpfs -o size=1m none {tmp_path}"
    enter = [unshare or "unshare", "--map-root-user", "--mount", "sh", "-c"]
    if unshare is None or subprocess.run([*enter, mount], check=False).returncode:
        pytest.skip("this system lets nobody mount a file system of his own")

    command = f'{mount} && exec "$0" -c "$1" {tmp_path}'
    ended = subprocess.run(
        [*enter, command, sys.executable, _FILL], capture_output=True, text=True, check=True
    )

    assert ended.stdout == (
        "error[APR-F005]: the disk is full; nothing was left behind\n"
        f"  where     {tmp_path}/out.bin\n"
        "  expected  room for the whole file\n"
        "  found     No space left on device, after 1048576 bytes; 0 bytes free\n"
        "  try       free some space, or write to another disk\n"
        "[]\n"
    )


# A test runner in the background may have handed down "ignore SIGINT".
_WAIT = """
import signal, sys, time
from pathlib import Path
from cotejar.formats.atomic import atomic_write
signal.signal(signal.SIGINT, signal.default_int_handler)
with atomic_write(Path(sys.argv[1]), overwrite=True) as output:
    output.write(bytes(3_000_000))
    print("written", flush=True)
    time.sleep(60)
"""


def test_ctrl_c_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"older")
    with subprocess.Popen(
        [sys.executable, "-c", _WAIT, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "written\n"
        assert len(names(tmp_path)) == 2  # it is in the middle

        child.send_signal(signal.SIGINT)
        _, stderr = child.communicate(timeout=30)

    assert stderr.endswith("KeyboardInterrupt\n")
    assert path.read_bytes() == b"older"
    assert names(tmp_path) == ["out.bin"]


def test_text_is_written_as_utf_8(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "out.txt", "señal\n")

    assert (tmp_path / "out.txt").read_bytes() == b"se\xc3\xb1al\n"


def test_json_is_written_for_people_and_ends_its_line(tmp_path: Path) -> None:
    atomic_write_json(tmp_path / "out.json", {"é": [1]})

    text = (tmp_path / "out.json").read_text(encoding="utf-8")
    assert text == '{\n  "é": [\n    1\n  ]\n}\n'
    assert json.loads(text) == {"é": [1]}


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic_write_json(tmp_path / "out.json", float("nan"))

    assert names(tmp_path) == []


def test_a_check_sees_the_whole_file_before_it_appears(tmp_path: Path) -> None:
    path, seen = tmp_path / "out.bin", []

    def check(written: Path) -> None:
        seen.append((written.read_bytes(), written.parent, path.exists()))

    with atomic_write(path, check=check) as output:
        output.write(b"whole")

    assert seen == [(b"whole", tmp_path, False)]
    assert path.read_bytes() == b"whole"


def test_a_check_that_fails_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"older")

    def check(written: Path) -> None:
        raise ValueError(written.name)

    def write() -> None:
        with atomic_write(path, overwrite=True, check=check) as output:
            output.write(b"newer")

    with pytest.raises(ValueError, match=r"^\.cotejar-"):
        write()
    assert path.read_bytes() == b"older"
    assert names(tmp_path) == ["out.bin"]


@pytest.mark.parametrize("name", ["in.bin", "symbolic", "hard", "folder/../in.bin"])
def test_an_input_is_no_output_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    source = tmp_path / "in.bin"
    source.write_bytes(b"precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "symbolic").symlink_to(source)
    (tmp_path / "hard").hardlink_to(source)
    output, inputs = tmp_path / name, [tmp_path / "gone", source]

    with pytest.raises(UsageError) as caught:
        require_writable(output, overwrite=True, inputs=inputs)

    assert str(caught.value) == (
        "error[APR-U001]: the output is one of the files that are read\n"
        f"  where     {output}\n"
        "  expected  another file than every input\n"
        f"  found     the same file as {source}\n"
        "  try       name another output; --force replaces older outputs, never an input"
    )


def test_another_file_is_an_output(tmp_path: Path) -> None:
    (tmp_path / "in.bin").write_bytes(b"same bytes")
    (tmp_path / "out.bin").write_bytes(b"same bytes")

    require_writable(tmp_path / "out.bin", overwrite=True, inputs=[tmp_path / "in.bin"])
    require_writable(tmp_path / "new.bin", inputs=[tmp_path / "in.bin"])
