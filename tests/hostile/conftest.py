"""Hostile files are read in little memory: what asks for more is seen to."""

from __future__ import annotations

import gc
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY_BYTES = 256 << 20


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
