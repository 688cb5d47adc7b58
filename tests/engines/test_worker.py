"""The other end of a child process, without the process: what it makes of its own failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cotejar.engines.isolated import rebuilt_error
from cotejar.engines.worker import Worker
from cotejar.errors import WriteError


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("verb", ["trace", "append", "append_all"])
def test_a_full_disk_is_no_fault_of_the_engines(verb: str, tiny: Any) -> None:
    worker = Worker()
    opened = worker.answer(
        {
            "do": "open",
            "target": "cotejar.engines.native.engine:NativeEngine",
            "path": str(tiny().file.path),
            "numerics": "f32",
            "options": {},
            "forget": [],
        }
    )
    assert opened["device"] == "cpu"
    request = {
        "do": verb,
        "forget": [],
        "session": worker.answer({"do": "start", "forget": []})["session"],
        "token_ids": [5, 77, 300],
        "prompt": None,
        "scopes": ["all"],
        "slots": [],
        "layers": None,
        "out": "/dev/full",
    }

    answer = worker.answer(request)

    error = rebuilt_error(answer["error"], "native")
    assert type(error) is WriteError
    assert error.problem == "an engine's data could not be written whole"
    assert error.parts["where"] == "/dev/full"
    assert error.parts["expected"].startswith("room for ")
    assert error.parts["found"] == "No space left on device"
    assert error.parts["try"] == "free some space, or let TMPDIR name a folder on another disk"
