"""Encoding against the `gguf` package, byte for byte; round trips; what is refused."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cotejar.errors import EncodingError, TensorShapeError
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import ENCODABLE, decode, encode

TYPES_OF_GGUF = [
    BlockType.F32,
    BlockType.F16,
    BlockType.BF16,
    BlockType.Q4_0,
    BlockType.Q4_1,
    BlockType.Q5_0,
    BlockType.Q5_1,
    BlockType.Q8_0,
]


def sample(kind: str, num_values: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    values = {
        "normal": rng.standard_normal(num_values),
        "small": rng.standard_normal(num_values) * 1e-3,
        "tiny": rng.standard_normal(num_values) * 1e-30,
        "far from zero": rng.random(num_values) + 3,
        "of many sizes": rng.standard_normal(num_values)
        * 10.0 ** rng.integers(-9, 3, num_values),
        "ties": rng.integers(-127, 128, num_values) / 2,
        "constant": np.full(num_values, -0.75),
        "zero": np.zeros(num_values),
    }
    return values[kind].astype(np.float32)


KINDS = [
    "normal",
    "small",
    "tiny",
    "far from zero",
    "of many sizes",
    "ties",
    "constant",
    "zero",
]


@pytest.mark.parametrize("block_type", TYPES_OF_GGUF, ids=lambda one: one.label)
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_those_of_gguf(block_type: BlockType, kind: str) -> None:
    values = sample(kind, 8192)
    with np.errstate(all="ignore"):
        by_gguf = gguf.quantize(values, gguf.GGMLQuantizationType(block_type.value))

    raw = encode(block_type, values)

    assert raw.tobytes() == by_gguf.tobytes()


def test_bf16_rounds_ties_to_even() -> None:
    upper = np.arange(0x3F80, 0x4080, dtype=np.uint32) << 16
    values = np.concatenate([upper | low for low in (0x7FFF, 0x8000, 0x8001)]).view(np.float32)
    by_gguf = gguf.quantize(values, gguf.GGMLQuantizationType.BF16)

    assert encode(BlockType.BF16, values).tobytes() == by_gguf.tobytes()


BLOCK = hnp.arrays(
    np.float32, 32, elements=st.floats(-1000, 1000, width=32, allow_subnormal=False)
)


@given(BLOCK)
def test_a_value_returns_within_half_a_step_of_q8_0(values: np.ndarray) -> None:
    step = np.abs(values).max() / 127

    error = np.abs(decode(BlockType.Q8_0, encode(BlockType.Q8_0, values), 32) - values)

    # 0.5 for the code, 127 / 2048 for the float16 scale; 2**-25 is half its least step
    assert np.all(error <= 0.57 * step + 127 * 2.0**-25)


@given(BLOCK)
def test_a_value_returns_within_a_step_of_q4_0(values: np.ndarray) -> None:
    step = np.abs(values).max() / 8

    error = np.abs(decode(BlockType.Q4_0, encode(BlockType.Q4_0, values), 32) - values)

    # a whole step where 8 is clamped to 7, 8 / 2048 for the float16 scale
    assert np.all(error <= 1.01 * step + 8 * 2.0**-25)


@pytest.mark.parametrize(
    ("block_type", "bound"), [(BlockType.Q4_K, 0.10), (BlockType.Q6_K, 0.03)]
)
def test_a_normal_sample_returns_from_k_quants(block_type: BlockType, bound: float) -> None:
    """Uniform codes over +-3.5 sigma: step / sqrt(12) is 7/15/3.46 = 0.13 and 7/63/3.46 = 0.03.

    A sub-block spreads less than that, so its step is smaller.
    """
    values = sample("normal", 256 * 64)

    error = decode(block_type, encode(block_type, values), values.size) - values

    assert np.sqrt(np.mean(error**2)) < bound


@pytest.mark.parametrize("block_type", sorted(ENCODABLE), ids=lambda one: one.label)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(block_type: BlockType, bad: float) -> None:
    values = sample("normal", 512)
    values[300] = bad

    with pytest.raises(EncodingError) as caught:
        encode(block_type, values)

    assert str(caught.value) == (
        "error[APR-F033]: NaN and Inf cannot be encoded\n"
        f"  where     {block_type.label} tensor of 512 values\n"
        "  expected  finite values\n"
        "  found     1 not finite, the first at index 300\n"
        "  try       `apr tensors FILE --stats` shows which tensors hold them"
    )


@pytest.mark.parametrize(
    "block_type",
    sorted(ENCODABLE - {BlockType.F32, BlockType.APR_Q8}),
    ids=lambda one: one.label,
)
def test_a_value_too_large_for_the_type_is_refused(block_type: BlockType) -> None:
    values = sample("normal", 512)
    values[300] = 3.4e38  # beyond the greatest BF16 and beyond any float16 scale

    with pytest.raises(EncodingError) as caught:
        encode(block_type, values)

    assert str(caught.value) == (
        f"error[APR-F033]: the values are too large for {block_type.label}\n"
        f"  where     {block_type.label} tensor\n"
        "  expected  values and scales that the type's floats can hold\n"
        "  found     a largest magnitude of 3.4e+38\n"
        "  try       keep this tensor in F32, or in BF16"
    )


@pytest.mark.parametrize("block_type", [BlockType.Q4_1, BlockType.Q5_1, BlockType.Q4_K])
def test_a_minimum_too_large_for_the_type_is_refused(block_type: BlockType) -> None:
    values = np.full(256, -1e7, np.float32)  # the scale is 0, the minimum overflows

    with pytest.raises(EncodingError, match="the values are too large"):
        encode(block_type, values)


def test_a_type_that_is_only_read_is_refused() -> None:
    with pytest.raises(EncodingError) as caught:
        encode(BlockType.Q5_K, np.zeros(256, np.float32))

    assert str(caught.value) == (
        "error[APR-F033]: Q5_K can be read but not written\n"
        "  where     encode\n"
        "  expected  APR_Q4, APR_Q8, BF16, F16, F32, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q6_K, Q8_0\n"
        "  found     Q5_K\n"
        "  try       choose one of the types above"
    )


def test_a_tensor_of_part_of_a_block_is_refused() -> None:
    with pytest.raises(TensorShapeError, match="100 values are no whole Q4_0 blocks"):
        encode(BlockType.Q4_0, np.zeros(100, np.float32))
