"""Of a long prompt no more is held than of a short one, and nothing else is said of it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis import finding
from cotejar.diagnosis.diagnose import diagnose
from cotejar.diagnosis.finding import make_case
from cotejar.diagnosis.replay import replay_sides
from cotejar.diagnosis.reproduction import first_wrong_token
from cotejar.diagnosis.request import Request
from cotejar.engines.native.engine import NativeEngine
from cotejar.engines.oracle import OracleEngine
from cotejar.trace import array_store, forward_trace
from cotejar.trace.array_store import ArrayStore
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture
from cotejar.verdict import Verdict

from .conftest import TOKENS, observe
from .test_peak import SAYS_ITS_PEAK

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Models

CAPTURE = Capture(array_slots=EVERY_ARRAY)


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the models were large: no array stays in memory, logits come by three tokens, the
    search looks at four of twelve."""
    vocab_bytes = 4 * 512  # of a token's logits in float32, at least
    monkeypatch.setattr(ArrayStore.__init__, "__kwdefaults__", {"memory_bytes": 0})
    monkeypatch.setattr(array_store, "MANY_BYTES", vocab_bytes)
    monkeypatch.setattr(array_store.token_parts, "__defaults__", (3 * vocab_bytes,))
    monkeypatch.setattr(forward_trace, "PART_BYTES", 1)
    monkeypatch.setattr(finding, "_MOST_BYTES", 1)
    monkeypatch.setattr(finding, "_FEWEST_ROWS", 4)


FAULTS = {
    "rope-theta": ("layer.0.q_rope", "rope-theta"),
    "head-row-shift": ("logits", "rows-shifted"),
    "head-transposed": ("logits", "weight-transposed"),
    "logit-scale": ("logits", "output-scaled"),
}


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("fault", FAULTS)
def test_the_same_is_found(models: Models, fault: str) -> None:
    path = models.path("llama")

    found = diagnose(
        Request(
            reference=f"oracle:{path}",
            candidate=f"native+f32:{path}",
            token_ids=tuple(TOKENS),
            fault=fault,
        )
    )

    assert (found.site, found.wrong_side) == (FAULTS[fault][0], "candidate")
    assert [cause.id for cause in found.causes][:1] == [FAULTS[fault][1]]


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("pair", ["native+f32", "native+q8"])
def test_a_sound_pair_passes(models: Models, pair: str) -> None:
    path = models.path("qwen2")
    request = Request(
        reference=f"oracle:{path}", candidate=f"{pair}:{path}", token_ids=tuple(TOKENS)
    )

    assert diagnose(request).verdict is Verdict.PASS


def test_logits_by_parts_are_the_logits(models: Models, request: pytest.FixtureRequest) -> None:
    model = models("gemma3")
    engines = [OracleEngine(model), NativeEngine(model, numerics="q8")]
    whole = [engine.trace(TOKENS, capture=CAPTURE) for engine in engines]
    request.getfixturevalue("little_memory")
    parts = [engine.trace(TOKENS, capture=CAPTURE) for engine in engines]

    for a, b in zip(whole, parts, strict=True):
        assert list(a.sites) == list(b.sites)
        assert list(a.arrays) == list(b.arrays)
        # The oracle's float64 products of another number of rows may sum in another order.
        np.testing.assert_allclose(b.arrays["logits"], a.arrays["logits"], rtol=1e-11)
        assert b.sites["logits"].shape == a.sites["logits"].shape
    # Integer dots have no order: ours are the same bits.
    assert whole[1].arrays["logits"].tobytes() == parts[1].arrays["logits"].tobytes()


def test_the_search_looks_at_tokens_up_to_the_last_wrong_one(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "_MOST_BYTES", 1)
    monkeypatch.setattr(finding, "_FEWEST_ROWS", 4)
    model = models("llama")
    trace = NativeEngine(model, numerics="f32").trace(TOKENS, capture=CAPTURE)
    damaged = trace.arrays["logits"].copy()
    damaged[[2, 6]] *= 1.01
    trace.arrays["logits"] = damaged
    side = observe(trace, model)
    error = next(e for e in replay_sides([side]) if not e.explained)

    case = make_case(error, [side])

    assert case.rows is not None
    assert case.rows.tolist() == [3, 4, 5, 6]
    np.testing.assert_array_equal(case.recorded, damaged[3:7].astype(np.float64))
    assert case.error.worst_token == 3
    assert first_wrong_token(case) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says it in /proc")
def test_the_peak_of_64_tokens_is_under_twice_the_file(demo_model: Path) -> None:
    """Sixty-four tokens' arrays of the two sides are three times the file."""
    say_it = SAYS_ITS_PEAK.replace(
        "fault=sys.argv[3]", "fault=sys.argv[3], token_ids=tuple(range(100, 164))"
    )

    told = subprocess.run(
        [
            sys.executable,
            "-c",
            say_it,
            f"native+f32:{demo_model}",
            f"native+f32:{demo_model}",
            "rope-theta@29",
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
        text=True,
    )

    answer, peak_kib = told.stdout.splitlines()
    assert answer == "layer.29.q_rope ['rope-theta']"
    assert int(peak_kib) * 1024 < 2 * demo_model.stat().st_size
