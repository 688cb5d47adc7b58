"""What an engine reports becomes statistics in the scopes, and arrays, that were asked for."""

from __future__ import annotations

import numpy as np
import pytest

from cotejar.errors import UsageError
from cotejar.trace.forward_trace import (
    Capture,
    Scope,
    TraceRecorder,
    in_forward_order,
)
from cotejar.trace.host import BLAS_SETTINGS, describe_host
from cotejar.trace.site import CAPTURE_POINTS
from cotejar.trace.stats import measure_stats

ACTIVATIONS = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)


def test_each_scope_covers_its_tokens() -> None:
    recorder = TraceRecorder(Capture())

    recorder.record("ffn_gate", ACTIVATIONS, 3)

    record = recorder.sites["layer.3.ffn_gate"]
    assert record.stats[Scope.ALL] == measure_stats(ACTIVATIONS)
    assert record.stats[Scope.LAST] == measure_stats(ACTIVATIONS[-1])
    assert record.stats[Scope.LAST].count == 5
    assert (record.shape, record.dtype) == ((7, 5), "float32")
    assert record.capture_point == CAPTURE_POINTS["ffn_gate"]
    assert recorder.arrays == {}


def test_the_last_scope_alone_keeps_the_last_token_alone() -> None:
    recorder = TraceRecorder(Capture(scopes=(Scope.LAST,), array_slots=frozenset({"ffn_gate"})))

    recorder.record("ffn_gate", ACTIVATIONS, 0)

    assert recorder.sites["layer.0.ffn_gate"].shape == (1, 5)
    assert list(recorder.sites["layer.0.ffn_gate"].stats) == [Scope.LAST]
    np.testing.assert_array_equal(recorder.arrays["layer.0.ffn_gate"], ACTIVATIONS[-1:])


def test_only_the_slots_asked_for_are_kept_whole() -> None:
    recorder = TraceRecorder(Capture(array_slots=frozenset({"logits"})))

    recorder.record("ffn_gate", ACTIVATIONS, 0)
    recorder.record("logits", ACTIVATIONS, None)

    assert list(recorder.arrays) == ["logits"]


def test_an_array_is_a_copy() -> None:
    recorder = TraceRecorder(Capture(array_slots=frozenset({"logits"})))
    activations = ACTIVATIONS.copy()

    recorder.record("logits", activations, None)
    activations[:] = 0

    np.testing.assert_array_equal(recorder.arrays["logits"], ACTIVATIONS)


def test_no_scope_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        TraceRecorder(Capture(scopes=()))

    assert str(caught.value) == (
        "error[APR-U001]: a trace without a scope records nothing\n"
        "  where     capture scopes\n"
        "  expected  all, last or both\n"
        "  found     none\n"
        "  try       leave the scope out to record both"
    )


def test_records_are_put_in_the_order_of_the_pass() -> None:
    recorder = TraceRecorder(Capture())
    for slot, layer in [("logits", None), ("output", 1), ("attn_norm", 1), ("embed", None)]:
        recorder.record(slot, ACTIVATIONS, layer)

    assert list(in_forward_order(recorder.sites)) == [
        *("embed", "layer.1.attn_norm", "layer.1.output", "logits")
    ]


def test_a_host_is_told_from_another_by_what_moves_last_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in BLAS_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    plain = describe_host()
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    forced = describe_host()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")

    assert (plain["blas"], forced["blas"]) == ("", "OPENBLAS_CORETYPE=Haswell")
    assert describe_host()["blas"] == "OPENBLAS_CORETYPE=Haswell OMP_NUM_THREADS=3"
    assert forced == plain | {"blas": forced["blas"]}
    assert int(plain["cores"]) > 0
    assert plain.keys() >= {"processor", "machine", "numpy", "cotejar"}
