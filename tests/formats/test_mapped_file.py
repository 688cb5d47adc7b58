"""Only a regular file is mapped, and no read leaves it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cotejar.errors import (
    MissingFileError,
    NotAFileError,
    TruncatedError,
    UnreadableFileError,
)
from cotejar.formats.mapped_file import open_mapped, release_pages


@pytest.fixture
def counting(tmp_path: Path) -> Path:
    """A file of the bytes 0..16."""
    path = tmp_path / "counting.bin"
    path.write_bytes(bytes(range(16)))
    return path


def test_integers_are_little_endian(counting: Path) -> None:
    with open_mapped(counting) as file:
        found = (file.u8(1, "a"), file.u16(1, "b"), file.u32(1, "c"), file.u64(8, "d"))

    assert found == (0x01, 0x0201, 0x04030201, 0x0F0E0D0C0B0A0908)


def test_an_array_is_a_read_only_view(counting: Path) -> None:
    with open_mapped(counting) as file:
        array = file.array(3, 4)

        assert array.tolist() == [3, 4, 5, 6]
        assert not array.flags.writeable
        assert np.shares_memory(array, np.frombuffer(file.view, np.uint8))


def test_an_array_outlives_the_closing(counting: Path) -> None:
    file = open_mapped(counting)
    array = file.array(0, 16)

    file.close()

    assert array.tolist() == list(range(16))
    with pytest.raises(ValueError, match="is closed"):
        file.u8(0, "a byte")


def test_the_last_bytes_can_be_read_and_no_byte_more(counting: Path) -> None:
    with open_mapped(counting) as file:
        assert file.bytes(12, 4, "the end") == bytes([12, 13, 14, 15])
        with pytest.raises(TruncatedError) as caught:
            file.bytes(13, 4, "the end")

    assert str(caught.value) == (
        "error[APR-F014]: the end runs past the end of the file\n"
        f"  where     {counting}, byte 13\n"
        "  expected  bytes 13..17\n"
        "  found     the file ends at byte 16\n"
        "  try       the file is cut short or damaged: fetch or copy it again"
    )


@pytest.mark.parametrize(
    ("offset", "length"), [(-1, 1), (0, -1), (17, 0), (2**64, 1), (1, 2**64 - 1)]
)
def test_no_range_outside_the_file_is_read(counting: Path, offset: int, length: int) -> None:
    with open_mapped(counting) as file, pytest.raises(TruncatedError):
        file.array(offset, length)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.gguf"

    with pytest.raises(MissingFileError) as caught:
        open_mapped(path)

    assert str(caught.value) == (
        "error[APR-F002]: there is no such file\n"
        f"  where     {path}\n"
        "  expected  a file that can be read\n"
        "  found     nothing at that path\n"
        f"  try       look at what is there: `ls {tmp_path}`"
    )


def test_a_path_through_a_file_or_with_a_nul_is_a_missing_file(counting: Path) -> None:
    for path in (counting / "inside", Path("nul\0nul")):
        with pytest.raises(MissingFileError):
            open_mapped(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAFileError) as caught:
        open_mapped(tmp_path)

    assert str(caught.value) == (
        "error[APR-F003]: the path is not a regular file\n"
        f"  where     {tmp_path}\n"
        "  expected  a regular file\n"
        "  found     a folder\n"
        "  try       give the path of the model file itself"
    )


@pytest.mark.timeout(10)
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(NotAFileError, match=r"a pipe \(FIFO\)"):
        open_mapped(tmp_path / "pipe")


@pytest.mark.timeout(10)
def test_a_pipe_that_took_the_place_of_a_file_is_refused_without_waiting(
    counting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    status = counting.stat()
    monkeypatch.setattr(Path, "stat", lambda self: status)  # what was there a moment ago

    with pytest.raises(NotAFileError, match=r"a pipe \(FIFO\)"):
        open_mapped(tmp_path / "pipe")


def test_a_device_is_refused() -> None:
    with pytest.raises(NotAFileError, match="a character device"):
        open_mapped(Path("/dev/zero"))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.gguf"
    path.touch()

    with pytest.raises(TruncatedError) as caught:
        open_mapped(path)

    assert str(caught.value) == (
        "error[APR-F014]: the file is empty\n"
        f"  where     {path}\n"
        "  expected  a model file\n"
        "  found     0 bytes\n"
        "  try       fetch or copy the file again"
    )


def test_a_refusal_of_the_system_is_passed_on(
    counting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # permissions do not bind root

    with pytest.raises(UnreadableFileError) as caught:
        open_mapped(counting)

    assert str(caught.value) == (
        "error[APR-F004]: the system refuses to read the file\n"
        f"  where     {counting}\n"
        "  expected  a file that can be read\n"
        "  found     Permission denied\n"
        f"  try       look at its permissions: `ls -l {counting}`"
    )


def _mapped_kib(path: Path) -> int:
    """Memory of this process that is pages of that file."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.endswith(str(path)))
    return int(next(x for x in lines[start:] if x.startswith("Rss:")).split()[1])


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux says it there")
def test_released_pages_are_no_memory_and_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(range(256)) * 4096)  # 1 MiB
    with open_mapped(path) as file:
        values = file.array(0, file.size_bytes)
        total = int(values.sum(dtype=np.int64))
        assert _mapped_kib(path) == 1024

        release_pages(values[100:200])

        assert _mapped_kib(path) == 0
        assert int(values.sum(dtype=np.int64)) == total
        del values


def test_what_is_no_mapped_file_is_left_alone() -> None:
    values = np.arange(4)

    release_pages(values)

    assert values.tolist() == [0, 1, 2, 3]
