"""What encoding may do to a block is bounded, whatever its weights; more is found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cotejar.files.reencoding_check import BOUNDS, find_excess
from cotejar.files.tensor_values import VALUES_AT_A_TIME, TensorValues
from cotejar.formats.convert.reencode import QUANTIZE_TYPES
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import encode

TYPES = pytest.mark.parametrize("block_type", sorted(BOUNDS), ids=lambda one: one.label)


def tensor(values: np.ndarray, block_type: BlockType = BlockType.F32) -> TensorValues:
    flat = values.astype(np.float32).reshape(-1)
    raw = encode(block_type, flat)
    return TensorValues(block_type=block_type, shape=(1, flat.size), raw=raw)


def normal(num_values: int = 512, scale: float = 0.05) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(num_values) * scale


def test_there_is_a_bound_for_every_type_that_an_import_encodes() -> None:
    assert set(BOUNDS) == set(QUANTIZE_TYPES.values())


@TYPES
@given(
    st.one_of(
        hnp.arrays(np.float32, 256, elements=st.floats(-1000, 1000, width=32)),
        hnp.arrays(np.float32, 256, elements=st.sampled_from([-1.0, -0.97, 0.0, 0.03, 1.0])),
        hnp.arrays(np.float32, 256, elements=st.floats(-(2.0**-20), 2.0**-20, width=32)),
        hnp.arrays(np.float32, 256, elements=st.floats(3, 4, width=32)),
    )
)
def test_no_weights_are_encoded_beyond_the_bound(
    block_type: BlockType, values: np.ndarray
) -> None:
    assert find_excess(tensor(values), tensor(values, block_type)) is None


@TYPES
@pytest.mark.parametrize("scale", [1e-3, 0.05, 1.0])
def test_a_block_in_anothers_place_is_found(block_type: BlockType, scale: float) -> None:
    before = normal(scale=scale)
    moved = tensor(np.roll(before, 256), block_type)

    excess = find_excess(tensor(before), moved)

    assert excess is not None
    assert excess.block_index == 0


@TYPES
def test_a_weight_with_the_other_sign_is_found(block_type: BlockType) -> None:
    before = normal()
    after = before.copy()
    after[300] = -np.abs(before).max()
    before[300] = np.abs(before).max()

    excess = find_excess(tensor(before), tensor(after, block_type))

    assert excess is not None
    assert excess.block_index == 300 // block_type.elements_per_block


def test_the_least_excess_of_q8_0_is_found_in_the_second_chunk() -> None:
    """A step is the magnitude / 127: one step and a half is beyond, half a step is not."""
    before = normal(VALUES_AT_A_TIME + 64, scale=1.0)
    block = slice(VALUES_AT_A_TIME + 32, VALUES_AT_A_TIME + 64)
    before[block] = np.linspace(-1, 1, 32)
    after = tensor(before, BlockType.Q8_0)
    raw = after.raw.copy()
    raw[-1] -= 1  # code 127 of the last weight becomes 126

    excess = find_excess(
        tensor(before), TensorValues(block_type=after.block_type, shape=after.shape, raw=raw)
    )

    assert find_excess(tensor(before), after) is None
    assert excess is not None
    assert excess.block_index == VALUES_AT_A_TIME // 32 + 1
    assert excess.sentence.startswith(f"block {VALUES_AT_A_TIME // 32 + 1} of magnitude 1 is")


def test_many_small_errors_of_q4_k_are_found_where_no_single_one_is_too_large() -> None:
    before = np.where(normal(256) > 0, 1.0, -1.0)
    after = 0.8 * before  # off by 0.2 each: one may be by 0.57, their rms by 0.13

    excess = find_excess(tensor(before), tensor(after, BlockType.Q4_K))

    assert excess is not None
    assert excess.error < excess.limit
    assert excess.rms > excess.rms_limit


def test_a_nan_is_an_excess() -> None:
    before = normal()
    after = tensor(before, BlockType.Q8_0)
    raw = after.raw.copy()
    raw[:2] = [0x00, 0x7E]  # the first scale is a float16 NaN

    broken = TensorValues(block_type=after.block_type, shape=after.shape, raw=raw)

    assert find_excess(tensor(before), broken) is not None
