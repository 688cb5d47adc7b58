"""The tokens fed one at a time are compared by themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.engines.run_trace import TraceRequest, run_trace
from cotejar.kernels.moments import STD_ERROR
from cotejar.parity.decoded_steps import count_steps, steps_alone
from cotejar.parity.run import Request, run_parity
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture, ForwardTrace, Scope
from cotejar.trace.stats import measure_stats as measure
from cotejar.trace.trace_file import write_trace
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

IDS = (5, 77, 300, 12, 9, 41, 8)


def trace(model: object, decode: int | None) -> ForwardTrace:
    capture = Capture(array_slots=EVERY_ARRAY)
    asked = TraceRequest(source=str(model), token_ids=IDS, capture=capture, decode=decode)
    return run_trace(asked).trace


def test_they_have_the_statistics_of_their_rows(tiny_gguf: Path) -> None:
    whole = trace(tiny_gguf, 3)

    alone, other = steps_alone(whole, whole, 3)

    assert (alone.token_ids, alone.positions) == (whole.token_ids, whole.positions)
    assert list(alone.arrays) == list(whole.arrays)
    for name, record in alone.sites.items():
        rows = whole.arrays[name][-3:].astype(np.float64)
        np.testing.assert_array_equal(alone.arrays[name], whole.arrays[name][-3:])
        assert record.shape == rows.shape
        assert record.stats[Scope.ALL].count == rows.size
        # A kernel's error; 1e-12 for float64 sums of at most 500 numbers in other orders.
        error = (STD_ERROR + 1e-12) * np.sqrt(np.mean(rows**2))
        assert record.stats[Scope.ALL].std == pytest.approx(rows.std(ddof=1), abs=error)
        last = whole.sites[name].stats[Scope.LAST]
        # Both are a kernel's, one perhaps of parts side by side.
        error = 2 * STD_ERROR * last.rms
        assert record.stats[Scope.LAST].std == pytest.approx(last.std, abs=error)
    assert other.sites == alone.sites


def test_a_site_without_elements_on_one_side_stays_whole(tiny_gguf: Path) -> None:
    whole = trace(tiny_gguf, 3)
    arrays = {name: array for name, array in whole.arrays.items() if name != "embed"}

    alone, other = steps_alone(whole, replace(whole, arrays=arrays), 3)

    assert alone.sites["embed"] == other.sites["embed"] == whole.sites["embed"]
    assert alone.arrays["embed"].shape[0] == 7
    assert alone.sites["logits"].shape[0] == other.sites["logits"].shape[0] == 3


@pytest.mark.parametrize(("asked", "counted"), [(0, 3), (2, 2), (5, 3)])
def test_no_more_are_compared_than_were_fed(tiny_gguf: Path, asked: int, counted: int) -> None:
    steps, one_pass = trace(tiny_gguf, 3), trace(f"oracle:{tiny_gguf}", None)

    assert count_steps(one_pass, steps, asked) == counted


def test_a_defect_of_one_step_is_seen_in_a_recorded_trace(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    """In one step of two the context is 1e-3 off: the smallest that f32's gates promise here,
    since 2.5e-5 is the limit of the worst token and a rounding is 1e-7."""
    recorded = trace(f"native+f32:{tiny_gguf}", 2)
    name = "layer.1.attn_context"
    damaged = recorded.arrays[name].copy()
    damaged[-2] *= 1 + 1e-3
    reports = {
        what: run_parity(
            Request(
                reference=f"oracle:{tiny_gguf}",
                candidate=f"recorded:{_write(tmp_path / what, recorded, name, array)}",
                decode=0,
            )
        )
        for what, array in (("sound", recorded.arrays[name]), ("damaged", damaged))
    }

    assert reports["sound"].verdict is Verdict.PASS
    assert reports["damaged"].verdict is Verdict.FAIL
    first = reports["damaged"].first_divergence
    assert first is not None
    assert (first.site, first.scope) == (name, Scope.ALL)
    assert [r.num_steps for r in reports.values()] == [(2,), (2,)]


def _write(path: Path, whole: ForwardTrace, name: str, array: np.ndarray) -> Path:
    every, last = (measure(array), measure(array[-1:]))
    record = replace(whole.sites[name], stats={Scope.ALL: every, Scope.LAST: last})
    changed = replace(
        whole,
        sites=dict(whole.sites) | {name: record},
        arrays=dict(whole.arrays) | {name: array},
    )
    write_trace(path, changed)
    return path
