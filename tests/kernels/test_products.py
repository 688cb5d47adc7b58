"""The products `q8` and `f32` against slow references written out one block at a time.

The reference reads the bytes by itself, one weight after another, and forms each term as
`products` promises; the product must have its bits, on every instruction set of this CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.errors import TensorShapeError
from cotejar.kernels import integer_products, lane_products
from cotejar.kernels.instruction_set import NUMPY, runnable_isas
from cotejar.kernels.products import multiply_bf16, multiply_f32, multiply_q8
from cotejar.quant.activations import ActivationType, quantize_activations
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

F32 = np.float32
Block = tuple[np.float32, list[int], np.float32, list[int]]
"""Scale, 32 or 256 codes times sub-scales, offset, and the sub-offset of each code."""


def half(raw: np.ndarray, at: int) -> np.float32:
    return F32(raw[at : at + 2].copy().view("<f2")[0])


def codes_of_32(raw: np.ndarray, low: int, high: int | None, minus: int) -> list[int]:
    codes = []
    for j in range(32):
        code = int(raw[low + j % 16]) >> (4 if j >= 16 else 0) & 15
        if high is not None:
            code |= (int(raw[high + j // 8]) >> (j % 8) & 1) << 4
        codes.append(code - minus)
    return codes


def q4_0(raw: np.ndarray) -> Block:
    return half(raw, 0), codes_of_32(raw, 2, None, 8), F32(0), []


def q4_1(raw: np.ndarray) -> Block:
    return half(raw, 0), codes_of_32(raw, 4, None, 0), half(raw, 2), []


def q5_0(raw: np.ndarray) -> Block:
    return half(raw, 0), codes_of_32(raw, 6, 2, 16), F32(0), []


def q5_1(raw: np.ndarray) -> Block:
    return half(raw, 0), codes_of_32(raw, 8, 4, 0), half(raw, 2), []


def q8_0(raw: np.ndarray) -> Block:
    return half(raw, 0), raw[2:].view(np.int8).tolist(), F32(0), []


def apr_q4(raw: np.ndarray) -> Block:
    codes = [(int(raw[2 + j // 2]) >> 4 * (j % 2) & 15) - 8 for j in range(32)]
    return half(raw, 0), codes, F32(0), []


def bit_pair(raw: np.ndarray, at: int, j: int) -> int:
    return int(raw[at + 32 * (j // 128) + j % 32]) >> (2 * (j // 32 % 4)) & 3


def q2_k(raw: np.ndarray) -> Block:
    codes = [(int(raw[j // 16]) & 15) * bit_pair(raw, 16, j) for j in range(256)]
    return half(raw, 80), codes, half(raw, 82), [int(raw[j // 16]) >> 4 for j in range(256)]


def q3_k(raw: np.ndarray) -> Block:
    codes = []
    for j in range(256):
        sub = j // 16
        low = int(raw[96 + sub % 8]) >> (4 * (sub // 8)) & 15
        top = int(raw[104 + sub % 4]) >> (2 * (sub // 4)) & 3
        third = int(raw[j % 32]) >> (j // 32) & 1
        codes.append((low + 16 * top - 32) * (bit_pair(raw, 32, j) - (0 if third else 4)))
    return half(raw, 108), codes, F32(0), []


def scale_and_minimum(packed: np.ndarray, sub: int) -> tuple[int, int]:
    """ggml's `get_scale_min_k4`."""
    q = packed.tolist()
    if sub < 4:
        return q[sub] & 63, q[sub + 4] & 63
    scale = (q[sub + 4] & 15) | (q[sub - 4] >> 6) << 4
    return scale, (q[sub + 4] >> 4) | (q[sub] >> 6) << 4


