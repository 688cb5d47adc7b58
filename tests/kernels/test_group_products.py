"""Groups of 64 under one scale: how near they are to the weights, and what breaks them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotejar.errors import TensorShapeError
from cotejar.kernels.group_products import GROUP, MOST, factor_shift, group_rows, group_values
from cotejar.kernels.instruction_set import AMX_EMULATED, runnable_isas
from cotejar.kernels.products import multiply_q8, multiply_w8a8, product_of_head
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import ENCODABLE, encode
from cotejar.quant.floats import FLOAT_TYPES

F32 = np.float32
TYPES = sorted(ENCODABLE)
ISAS = (*runnable_isas(), AMX_EMULATED)
INTEGER_TYPES = sorted(ENCODABLE - FLOAT_TYPES)


def weight_of(block_type: BlockType, values: np.ndarray) -> BlockMatrix:
    rows, columns = values.shape
    raw = encode(block_type, values.astype(F32).reshape(-1))
    return BlockMatrix(block_type=block_type, rows=rows, columns=columns, raw=raw)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


def in_groups(values: np.ndarray) -> np.ndarray:
    return np.pad(values, ((0, 0), (0, -values.shape[1] % GROUP))).reshape(
        len(values), -1, GROUP
    )


@pytest.mark.parametrize("block_type", TYPES, ids=lambda one: one.label)
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    spread=st.integers(0, 4),
    shift=st.sampled_from([0.0, 0.3, 3.0, -3.0]),
)
def test_a_code_is_the_nearest_but_for_an_eighth(
    block_type: BlockType, seed: int, spread: int, shift: float
) -> None:
    rng = np.random.default_rng(seed)
    # Neighbouring blocks of other sizes, and of values that are all on one side of 0.
    sizes = F32(10) ** rng.uniform(-spread, 0, (5, 8, 1))
    values = (rng.standard_normal((5, 8, 32)) + shift) * sizes
    weight = weight_of(block_type, values.reshape(5, 256))
    decoded = in_groups(weight.decode_rows(0, 5)).astype(np.float64)

    codes, scale = group_rows(weight, 0, 5)

    off = np.abs(codes * scale[:, :, None].astype(np.float64) - decoded)
    assert (off <= (0.5 + 1 / 8) * scale[:, :, None]).all()
    assert np.abs(codes.astype(int)).max() <= 127


@pytest.mark.parametrize("block_type", [BlockType.Q8_0, BlockType.Q4_0, BlockType.Q6_K])
def test_a_scale_is_not_wasted(block_type: BlockType) -> None:
    """The greatest weight of a group has a code of 7 bits at least."""
    codes, _ = group_rows(weight_of(block_type, normal(8, 512)), 0, 8)

    assert np.abs(codes.astype(int)).max(axis=2).min() >= 64


@pytest.mark.parametrize("most", sorted(set(MOST.values())))
@pytest.mark.parametrize("has_offset", [False, True])
def test_every_factor_fits_sixteen_bits_and_no_bit_is_given_away(
    most: int, has_offset: bool
) -> None:
    shift = factor_shift(most, has_offset=has_offset)
    reach = 254 if has_offset else 127  # codes that a weight can span without its offset

    assert reach / most * (2048 >> shift) <= 32767
    assert shift == 0 or reach / most * (2048 >> (shift - 1)) > 32767
    assert (most << (8 + shift)) <= 1 << 15


def exact_product(weight: BlockMatrix, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """That of the groups, in float64, and how far float32 may be from it.

    8 sums of float32 and as many products of two scales, each rounded once: 16 * 2**-24.
    """
    (codes, scale), (x_codes, x_scale) = (
        group_rows(weight, 0, weight.rows),
        group_values(inputs),
    )
    rows = (codes * scale[:, :, None].astype(np.float64)).reshape(weight.rows, -1)
    tokens = (x_codes * x_scale[:, :, None].astype(np.float64)).reshape(len(inputs), -1)
    return tokens @ rows.T, 16 * 2.0**-24 * (np.abs(tokens) @ np.abs(rows).T)


@pytest.mark.parametrize("block_type", TYPES, ids=lambda one: one.label)
def test_a_product_is_that_of_the_groups(block_type: BlockType) -> None:
    weight, inputs = weight_of(block_type, normal(7, 512)), normal(9, 512, seed=1)

    exact, limit = exact_product(weight, inputs)

    assert (np.abs(multiply_w8a8(weight, inputs) - exact) <= limit).all()


def test_one_code_off_is_beyond_that_limit() -> None:
    weight, inputs = weight_of(BlockType.Q4_0, normal(7, 512)), normal(9, 512, seed=1)
    exact, limit = exact_product(weight, inputs)
    raw = weight.raw.copy()
    raw[2] ^= 1  # the first code of the first row
    wrong = BlockMatrix(block_type=BlockType.Q4_0, rows=7, columns=512, raw=raw)

    is_off = np.abs(multiply_w8a8(wrong, inputs) - exact) > limit

    assert is_off[:, 0].any()
    assert not is_off[:, 1:].any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("columns", [32, 64, 160, 320])
@pytest.mark.parametrize("tokens", [15, 16, 17, 64])
def test_tiles_that_are_full_and_those_that_are_not_give_the_same_bits(
    tokens: int, columns: int, isa: str
) -> None:
    """16 tokens and 16 rows are a tile; groups go in pairs, and the last may be half one."""
    weight = weight_of(BlockType.Q8_0, 9 * normal(37, columns))
    inputs = normal(tokens, columns, seed=1)
    inputs[:, 5] = 100.0  # the greatest code, and with it the least of the others
    inputs[3] = -inputs[3]

    found = multiply_w8a8(weight, inputs, isa=isa)

    assert found.tobytes() == multiply_w8a8(weight, inputs, isa="numpy").tobytes()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_broken_group_breaks_what_it_is_in_and_nothing_else(isa: str, broken: float) -> None:
    values, inputs = normal(20, 128), normal(5, 128, seed=1)
    values[3, 70], inputs[2, 1] = broken, broken
    raw = values.reshape(-1).view(np.uint8)
    weight = BlockMatrix(block_type=BlockType.F32, rows=20, columns=128, raw=raw)

    with np.errstate(all="ignore"):
        found = multiply_w8a8(weight, inputs, isa=isa)

    is_broken = np.zeros((5, 20), bool)
    is_broken[2], is_broken[:, 3] = True, True
    np.testing.assert_array_equal(np.isnan(found), is_broken)


@pytest.mark.parametrize("isa", ISAS)
def test_nothing_at_all_gives_zeros(isa: str) -> None:
    some, none = normal(3, 64), np.zeros((3, 64), F32)

    assert not multiply_w8a8(weight_of(BlockType.Q5_0, none), some, isa=isa).any()
    assert not multiply_w8a8(weight_of(BlockType.Q5_0, some), none, isa=isa).any()


@pytest.mark.parametrize("isa", ISAS)
def test_values_whose_inverse_overflows_count_as_nothing(isa: str) -> None:
    tiny = np.full((1, 64), 1e-42, F32)

    assert not multiply_w8a8(weight_of(BlockType.F32, normal(3, 64)), tiny, isa=isa).any()


def test_other_shapes_are_refused() -> None:
    weight = weight_of(BlockType.Q8_0, normal(3, 64))

    with pytest.raises(TensorShapeError, match="the activations do not fit the weight"):
        multiply_w8a8(weight, normal(2, 32))


def test_the_head_beside_it_is_multiplied_in_q8() -> None:
    assert product_of_head(multiply_w8a8) is multiply_q8
    assert product_of_head(multiply_q8) is multiply_q8
