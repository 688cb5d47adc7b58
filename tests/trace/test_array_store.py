"""Arrays of a run: some in memory, the others in a file without a name."""

from __future__ import annotations

import errno
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cotejar.errors import WriteError
from cotejar.formats.mapped_file import release_pages
from cotejar.trace.array_store import (
    MANY_BYTES,
    MOST_SEGMENTS,
    ArrayStore,
    by_rows,
    token_parts,
)
from cotejar.trace.forward_trace import BOTH_SCOPES, EVERY_ARRAY, Capture, Scope, TraceRecorder

if TYPE_CHECKING:
    import io

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)
ARRAYS = st.lists(
    st.sampled_from((np.float16, np.float32, np.float64)).flatmap(
        lambda dtype: hnp.arrays(dtype, SHAPES)
    ),
    max_size=5,
)


@given(ARRAYS, st.integers(0, 4000))
def test_what_went_in_comes_out(arrays: list[np.ndarray], memory_bytes: int) -> None:
    store = ArrayStore(memory_bytes=memory_bytes)
    for index, array in enumerate(arrays):
        store[str(index)] = array

    assert list(store) == [str(index) for index in range(len(arrays))]
    for index, array in enumerate(arrays):
        found = store[str(index)]
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes()


def test_it_keeps_a_copy() -> None:
    store, values = ArrayStore(), np.ones((2, 3))
    store["embed"] = values

    values[:] = 2

    np.testing.assert_array_equal(store["embed"], np.ones((2, 3)))


def test_what_is_beyond_the_memory_is_mapped_and_stays_as_it_is() -> None:
    store = ArrayStore(memory_bytes=48)
    store["embed"] = store["logits"] = np.arange(6.0).reshape(2, 3)

    assert store["embed"].flags.writeable
    mapped = store["logits"]
    assert not mapped.flags.writeable
    release_pages(mapped)
    np.testing.assert_array_equal(mapped, store["embed"])


def test_holding_every_array_takes_few_file_descriptors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cotejar.trace.array_store.SEGMENT_BYTES", 4096)
    store = ArrayStore(memory_bytes=0)
    for index in range(300):
        store[str(index)] = np.full((32, 32), index, np.float32)
    before = len(list(Path("/proc/self/fd").iterdir()))

    held = list(store.values())

    assert [array[0, 0] for array in held] == list(range(300))
    # So many segments of the least size, and as many again each time the file grows e-fold.
    most = MOST_SEGMENTS * (1 + math.log(300 / MOST_SEGMENTS))
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= most + 1


def test_an_array_is_seen_whole_though_the_file_grew_since_it_was_mapped() -> None:
    store = ArrayStore(memory_bytes=0)
    store["embed"] = np.full((3, 5), 1.0)
    first = store["embed"]

    store["logits"] = np.full((700, 5), 2.0)

    assert (store["logits"] == 2).all()
    assert (first == 1).all()


def test_arrays_of_consecutive_tokens_become_one() -> None:
    rows = np.arange(12.0).reshape(4, 3)
    for memory_bytes in (0, 1000):
        store = ArrayStore(memory_bytes=memory_bytes)
        store.keep_rows("embed", [rows[:1], rows[1:3], rows[3:]])

        np.testing.assert_array_equal(store["embed"], rows)


def test_what_was_taken_out_is_gone() -> None:
    store = ArrayStore()
    store["embed"] = np.ones((1, 1))

    assert store.pop("embed").shape == (1, 1)
    assert ("embed" in store, len(store)) == (False, 0)


@given(st.integers(0, 50), st.integers(0, 9), st.integers(1, 40))
def test_parts_are_all_tokens_in_order(tokens: int, row_bytes: int, most: int) -> None:
    parts = list(token_parts(tokens, row_bytes, most))

    assert [t for rows in parts for t in range(rows.start, rows.stop)] == list(range(tokens))
    assert all(
        rows.stop - rows.start == 1 or (rows.stop - rows.start) * row_bytes <= most
        for rows in parts
    )


def test_a_large_array_is_looked_at_by_rows() -> None:
    values = np.zeros((5, MANY_BYTES // 8 // 2))

    assert [len(part) for part in by_rows(values)] == [2, 2, 1]


def test_no_room_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object, **__: object) -> io.FileIO:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    with pytest.raises(WriteError) as failed:
        ArrayStore(memory_bytes=0)["logits"] = np.ones((2, 3))

    assert failed.value.problem == "the arrays of a run do not fit into the temporary folder"
    assert failed.value.parts == {
        "where": f"{tmp_path}, logits",
        "expected": "room for 48 more bytes",
        "found": "No space left on device",
        "try": "free some space, or let TMPDIR name a folder on another disk",
    }


# --- a recorder that is given the rows by parts -------------------------------------------


@pytest.mark.parametrize("slots", [EVERY_ARRAY, frozenset()])
@pytest.mark.parametrize("scopes", [BOTH_SCOPES, (Scope.ALL,)])
def test_parts_give_what_the_whole_gives(
    slots: frozenset[str], scopes: tuple[Scope, ...]
) -> None:
    values = np.random.default_rng(0).normal(size=(7, 300))
    whole, parts = (TraceRecorder(Capture(scopes=scopes, array_slots=slots)) for _ in "ab")

    whole.record("logits", values, None)
    pieces = (values[i : i + 3] for i in (0, 3, 6))
    parts.record_parts("logits", pieces, values.shape, values.dtype)

    assert list(parts.arrays) == list(whole.arrays)
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(parts.arrays[name], array)
    found, expected = parts.sites["logits"], whole.sites["logits"]
    assert (found.shape, found.dtype, list(found.stats)) == ((7, 300), "float64", list(scopes))
    for scope, stats in expected.stats.items():
        # Float64 sums of 2,100 numbers near 1, in another order: 2,100 x 2**-53 = 2.3e-13.
        assert found.stats[scope].row() == pytest.approx(stats.row(), rel=3e-13, abs=3e-13)


def test_parts_are_asked_for_where_all_positions_count() -> None:
    every, last = (TraceRecorder(Capture(scopes=(scope,))) for scope in (Scope.ALL, Scope.LAST))

    assert (every.takes_parts(1 << 30), last.takes_parts(1 << 30)) == (True, False)
    assert not every.takes_parts(1 << 20)