def q4_or_5_k(raw: np.ndarray, low: int, high: int | None) -> Block:
    codes, minimums = [], []
    for j in range(256):
        scale, minimum = scale_and_minimum(raw[4:16], j // 32)
        code = int(raw[low + 32 * (j // 64) + j % 32]) >> (4 * (j // 32 % 2)) & 15
        if high is not None:
            code |= (int(raw[high + j % 32]) >> (j // 32) & 1) << 4
        codes.append(scale * code)
        minimums.append(minimum)
    return half(raw, 0), codes, half(raw, 2), minimums


def q6_k(raw: np.ndarray) -> Block:
    sub_scales, codes = raw[192:208].view(np.int8).tolist(), []
    for j in range(256):
        low = int(raw[64 * (j // 128) + j % 64]) >> (4 * (j // 64 % 2)) & 15
        codes.append(sub_scales[j // 16] * (low + 16 * bit_pair(raw, 128, j) - 32))
    return half(raw, 208), codes, F32(0), []


READERS: dict[BlockType, tuple[Callable[[np.ndarray], Block], ActivationType]] = {
    BlockType.Q4_0: (q4_0, ActivationType.Q8_0),
    BlockType.Q4_1: (q4_1, ActivationType.Q8_1),
    BlockType.Q5_0: (q5_0, ActivationType.Q8_0),
    BlockType.Q5_1: (q5_1, ActivationType.Q8_1),
    BlockType.Q8_0: (q8_0, ActivationType.Q8_0),
    BlockType.Q2_K: (q2_k, ActivationType.Q8_K),
    BlockType.Q3_K: (q3_k, ActivationType.Q8_K),
    BlockType.Q4_K: (lambda raw: q4_or_5_k(raw, 16, None), ActivationType.Q8_K),
    BlockType.Q5_K: (lambda raw: q4_or_5_k(raw, 48, 16), ActivationType.Q8_K),
    BlockType.Q6_K: (q6_k, ActivationType.Q8_K),
    BlockType.APR_Q4: (apr_q4, ActivationType.Q8_0),
    BlockType.APR_Q8: (q8_0, ActivationType.Q8_0),  # its blocks come from `blocks_of_row`
}
QUANTISED = list(READERS)
FLOATS = [BlockType.F32, BlockType.F16, BlockType.BF16]


def blocks_of_row(weight: BlockMatrix, row: int) -> Iterator[Block]:
    if weight.block_type is BlockType.APR_Q8:
        scale = F32(weight.raw[:4].copy().view("<f4")[0])
        codes = weight.raw[4 + row * weight.columns :][: weight.columns].view(np.int8)
        for first in range(0, weight.columns, 32):
            yield scale, codes[first : first + 32].tolist(), F32(0), []
        return
    num_bytes = weight.block_type.bytes_per_block
    row_bytes = weight.columns // weight.block_type.elements_per_block * num_bytes
    for at in range(row * row_bytes, (row + 1) * row_bytes, num_bytes):
        yield READERS[weight.block_type][0](weight.raw[at : at + num_bytes])


def reference_q8(weight: BlockMatrix, activations: np.ndarray) -> np.ndarray:
    """The terms and sums of `products`, in numpy float32 scalars, one after another."""
    activation_type = READERS[weight.block_type][1]
    blocks = quantize_activations(activation_type, activations)
    product = np.zeros((len(activations), weight.rows), F32)
    for token, row in np.ndindex(product.shape):
        for block, (scale, codes, offset, sub_offsets) in enumerate(blocks_of_row(weight, row)):
            x = blocks.codes[token, block].tolist()
            d_x = blocks.scale[token, block]
            term = (scale * d_x) * F32(sum(a * b for a, b in zip(codes, x, strict=True)))
            if blocks.scaled_sum is not None:
                term = term + offset * blocks.scaled_sum[token, block]
            elif sub_offsets:
                under = sum(a * b for a, b in zip(sub_offsets, x, strict=True))
                term = term - (offset * d_x) * F32(under)
            product[token, row] = product[token, row] + term
    return product


def columns_of(block_type: BlockType) -> int:
    return 512 if block_type.elements_per_block == 256 else 96


def floats_of(block_type: BlockType) -> list[int]:
    """Where a block's float16 scale and offset stand."""
    at_the_end = {BlockType.Q2_K: [80, 82], BlockType.Q3_K: [108], BlockType.Q6_K: [208]}
    has_offset = block_type in {BlockType.Q4_1, BlockType.Q5_1, BlockType.Q4_K, BlockType.Q5_K}
    return at_the_end.get(block_type, [0, 2] if has_offset else [0])


def random_weight(block_type: BlockType, rows: int, columns: int) -> BlockMatrix:
    """Random bytes with scales of ordinary size: any code, any sub-scale."""
    rng = np.random.default_rng([block_type, rows])
    raw = rng.integers(0, 256, block_type.num_bytes(rows * columns), dtype=np.uint8)
    if block_type is BlockType.APR_Q8:
        raw[:4] = np.array([0.0123], "<f4").view(np.uint8)
    elif block_type is BlockType.F32:
        raw = rng.standard_normal(rows * columns).astype("<f4").view(np.uint8)
    elif block_type in FLOATS:  # an exponent below the middle, so that nothing is Inf or NaN
        raw[1::2] &= 0xBF
    else:
        blocks = raw.reshape(-1, block_type.bytes_per_block)
        for at in floats_of(block_type):
            scales = rng.uniform(-0.02, 0.02, len(blocks)).astype("<f2")
            blocks[:, at : at + 2] = scales[:, None].view(np.uint8)
    return BlockMatrix(block_type=block_type, rows=rows, columns=columns, raw=raw)


def random_activations(num_tokens: int, columns: int) -> np.ndarray:
    rng = np.random.default_rng(columns)
    return rng.standard_normal((num_tokens, columns)).astype(F32)


def same_bits(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.dtype == expected.dtype == F32 and found.tobytes() == expected.tobytes()


@pytest.fixture(params=runnable_isas())
def isa(request: pytest.FixtureRequest) -> str:
    return request.param


FEW_TOKENS = (1, 2, 6)
"""One has kernels of its own, and so has a tile."""


@pytest.mark.parametrize("num_tokens", FEW_TOKENS)
@pytest.mark.parametrize("block_type", QUANTISED, ids=lambda one: one.label)
def test_q8_has_the_bits_of_the_written_out_formula(
    block_type: BlockType, num_tokens: int, isa: str
) -> None:
    weight = random_weight(block_type, 3, columns_of(block_type))
    activations = random_activations(num_tokens, weight.columns)

    product = multiply_q8(weight, activations, isa=isa)

    assert same_bits(product, reference_q8(weight, activations))


@pytest.mark.parametrize("block_type", QUANTISED, ids=lambda one: one.label)
def test_a_tile_of_any_size_has_the_bits_of_the_written_out_formula(
    block_type: BlockType, isa: str
) -> None:
    """Rows go by sixteen, here once and five more; tokens by eight, and the rest."""
    weight = random_weight(block_type, 21, columns_of(block_type))
    activations = random_activations(14, weight.columns)
    expected = reference_q8(weight, activations)

    for num_tokens in (2, 3, 5, 7, 8, 9, 12, 14):
        product = multiply_q8(weight, activations[:num_tokens], isa=isa)

        assert same_bits(product, expected[:num_tokens]), f"{num_tokens} tokens"


@pytest.mark.parametrize("block_type", QUANTISED, ids=lambda one: one.label)
@pytest.mark.parametrize("fill", [0x00, 0x7F, 0x80, 0xFF])
@pytest.mark.parametrize("num_tokens", FEW_TOKENS)
def test_q8_is_exact_at_the_extremes_of_every_code(
    block_type: BlockType, fill: int, num_tokens: int, isa: str
) -> None:
    weight = random_weight(block_type, 1, columns_of(block_type))
    raw = np.full_like(weight.raw, fill)
    if block_type is BlockType.APR_Q8:
        raw[:4] = weight.raw[:4]
    else:
        blocks, old = (x.reshape(-1, block_type.bytes_per_block) for x in (raw, weight.raw))
        if block_type is BlockType.Q6_K:
            blocks[:, 192:208] = 0x80  # with fill 0: -128 * -32, the largest product there is
        for at in floats_of(block_type):
            blocks[:, at : at + 2] = old[:, at : at + 2]
    extreme = BlockMatrix(block_type=block_type, rows=1, columns=weight.columns, raw=raw)
    activations = np.ones((num_tokens, weight.columns), F32)
    activations[:, ::7] = 0.99  # else a sum of equal products would be round in float32 too

    product = multiply_q8(extreme, activations, isa=isa)

    assert same_bits(product, reference_q8(extreme, activations))


@pytest.mark.parametrize("block_type", FLOATS, ids=lambda one: one.label)
@pytest.mark.parametrize("columns", [64, 83])
def test_q8_sums_floats_in_sixteen_lanes(block_type: BlockType, columns: int, isa: str) -> None:
    weight = random_weight(block_type, 3, columns)
    activations = random_activations(2, columns)
    rounded = activations
    if block_type is BlockType.F16:
        rounded = activations.astype(np.float16).astype(F32)
    elif block_type is BlockType.BF16:  # halves never occur in these values
        rounded = ((activations.view(np.uint32) + 0x8000) & 0xFFFF0000).view(F32)
    weights = decode(block_type, weight.raw, 3 * columns).reshape(3, columns)
    expected = np.zeros((2, 3), F32)
    for token, row in np.ndindex(2, 3):
        lanes = [F32(0)] * 16
        for column in range(columns):
            lanes[column % 16] += weights[row, column] * rounded[token, column]
        for width in (8, 4, 2, 1):
            lanes = [lanes[lane] + lanes[lane + width] for lane in range(width)]
        expected[token, row] = lanes[0]

    product = multiply_q8(weight, activations, isa=isa)

    assert same_bits(product, expected)


@pytest.mark.parametrize("block_type", list(BlockType), ids=lambda one: one.label)
def test_q8_does_not_depend_on_how_the_work_is_split(
    block_type: BlockType, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = random_weight(block_type, 37, columns_of(block_type))
    activations = random_activations(21, weight.columns)
    whole = multiply_q8(weight, activations, isa=isa)

    tokens = [multiply_q8(weight, activations[one : one + 1], isa=isa) for one in range(21)]
    few = [multiply_q8(weight, activations[:count], isa=isa) for count in range(2, 18)]
    monkeypatch.setattr(integer_products, "_VALUES_AT_A_TIME", 5 * weight.columns)
    monkeypatch.setattr(integer_products, "_TOKENS_AT_A_TIME", 4)
    monkeypatch.setattr(lane_products, "_SUMS_AT_A_TIME", 16 * 21 * 5)
    in_small_steps = multiply_q8(weight, activations, isa=NUMPY)

    assert same_bits(np.concatenate(tokens), whole)
    assert all(same_bits(product, whole[: len(product)]) for product in few)
    assert same_bits(in_small_steps, whole)


@pytest.mark.parametrize("block_type", QUANTISED, ids=lambda one: one.label)
@pytest.mark.parametrize("defect", ["halves swapped", "one block later", "one bit"])
def test_a_defect_of_one_block_is_seen(block_type: BlockType, defect: str, isa: str) -> None:
    weight = random_weight(block_type, 3, columns_of(block_type))
    activations = random_activations(1, weight.columns)
    broken = weight.raw.copy()
    width = 32 if block_type is BlockType.APR_Q8 else block_type.bytes_per_block
    block = broken[4 : 4 + width] if block_type is BlockType.APR_Q8 else broken[:width]
    if defect == "halves swapped":
        inside = slice(4, 20)
        block[inside] = (block[inside] >> 4) | (block[inside] << 4)
    elif defect == "one block later":
        broken = np.roll(broken, width)
        if block_type is BlockType.APR_Q8:
            broken[:4] = weight.raw[:4]
    else:
        block[10] ^= 1
    faulty = BlockMatrix(block_type=block_type, rows=3, columns=weight.columns, raw=broken)

    product = multiply_q8(faulty, activations, isa=isa)

    assert not same_bits(product, reference_q8(weight, activations))


@pytest.mark.parametrize("block_type", list(BlockType), ids=lambda one: one.label)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_activation_is_not_hidden(block_type: BlockType, bad: float, isa: str) -> None:
    weight = random_weight(block_type, 5, columns_of(block_type))
    activations = random_activations(3, weight.columns)
    clean = multiply_q8(weight, activations, isa=isa)
    activations[1, 40] = bad

    product = multiply_q8(weight, activations, isa=isa)

    assert not np.isfinite(product[1]).any()
    assert same_bits(product[[0, 2]], clean[[0, 2]])


def awkward_activations() -> np.ndarray:
    """Rows of 512: ties of either sign, halves, the very large, the very small, NaN, zeros."""
    rng = np.random.default_rng(7)
    ties = rng.choice([-1.0, -0.25, 0.25, 1.0], 512)
    halves = (rng.integers(-127, 127, 512) + 0.5) / 127
    mixed = rng.standard_normal(512) * 10.0 ** np.repeat(rng.integers(-44, 38, 16), 32)
    broken = rng.standard_normal(512)
    broken[300] = np.nan
    negative = -np.abs(rng.standard_normal(512))
    nothing = np.where(np.arange(512) < 300, -0.0, 0.0)
    rows = [ties, np.clip(halves, -1, 1), mixed, broken, negative, nothing]
    return np.array(rows).astype(F32)


@pytest.mark.parametrize("block_type", [BlockType.Q4_1, BlockType.Q8_0, BlockType.Q6_K])
def test_awkward_activations_are_rounded_as_by_numpy(block_type: BlockType, isa: str) -> None:
    weight = random_weight(block_type, 17, 512)
    inputs = np.tile(awkward_activations(), (3, 1))

    found = multiply_q8(weight, inputs, isa=isa)

    assert same_bits(found, multiply_q8(weight, inputs, isa=NUMPY))


@pytest.mark.parametrize("block_type", list(BlockType), ids=lambda one: one.label)
def test_f32_is_within_the_rounding_of_a_sum(block_type: BlockType, isa: str) -> None:
    weight = random_weight(block_type, 37, columns_of(block_type))
    activations = random_activations(3, weight.columns)
    weights = weight.decode_rows(0, 37).astype(np.float64)
    exact = activations.astype(np.float64) @ weights.T
    magnitude = np.abs(activations.astype(np.float64)) @ np.abs(weights.T)

    product = multiply_f32(weight, activations, isa=isa)

    # C products and C - 1 sums of float32, in any order, each off by 2**-24 at most.
    assert np.all(np.abs(product - exact) <= weight.columns * 2.0**-24 * magnitude)


@pytest.mark.parametrize("multiply", [multiply_q8, multiply_f32, multiply_bf16])
@pytest.mark.parametrize(
    "activations",
    [np.zeros((2, 32), F32), np.zeros(64, F32), np.zeros((2, 64), np.float64), F32(0)],
    ids=["width", "one axis", "float64", "no axis"],
)
def test_activations_that_do_not_fit_are_refused(
    multiply: Callable[[BlockMatrix, np.ndarray], np.ndarray], activations: np.ndarray
) -> None:
    weight = random_weight(BlockType.Q8_0, 3, 64)

    with pytest.raises(TensorShapeError) as caught:
        multiply(weight, activations)

    assert str(caught.value) == (
        "error[APR-F018]: the activations do not fit the weight\n"
        "  where     product with a weight of 3 x 64\n"
        "  expected  float32 (tokens, 64)\n"
        f"  found     {activations.dtype} {activations.shape}\n"
        "  try       a shape in the model's configuration or tensor table is wrong"
    )


def test_q8_refuses_rows_that_activations_cannot_be_rounded_to() -> None:
    weight = random_weight(BlockType.APR_Q4, 3, 48)

    with pytest.raises(TensorShapeError, match="rows of 48 values are no whole Q8_0 blocks"):
        multiply_q8(weight, random_activations(1, 48))
