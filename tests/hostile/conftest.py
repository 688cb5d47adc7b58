"""Hostile files are read in little memory: what asks for more is seen to."""

from __future__ import annotations

import gc
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cotejar.errors import CotejarError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Outcome = Callable[[bytes], str]

MEMORY_BYTES = 256 << 20
CPU_SECONDS = 1.0


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[int]:
    """Let the process grow by 256 MiB and no more: beyond it Python raises MemoryError.

    The value is the limit on the whole address space.
    """
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    old = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, old[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_AS, old)


@pytest.fixture
def outcome(request: pytest.FixtureRequest, tmp_path: Path) -> Outcome:
    """`outcome(data)`: `whole`, or the code of the error with which the file is refused.

    The test's module says by `open_file` what opens it; then all of it is read. Anything but
    a CotejarError passes through, and a second of computing is too much.
    """
    path, open_file = tmp_path / "hostile", request.module.open_file

    def run(data: bytes) -> str:
        path.write_bytes(data)
        started = time.process_time()
        try:
            with open_file(path) as file:
                for key in file.metadata:
                    file.metadata[key]
                for name in file.tensors:
                    file.read_bytes(name).sum()
            result = "whole"
        except CotejarError as error:
            result = error.code
        assert time.process_time() - started < CPU_SECONDS
        return result

    return run
