"""A tensor's values in chunks are the tensor's values."""

from __future__ import annotations

import numpy as np
import pytest

from cotejar.files.tensor_values import (
    VALUES_AT_A_TIME,
    TensorValues,
    have_same_bytes,
    measure_chunks,
    split_array,
)
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import decode
from cotejar.trace.stats import measure_stats

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("block_type", list(BlockType))
@pytest.mark.parametrize("rows", [1, 3])
def test_chunks_are_what_decoding_the_whole_gives(block_type: BlockType, rows: int) -> None:
    shape = (rows, VALUES_AT_A_TIME // 2 + 256)
    num_elements = shape[0] * shape[1]
    raw = RNG.integers(0, 128, block_type.num_bytes(num_elements), np.uint8)
    tensor = TensorValues(block_type=block_type, shape=shape, raw=raw)

    chunks = list(tensor.chunks())

    assert max(map(len, chunks)) <= VALUES_AT_A_TIME
    whole = decode(block_type, raw, num_elements)
    assert np.concatenate(chunks).tobytes() == whole.tobytes()
    assert tensor.rows(rows - 1, rows).tobytes() == whole[-shape[1] :].tobytes()


def test_a_last_block_in_part_is_decoded_in_part() -> None:
    num_elements = VALUES_AT_A_TIME + 5  # APR_Q4 cuts a tensor into blocks whatever its rows
    raw = RNG.integers(0, 128, BlockType.APR_Q4.num_bytes(num_elements), np.uint8)
    tensor = TensorValues(block_type=BlockType.APR_Q4, shape=(num_elements,), raw=raw)

    assert [len(chunk) for chunk in tensor.chunks()] == [VALUES_AT_A_TIME, 5]


def test_an_array_is_cut_at_the_same_places() -> None:
    values = np.zeros((3, VALUES_AT_A_TIME // 2 + 256), np.float32)
    raw = values.reshape(-1).view(np.uint8)
    tensor = TensorValues(block_type=BlockType.F32, shape=values.shape, raw=raw)

    assert [len(c) for c in split_array(values)] == [len(c) for c in tensor.chunks()]


def test_statistics_of_chunks_are_those_of_the_whole() -> None:
    values = RNG.standard_normal(2 * VALUES_AT_A_TIME + 100) + 3
    values[[5, -5]] = np.nan, np.inf

    found, whole = measure_chunks(split_array(values)), measure_stats(values)

    assert (found.count, found.nan_count, found.inf_count) == (values.size, 1, 1)
    assert (found.min, found.max) == (whole.min, whole.max)
    # Sums of 131,172 float64 terms in two orders, each rounding at most 2**-53 relative.
    assert found.mean == pytest.approx(whole.mean, rel=values.size * 2**-53)
    assert found.std == pytest.approx(whole.std, rel=values.size * 2**-53)


def test_a_signalling_nan_is_counted_like_any_other() -> None:
    values = np.array([0x7F800001, 0x3F800000], np.uint32).view(np.float32)

    found = measure_chunks([values])

    assert (found.nan_count, found.mean) == (1, 1.0)


def test_statistics_of_nothing_count_nothing() -> None:
    assert measure_chunks([]).count == 0


def test_bytes_are_compared_to_the_last_one() -> None:
    a = np.zeros(5 << 20, np.uint8)
    b = a.copy()
    assert have_same_bytes(a, b)

    b[-1] = 1

    assert not have_same_bytes(a, b)
    assert not have_same_bytes(a, b[:-1])
