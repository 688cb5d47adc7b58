"""`apr bench` measures what it says, and refuses what cannot be measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cotejar.engines.native import speed
from cotejar.errors import MissingFileError

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = [sys.executable, "-c", "from cotejar.cli.apr.main import main; main()", "bench"]
SPREADS = {
    "prefill_tokens_per_s",
    "traced_prefill_tokens_per_s",
    "decode_tokens_per_s",
    "open_ms",
    "first_token_ms",
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("COTEJAR_")}
    return subprocess.run(
        [*COMMAND, *arguments], env=clean, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def short_run(demo_model: Path) -> dict[str, object]:
    size = ["--prefill", "5", "--decode", "2", "--threads", "2", "--repeats", "2"]
    return json.loads(run(str(demo_model), *size, "--numerics", "q8", "--json").stdout)


def test_every_figure_is_there_with_its_spread(short_run: dict[str, object]) -> None:
    (result,) = short_run["results"]

    assert (result["numerics"], result["threads"]) == ("q8", 2)
    assert (result["prefill_tokens"], result["decode_tokens"]) == (5, 2)
    for name in SPREADS:
        spread = result[name]
        assert 0 < spread["min"] <= spread["median"] <= spread["max"]
    assert result["first_token_ms"]["min"] > result["open_ms"]["min"]
    assert result["peak_rss_bytes"] > 2**24


def test_more_tokens_than_the_context_are_refused(demo_model: Path) -> None:
    result = run(str(demo_model), "--prefill", "100000", "--json")

    assert result.returncode == 2
    error = json.loads(result.stdout)["error"]
    assert error["found"] == "100000 and 64 tokens, 3 times"


def test_what_the_fresh_process_meets_is_the_error_that_it_says(tmp_path: Path) -> None:
    """A file that was there when this process opened it, and is no more."""
    with pytest.raises(MissingFileError, match=r"gone\.gguf"):
        speed._peak_of_a_run(tmp_path / "gone.gguf", "q8", [1, 2], 1)
