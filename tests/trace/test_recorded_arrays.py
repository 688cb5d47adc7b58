"""Arrays of a trace file are those that its statistics were taken of, or are refused."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cotejar.errors import TraceError
from cotejar.kernels.moments import MEAN_ERROR
from cotejar.trace import recorded_arrays
from cotejar.trace.forward_trace import (
    EVERY_ARRAY,
    Capture,
    EngineInfo,
    ForwardTrace,
    ModelInfo,
    Scope,
    TraceRecorder,
)
from cotejar.trace.recorded_arrays import RecordedArrays
from cotejar.trace.stats import ActivationStats
from cotejar.trace.trace_file import read_trace, write_trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.formats.mapped_file import MappedFile

NAME = "layer.0.ffn_gate"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.trace"


def make_trace(measured: np.ndarray, stored: np.ndarray) -> ForwardTrace:
    """A trace with the statistics of one array and the elements of another."""
    recorder = TraceRecorder(Capture(array_slots=EVERY_ARRAY))
    recorder.record("ffn_gate", measured, 0)
    return ForwardTrace(
        engine=EngineInfo(name="mine", build="1", numerics="f32"),
        model=ModelInfo(name="m", format="gguf", architecture="llama", fingerprint=""),
        config={},
        token_ids=tuple(range(len(measured))),
        positions=tuple(range(len(measured))),
        prompt=None,
        sites=recorder.sites,
        arrays={NAME: stored},
    )


def read_back(path: Path, measured: np.ndarray, stored: np.ndarray) -> np.ndarray:
    write_trace(path, make_trace(measured, stored), overwrite=True)
    return read_trace(path).arrays[NAME]


def test_zeros_beside_real_statistics_are_refused(path: Path) -> None:
    measured = np.array([[1.0, 2.0], [3.0, 4.0]])

    with pytest.raises(TraceError) as caught:
        read_back(path, measured, np.zeros((2, 2)))

    assert str(caught.value) == (
        "error[APR-R001]: an array of the trace is not what its statistics say\n"
        f"  where     {path}, layer.0.ffn_gate\n"
        "  expected  an array with the recorded statistics: 4 values, 0 not finite, 1..4, "
        "mean 2.5, std 1.291\n"
        "  found     4 values, 0 not finite, 0..0, mean 0, std 0 (all)\n"
        "  try       record it again with `apr trace MODEL --payload -o run.trace`"
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_and_was_not_counted_is_refused(path: Path, bad: float) -> None:
    """Beside equal values, so that the counts alone can tell."""
    measured = np.ones((2, 2))
    stored = measured.copy()
    stored[0, 1] = bad

    with pytest.raises(TraceError, match=r"found     4 values, 1 not finite, .* \(all\)"):
        read_back(path, measured, stored)
    with pytest.raises(TraceError, match=r"found     4 values, 0 not finite, .* \(all\)"):
        read_back(path, stored, measured)
    np.testing.assert_array_equal(read_back(path, stored, stored), stored)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("token", [0, 4])
@pytest.mark.parametrize("sign", [1, -1])
def test_one_changed_element_is_refused(
    path: Path, dtype: type[np.floating], token: int, sign: int
) -> None:
    """What may differ is eps and 40 roundings of a float64, of the largest value, 4.

    In float32, two kernels' errors of the mean as well, of an rms of less than 2.4.

    One of 40 elements moves the mean by 1/40 of what it moves itself; three times what may
    differ leaves room for the rounding of the element that is changed.
    """
    measured = np.linspace(-4, 4, 40).reshape(5, 8)[::-1].astype(dtype)
    may_differ = 4 * (float(np.finfo(dtype).eps) + 40 * 2.0**-52)
    may_differ += 2 * MEAN_ERROR * 2.4 if dtype is np.float32 else 0.0
    change = sign * 3 * 40 * may_differ + (float(np.finfo(dtype).tiny) * 120 * sign)
    stored = measured.copy()
    stored[token, 3] += dtype(change)

    with pytest.raises(TraceError, match="an array of the trace is not what its statistics"):
        read_back(path, measured, stored)


def test_the_largest_value_is_held_against_the_largest_value(path: Path) -> None:
    """Among 4000 values its mean hardly moves."""
    measured = np.linspace(-1, 1, 4000, dtype=np.float32).reshape(5, 800)
    stored = measured.copy()
    stored[4, 799] += np.float32(3 * 2.0**-23)

    with pytest.raises(TraceError):
        read_back(path, measured, stored)


def test_the_last_token_is_held_against_its_own_statistics(path: Path) -> None:
    """Two rows exchanged leave the statistics of all tokens as they are."""
    measured = np.arange(12.0).reshape(3, 4)

    with pytest.raises(TraceError, match=r"found     4 values, .*, mean 5\.5, .* \(last\)"):
        read_back(path, measured, measured[[0, 2, 1]])


@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.floats(-1e4, 1e4),
    ),
    st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_a_program_may_store_in_a_narrower_type_than_it_measured_in(
    tmp_path_factory: pytest.TempPathFactory, measured: np.ndarray, dtype: type[np.floating]
) -> None:
    path = tmp_path_factory.getbasetemp() / "narrow.trace"

    stored = measured.astype(dtype)

    assert read_back(path, measured, stored).tobytes() == stored.tobytes()


def statistics_one_by_one(values: Sequence[float]) -> ActivationStats:
    """Welford's way, in Python floats: as a program would that sees one value at a time."""
    mean = deviations = 0.0
    for count, value in enumerate(values, 1):
        step = value - mean
        mean += step / count
        deviations += step * (value - mean)
    return ActivationStats(
        count=len(values),
        nan_count=0,
        inf_count=0,
        zero_count=values.count(0.0),
        min=min(values),
        max=max(values),
        mean=mean,
        sum_squared_deviations=deviations,
    )


