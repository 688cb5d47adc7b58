"""The benchmark runs, goes on where it stopped, and counts what it saw."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "faults.py"


def bench(folder: Path) -> str:
    options = ["--model", "tiny-qwen2", "--fault", "block-shift", "--numerics", "f32"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *options, "--no-controls"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stderr


def test_a_fault_is_put_into_both_sides_and_seen(tmp_path: Path) -> None:
    first, again = bench(tmp_path), bench(tmp_path)

    lines = (tmp_path / "build/bench-faults.jsonl").read_text().splitlines()
    ran = [json.loads(line) for line in lines]
    assert [line["faulty_side"] for line in ran] == ["candidate", "reference"]
    assert [line["parity"]["site"] for line in ran] == ["layer.1.ffn_out"] * 2
    assert all(line["effect"] > 1000 * line["noise"] for line in ran)
    assert first.startswith("2 pairs, 0 of them done\n")
    assert again.startswith("2 pairs, 2 of them done\n")
    table = (tmp_path / "benchmarks/results/faults.md").read_text()
    assert "| tiny-qwen2 | native+f32 | 2 | 2 | 2/2 | " in table
    assert "\n| block-shift | 2 | 2/2 | " in table
