"""What the float32 steps of transformers cost: each widened alone, all left as they were."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from cotejar.model.language_model import open_language_model
from cotejar.testing.tiny_models import write_tiny_gguf

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.cross

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
IDS = [5, 77, 300, 12, 9, 9, 250, 31]


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the benchmark."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("engines_float64")
    for name in ("engines_float64", "engines_table"):
        sys.modules.pop(name, None)


def test_every_step_in_float32_is_seen_and_none_is_left_where_all_are_widened(
    shares: Any, tmp_path: Path
) -> None:
    model = open_language_model(write_tiny_gguf(tmp_path / "tiny.gguf"))

    bars, lines = shares.compare_float64(model, IDS)

    table = [line.split(" | ") for line in lines if line.startswith("| ")][2:]
    worst = {row[0].removeprefix("| "): float(row[1]) for row in table}
    assert list(worst) == [title for title, _ in shares.VARIANTS]
    # One rounding is 6e-8 of a value, and what follows grows it by less than 20.
    assert all(1e-9 < worst[f"{step} alone in float32"] < 2e-6 for step in shares.STEPS)
    assert worst["all three in float64"] < 1e-11
    assert [bar.kept for bar in bars] == ["yes", "yes"]


def test_the_step_that_is_widened_is_the_one_that_is_named(shares: Any, tmp_path: Path) -> None:
    """Before the first rotation only a norm can be in float32; before the norm, nothing."""
    model = open_language_model(write_tiny_gguf(tmp_path / "tiny.gguf"))
    module = shares.load_model(model, "f64")
    exact = shares.OracleEngine(model).trace(IDS, capture=shares.CAPTURE).arrays

    def first_wrong(steps: tuple[str, ...]) -> str:
        recorder = shares.TraceRecorder(shares.CAPTURE)
        with shares.widening(module, steps):
            shares.observe(module, IDS, recorder)
        far = {s: shares.farthest({s: a}, recorder.arrays)[0] for s, a in exact.items()}
        return next((site for site, value in far.items() if value > 1e-11), "")

    table = module.model.rotary_emb.inv_freq
    assert first_wrong(("softmax", "rotary tables")) == "layer.0.attn_norm"
    assert first_wrong(("norms", "softmax")) == "layer.0.q_rope"
    assert first_wrong(("norms", "rotary tables")) == "layer.0.attn_context"
    assert first_wrong(shares.STEPS) == ""
    assert module.model.rotary_emb.inv_freq is table
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
