"""Arrays over reused memory: never shared by two that live."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from cotejar.kernels import _compiled
from cotejar.kernels.arrays import add_arrays, empty_array

SHAPES = [(3, 5), (1 << 15,), (300, 700), (2, 3, 1_000_000)]


@pytest.mark.parametrize("shape", SHAPES)
def test_arrays_that_live_share_no_memory(shape: tuple[int, ...]) -> None:
    arrays = []
    for number in range(20):
        array = empty_array(shape)
        array[...] = number
        arrays.append(array)
        if number % 3 == 2:
            del arrays[0]

    assert all(array.shape == shape and array.dtype == np.float32 for array in arrays)
    assert [np.unique(array).tolist() for array in arrays] == [
        [float(number)] for number in range(6, 20)
    ]


def test_memory_is_used_again() -> None:
    script = (
        "from cotejar.kernels.arrays import empty_array\n"
        "print(len({empty_array((500, 500)).ctypes.data for _ in range(9)}))"
    )

    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)

    assert result.stdout.split() == [b"1"]


def test_a_view_keeps_the_memory() -> None:
    array = empty_array((500, 500))
    array[...] = 1
    row = array[7]
    del array
    empty_array((500, 500))[...] = 2

    assert np.all(row == 1)


def test_shapes_that_overflow_are_refused() -> None:
    for shape in [(1 << 31,), (1 << 30, 1 << 30, 1 << 30)]:
        with pytest.raises(ValueError, match=r"an axis out of range|too many values"):
            _compiled.empty(shape)


def test_memory_that_there_is_not_is_a_memory_error() -> None:
    with pytest.raises(MemoryError):
        _compiled.empty((1 << 29, 1 << 29))


def test_a_sum_is_numpys() -> None:
    a, b = np.random.default_rng(1).standard_normal((2, 300, 300)).astype(np.float32)

    assert np.array_equal(add_arrays(a, b), a + b)


@pytest.mark.parametrize("count", [1, 1024, 3 << 19])
def test_making_pages_leaves_the_bytes(count: int) -> None:
    arrays = [np.arange(count, dtype=np.float32) for _ in range(3)]

    _compiled.make_pages([*arrays, np.empty(0, np.float32)])

    assert all(np.array_equal(array, np.arange(count, dtype=np.float32)) for array in arrays)
