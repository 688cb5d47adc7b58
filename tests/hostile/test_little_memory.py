"""The limit under which every hostile file is read is one."""

from __future__ import annotations

import pytest


def test_the_memory_limit_bites(little_memory: int) -> None:
    # All of the address space: what earlier tests freed inside the heap cannot hold it.
    with pytest.raises(MemoryError):
        bytes(little_memory)
