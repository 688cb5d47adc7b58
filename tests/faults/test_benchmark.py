"""The benchmark runs, goes on where it stopped, and counts what it saw."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "faults.py"


def bench(folder: Path, *more: str) -> str:
    options = ["--model", "tiny-qwen2", "--fault", "block-shift", "--numerics", "f32", *more]
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
    assert f"\n| {ran[0]['commit']} | tiny-qwen2 | native+f32 | all | 2 | 0 |\n" in table
    assert "| tiny-qwen2 | native+f32 | 2 | 2 | 2/2 | " in table
    assert "\n| block-shift | 2 | 2/2 | " in table


def test_one_place_is_one_pair_and_the_table_says_so(tmp_path: Path) -> None:
    said = bench(tmp_path, "--places", "one", "--fault", "rope-theta", "--fault", "logit-scale")

    ran = [
        json.loads(x) for x in (tmp_path / "build/bench-faults.jsonl").read_text().splitlines()
    ]
    assert said.startswith("3 pairs, 0 of them done\n")
    assert [(line["fault"], line["faulty_side"]) for line in ran] == [
        ("block-shift@1", "candidate"),
        ("rope-theta@1", "candidate"),
        ("logit-scale", "candidate"),
    ]
    table = (tmp_path / "benchmarks/results/faults.md").read_text()
    assert f"\n| {ran[0]['commit']} | tiny-qwen2 | native+f32 | one | 3 | 0 |\n" in table