def test_a_program_may_sum_in_another_order(path: Path) -> None:
    """In float64 too, where eps alone would leave no room for it."""
    values = np.random.default_rng(0).uniform(1, 2, size=(10, 500))
    trace = make_trace(values, values)
    record = trace.sites[NAME]
    stats = {
        Scope.ALL: statistics_one_by_one(values.reshape(-1).tolist()),
        Scope.LAST: statistics_one_by_one(values[-1].tolist()),
    }

    write_trace(path, replace(trace, sites={NAME: replace(record, stats=stats)}))

    assert read_trace(path).arrays[NAME].tobytes() == values.tobytes()


def test_values_too_large_to_square_are_read(path: Path) -> None:
    values = np.array([[1e200, -1e200]])

    assert read_back(path, values, values).tobytes() == values.tobytes()


def test_the_file_is_opened_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace of a real model has hundreds of arrays; a header is parsed at each opening."""
    opened = []
    real = recorded_arrays.open_mapped

    def counting(path: Path) -> MappedFile:
        opened.append(path)
        return real(path)

    monkeypatch.setattr(recorded_arrays, "open_mapped", counting)
    values = np.ones((2, 3))
    write_trace(path, make_trace(values, values))

    arrays = read_trace(path).arrays
    for _ in range(3):
        np.testing.assert_array_equal(arrays[NAME], values)

    assert (len(opened), list(arrays), len(arrays)) == (1, [NAME], 1)


def test_an_array_is_held_against_its_statistics_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A diagnosis reads an array several times, and its statistics cost more than it does."""
    measured = []
    real = recorded_arrays.measure_rows

    def counting(values: np.ndarray) -> tuple[ActivationStats, ActivationStats]:
        measured.append(values)
        return real(values)

    values = np.ones((2, 3))
    write_trace(path, make_trace(values, values))
    arrays = read_trace(path).arrays
    monkeypatch.setattr(recorded_arrays, "measure_rows", counting)

    assert NAME in arrays
    assert "layer.0.ffn_up" not in arrays
    assert measured == []
    for _ in range(3):
        np.testing.assert_array_equal(arrays[NAME], values)
    assert len(measured) == 1


def test_a_file_that_has_become_shorter_is_refused(path: Path) -> None:
    values = np.ones((2, 3))
    write_trace(path, make_trace(values, values))
    arrays = read_trace(path).arrays
    os.truncate(path, path.stat().st_size - 2 * 9 * 8 - 1)  # the statistics, and one byte

    with pytest.raises(TraceError, match="expected  48 bytes\n  found     the file ends after"):
        arrays[NAME]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux lists them there")
def test_the_file_is_closed_with_the_trace(path: Path) -> None:
    values = np.ones((2, 3))
    write_trace(path, make_trace(values, values))

    def is_open() -> bool:
        return any(
            f.readlink() == path for f in Path("/proc/self/fd").iterdir() if f.is_symlink()
        )

    trace = read_trace(path)
    assert is_open()
    del trace
    assert not is_open()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 16,
        (2).to_bytes(8, "little") + b"{}",
        (9).to_bytes(8, "little") + b"not JSON!",
    ],
)
def test_a_file_that_is_another_by_now_is_refused(path: Path, data: bytes) -> None:
    values = np.ones((2, 3))
    records = make_trace(values, values).sites
    path.write_bytes(data)

    with pytest.raises(TraceError, match="an array of the trace is not what its statistics"):
        RecordedArrays(path, records, ddof=1)


# --- arrays that are large ----------------------------------------------------------------


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if 16 bytes were many: two rows of three float16, or one of three float64."""
    monkeypatch.setattr(recorded_arrays, "MANY_BYTES", 16)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_a_large_array_is_copied_by_rows(path: Path, dtype: type[np.floating]) -> None:
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(dtype)
    write_trace(path, make_trace(values, values))

    arrays = read_trace(path).arrays

    for _ in range(2):
        found = arrays[NAME]
        assert (found.dtype, found.tobytes()) == (values.dtype, values.tobytes())
        assert not found.flags.writeable
    path.write_bytes(b"")  # what was copied is there, whatever becomes of the file
    np.testing.assert_array_equal(arrays[NAME], values)


@pytest.mark.usefixtures("large")
def test_one_changed_value_of_a_large_array_is_refused_each_time(path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(5, 3))
    changed = values.copy()
    changed[3, 1] += 1e-9
    write_trace(path, make_trace(values, changed))
    arrays = read_trace(path).arrays

    for _ in range(2):
        with pytest.raises(
            TraceError, match="an array of the trace is not what its statistics"
        ):
            arrays[NAME]
