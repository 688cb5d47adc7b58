"""What benchmarks/engines.py calls nearer, further and equal is so: its judgements alone."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def logits(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that compares over windows."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("engines_logits")
    for name in ("engines_logits", "engines_table", "generation_parts"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("num_values", "quantile", "within"),
    [(8, 2.365, 3e-3), (12, 2.201, 1e-3), (30, 2.045, 1e-3)],
)
def test_students_quantile_is_that_of_the_tables(
    logits: Any, num_values: int, quantile: float, within: float
) -> None:
    assert logits.student(num_values) == pytest.approx(quantile, abs=within)


@pytest.mark.parametrize(
    ("more", "half", "kept", "word"),
    [
        (-0.02, 0.01, "yes", "nearer"),
        (0.02, 0.01, "NO", "further"),
        (0.02, 0.03, "equal", "equal within 10%"),
        (-0.05, 0.05, "equal", "equal within 10%"),
        (0.0, 0.11, "undecided", "more windows would decide"),
        (float("nan"), 0.01, "undecided", "more windows would decide"),
        (0.0, float("nan"), "undecided", "more windows would decide"),
    ],
)
def test_a_difference_is_judged_by_its_interval(
    logits: Any, more: float, half: float, kept: str, word: str
) -> None:
    assert logits.judge(more, half, 1.0) == (kept, word)


def pair(name: str, values: list[float]) -> Any:
    return SimpleNamespace(name=name, nmse_W=values, kl_W=values)


def test_windows_are_compared_one_by_one(logits: Any) -> None:
    """Each window is 0.04 further, and the windows themselves lie 1 apart."""
    theirs = [1.0 + i for i in range(12)]
    ours = [value + 0.04 + 0.001 * (-1) ** i for i, value in enumerate(theirs)]

    bars = logits.no_further("a", pair("ours", ours), [pair("theirs", theirs)])

    assert [(bar.kept, bar.holds) for bar in bars] == [("NO", False)] * 2
    assert bars[0].bar == "NMSE at most 6.50e+00, that of theirs"
    assert bars[0].found == "6.54e+00: +4.0e-02, 95 % within +- 6.6e-04: further"
    assert bars[0].row[3] == "**NO**"


def test_the_farthest_of_the_others_is_the_bar(logits: Any) -> None:
    near, far = pair("near", [1.0, 1.01, 0.99]), pair("far", [2.0, 2.01, 1.99])

    (bar, _) = logits.no_further("a", pair("ours", [1.5, 1.51, 1.49]), [near, far])

    assert (bar.kept, bar.bar) == ("yes", "NMSE at most 2.00e+00, that of far")


def trace(**arrays: np.ndarray) -> Any:
    return SimpleNamespace(arrays={name.replace("_0_", ".0."): a for name, a in arrays.items()})


def test_a_slot_at_which_we_lie_further_is_said(logits: Any) -> None:
    """Twice the error is four times the squared distance; an exact site has no ratio."""
    rng, ratios = np.random.default_rng(0), logits.SlotRatios()
    for _ in range(8):
        exact, noise, same = (rng.normal(size=(4, 64)) for _ in range(3))
        ours = trace(layer_0_v=exact + 2e-3 * noise, layer_0_k=exact + 1e-3 * same, embed=exact)
        theirs = trace(
            layer_0_v=exact + 1e-3 * noise, layer_0_k=exact + 1e-3 * noise, embed=exact
        )
        ratios.add(trace(layer_0_v=exact, layer_0_k=exact, embed=exact), ours, theirs)

    rows = [
        line.split(" | ") for line in ratios.lines("tiny") if line.startswith(("| v", "| k"))
    ]

    assert [(row[0], row[3]) for row in rows] == [
        ("| k", "no difference |"),
        ("| v", "further |"),
    ]
    assert float(rows[1][1]) == pytest.approx(4.0, rel=1e-6)


def test_windows_that_overlap_are_refused(logits: Any) -> None:
    ids = list(range(300))
    model = SimpleNamespace(tokenizer=SimpleNamespace(encode=lambda _: ids))

    windows = logits.text_windows(model, 4)

    assert [window[0] for window in windows] == [0, 172, 0, 172]
    assert {len(window) for window in windows} == {logits.WINDOW_TOKENS}
    with pytest.raises(SystemExit, match="3 windows of 128 tokens overlap: ask for less"):
        logits.text_windows(model, 6)
