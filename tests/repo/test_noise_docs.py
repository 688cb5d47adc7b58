"""What `docs/noise.md` says in tables is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from cotejar.parity.gates import FACTORS
from cotejar.parity.noise import NOISE_METRICS, MeasuredPrompt, NoiseProfile
from cotejar.parity.noise_file import SCHEMA, noise_json
from cotejar.trace.forward_trace import EngineInfo, ModelInfo

TEXT = (Path(__file__).parents[2] / "docs/noise.md").read_text(encoding="utf-8")


def first_column(heading: str) -> list[str]:
    table = re.search(rf"^\| {heading} \|.*\n\| ---.*\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert table
    cells = [row.split("|")[1] for row in table[1].splitlines()]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_every_metric_of_a_profile_is_listed() -> None:
    assert tuple(first_column("metric")) == NOISE_METRICS == tuple(FACTORS)


def test_every_key_of_the_file_is_listed() -> None:
    profile = NoiseProfile(
        name="",
        model=ModelInfo(name="m", format="gguf", architecture="llama", fingerprint="sha256:1"),
        exact=EngineInfo(name="oracle", build="1", numerics="f64"),
        engines=(),
        prompts=(MeasuredPrompt(sha256="0" * 64, num_tokens=1),),
        host={},
        date="2026-11-26",
    )

    assert sorted(first_column("key of the profile")) == sorted(noise_json(profile))
    assert f"`{SCHEMA}`" in TEXT
