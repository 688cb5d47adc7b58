"""Several passes over consecutive tokens make one trace, as one pass would."""

from __future__ import annotations

import numpy as np
import pytest

from cotejar.engines.tracing import join_recorders
from cotejar.kernels.moments import STD_ERROR
from cotejar.trace.forward_trace import BOTH_SCOPES, Capture, Scope, TraceRecorder

ROWS_TW = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
SLOTS = ("ffn_up", "ffn_out")


def recorded(rows_TW: np.ndarray, capture: Capture) -> TraceRecorder:
    recorder = TraceRecorder(capture)
    for factor, slot in enumerate(SLOTS, 1):
        recorder.record(slot, factor * rows_TW, 3)
    return recorder


@pytest.mark.parametrize("scopes", [BOTH_SCOPES, (Scope.ALL,), (Scope.LAST,)])
@pytest.mark.parametrize("lengths", [(9,), (4, 5), (1, 7, 1)])
def test_parts_are_joined_to_what_one_pass_records(
    scopes: tuple[Scope, ...], lengths: tuple[int, ...]
) -> None:
    capture = Capture(scopes=scopes, array_slots=frozenset({"ffn_out"}))
    parts = np.split(ROWS_TW, np.cumsum(lengths)[:-1])

    joined = join_recorders([recorded(part, capture) for part in parts], capture)

    whole = recorded(ROWS_TW, capture)
    assert joined.sites.keys() == whole.sites.keys()
    assert joined.arrays.keys() == whole.arrays.keys() == {"layer.3.ffn_out"}
    assert np.array_equal(joined.arrays["layer.3.ffn_out"], whole.arrays["layer.3.ffn_out"])
    for name, record in joined.sites.items():
        assert record.shape == whole.sites[name].shape
        assert [*record.stats] == list(scopes)
        for scope in scopes:
            found, expected = record.stats[scope], whole.sites[name].stats[scope]
            assert found.row()[:6] == expected.row()[:6]
            # A kernel measured either, in other blocks; STD_ERROR is the larger of its errors.
            error = 2 * STD_ERROR * expected.rms
            np.testing.assert_allclose(found.row()[6:], expected.row()[6:], rtol=0, atol=error)
