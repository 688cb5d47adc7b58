"""Codecs, rounded activations and integer dots against ggml's own compiled C.

`llama-cpp-python` carries ggml as shared libraries; they are called through ctypes, so no
model is loaded. Skipped where it is not installed.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from cotejar.kernels.integer_products import ACTIVATION_TYPES
from cotejar.kernels.products import multiply_q8
from cotejar.quant.activations import (
    ActivationType,
    QuantizedActivations,
    quantize_activations,
)
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType, ListedType
from cotejar.quant.codec import decode, encode

pytestmark = pytest.mark.cross

GGML_TYPES = [one for one in ACTIVATION_TYPES if one < 64]
ENCODED = [
    BlockType.Q4_0,
    BlockType.Q4_1,
    BlockType.Q5_0,
    BlockType.Q5_1,
    BlockType.Q8_0,
    BlockType.Q4_K,
    BlockType.Q6_K,
]


def ggml_name(block_type: BlockType) -> str:
    """ggml spells Q4_0 `q4_0` and Q4_K `q4_K`."""
    return block_type.label.replace("Q", "q")


def load(name: str) -> ctypes.CDLL:
    package = importlib.util.find_spec("llama_cpp")
    if package is None or package.origin is None:
        pytest.skip("llama-cpp-python is not installed")
    return ctypes.CDLL(
        str(Path(package.origin).parent / "lib" / f"lib{name}.so"), ctypes.RTLD_GLOBAL
    )


@pytest.fixture(scope="module")
def ggml_base() -> ctypes.CDLL:
    return load("ggml-base")


@pytest.fixture(scope="module")
def ggml_cpu(ggml_base: ctypes.CDLL) -> ctypes.CDLL:
    library = load("ggml-cpu")
    library.ggml_cpu_init()  # fills the float16 table that the dots read
    return library


@pytest.mark.parametrize(
    "kind", [k for k in (*BlockType, *ListedType) if k < 64], ids=lambda kind: kind.label
)
def test_every_type_has_the_blocks_of_ggml(
    ggml_base: ctypes.CDLL, kind: BlockType | ListedType
) -> None:
    name, values, num_bytes = (
        ggml_base.ggml_type_name,
        ggml_base.ggml_blck_size,
        ggml_base.ggml_type_size,
    )
    name.restype, values.restype, num_bytes.restype = (
        ctypes.c_char_p,
        ctypes.c_int64,
        ctypes.c_size_t,
    )

    assert name(int(kind)).decode().upper() == kind.label
    assert (values(int(kind)), num_bytes(int(kind))) == (
        kind.elements_per_block,
        kind.bytes_per_block,
    )


def convert(
    library: ctypes.CDLL, function: str, source: np.ndarray, result: np.ndarray, count: int
) -> None:
    """Call `function(source, result, count)`, the shape of every row converter of ggml."""
    run = getattr(library, function)
    run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    run.restype = None
    run(source.ctypes.data, result.ctypes.data, count)


def sample(kind: str, num_values: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    normal = rng.standard_normal(num_values)
    scale_of_16 = np.repeat(10.0 ** rng.integers(-20, 3, num_values // 16), 16)
    values = {
        "normal": normal,
        "tiny": normal * 1e-36,
        "far from zero": np.abs(normal) + 3,
        "of many sizes": normal * 10.0 ** rng.integers(-10, 3, num_values),
        "sub-blocks of many sizes": normal * scale_of_16,
        "few values": rng.integers(-3, 4, num_values),
        "sparse": np.where(rng.random(num_values) < 0.05, normal, 0),
        "constant runs": np.repeat(normal[::32], 32),
        "zero": np.zeros(num_values),
    }
    return values[kind].astype(np.float32)


KINDS = [
    "normal",
    "tiny",
    "far from zero",
    "of many sizes",
    "sub-blocks of many sizes",
    "few values",
    "sparse",
    "constant runs",
    "zero",
]


@pytest.mark.parametrize("block_type", ENCODED, ids=lambda one: one.label)
@pytest.mark.parametrize("kind", KINDS)
def test_encoding_gives_the_bytes_of_ggml(
    ggml_base: ctypes.CDLL, block_type: BlockType, kind: str
) -> None:
    values = sample(kind, 256 * 128)
    expected = np.zeros(block_type.num_bytes(values.size), np.uint8)
    name = f"quantize_row_{ggml_name(block_type)}_ref"
    convert(ggml_base, name, values, expected, values.size)

    raw = encode(block_type, values)

    assert raw.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "block_type", [BlockType.Q4_K, BlockType.Q6_K], ids=lambda one: one.label
)
def test_encoding_subnormal_values_gives_the_bytes_of_ggml(
    ggml_base: ctypes.CDLL, block_type: BlockType
) -> None:
    """Scales overflow when inverted here; the search must go wrong exactly as ggml's does."""
    values = sample("normal", 256 * 16) * np.float32(1e-41)
    expected = np.zeros(block_type.num_bytes(values.size), np.uint8)
    name = f"quantize_row_{ggml_name(block_type)}_ref"
    convert(ggml_base, name, values, expected, values.size)

    assert encode(block_type, values).tobytes() == expected.tobytes()


@pytest.mark.parametrize("block_type", GGML_TYPES, ids=lambda one: one.label)
def test_decoding_gives_the_bits_of_ggml(ggml_base: ctypes.CDLL, block_type: BlockType) -> None:
    num_values = 256 * 256
    rng = np.random.default_rng(block_type)
    raw = rng.integers(0, 256, block_type.num_bytes(num_values), dtype=np.uint8)
    expected = np.zeros(num_values, np.float32)
    convert(ggml_base, f"dequantize_row_{ggml_name(block_type)}", raw, expected, num_values)

    values = decode(block_type, raw, num_values)

    is_nan = np.isnan(expected)
    assert np.array_equal(np.isnan(values), is_nan)
    assert values[~is_nan].tobytes() == expected[~is_nan].tobytes()


def pack(activation_type: ActivationType, blocks: QuantizedActivations) -> np.ndarray:
    """The blocks in ggml's own layout: uint8 (T, bytes of a row)."""
    num_tokens, num_blocks, _ = blocks.codes.shape
    parts = [blocks.codes.view(np.uint8)]
    if activation_type is ActivationType.Q8_K:
        assert blocks.group_sums is not None
        sums = np.ascontiguousarray(blocks.group_sums).astype("<i2")
        scale = blocks.scale.astype("<f4")[:, :, None]
        parts = [scale.view(np.uint8), *parts, sums.view(np.uint8)]
    else:
        floats = [blocks.scale]
        if blocks.scaled_sum is not None:
            floats.append(blocks.scaled_sum)
        parts = [one.astype("<f2")[:, :, None].view(np.uint8) for one in floats] + parts
    packed = np.concatenate(parts, axis=2)
    return packed.reshape(num_tokens, num_blocks * packed.shape[2])


@pytest.mark.parametrize("activation_type", list(ActivationType))
@pytest.mark.parametrize("kind", KINDS)
def test_rounded_activations_have_the_bytes_of_ggml(
    ggml_base: ctypes.CDLL, activation_type: ActivationType, kind: str
) -> None:
    values = sample(kind, 256 * 128)[None]
    packed = pack(activation_type, quantize_activations(activation_type, values))
    expected = np.zeros_like(packed)
    name = f"quantize_row_{activation_type.value.replace('Q', 'q')}_ref"
    convert(ggml_base, name, values, expected, values.size)

    assert packed.tobytes() == expected.tobytes()


def random_weight(block_type: BlockType, rows: int, columns: int) -> BlockMatrix:
    """Every block's codes and sub-scales at random, its float16 scales of ordinary size."""
    rng = np.random.default_rng(block_type)
    num_blocks = rows * columns // block_type.elements_per_block
    blocks = rng.integers(0, 256, (num_blocks, block_type.bytes_per_block), dtype=np.uint8)
    at_the_end = {BlockType.Q2_K: [80, 82], BlockType.Q3_K: [108], BlockType.Q6_K: [208]}
    has_offset = block_type in {BlockType.Q4_1, BlockType.Q5_1, BlockType.Q4_K, BlockType.Q5_K}
    for at in at_the_end.get(block_type, [0, 2] if has_offset else [0]):
        scales = rng.uniform(-0.02, 0.02, (num_blocks, 1)).astype("<f2")
        blocks[:, at : at + 2] = scales.view(np.uint8)
    return BlockMatrix(
        block_type=block_type, rows=rows, columns=columns, raw=blocks.reshape(-1)
    )


def sum_of_magnitudes(weight: BlockMatrix, blocks: QuantizedActivations) -> np.ndarray:
    """Of every output, the sum of the magnitudes of all that is added: float64 (T, R)."""
    parts = weight.unpack_rows(0, weight.rows)
    codes = np.abs(parts.codes.astype(np.float64))
    if parts.sub_scales is not None:
        sub_scales = np.abs(parts.sub_scales.astype(np.float64))
        codes *= np.repeat(sub_scales, 256 // sub_scales.shape[1], axis=1)
    codes *= np.abs(parts.scale[:, None])
    x = np.abs(blocks.codes.astype(np.float64)) * blocks.scale[:, :, None]
    total = np.abs(x).reshape(len(x), -1) @ codes.reshape(weight.rows, -1).T
    if parts.offset is not None:
        offset = np.abs(parts.offset.astype(np.float64))[:, None]
        if parts.sub_offsets is None:
            assert blocks.scaled_sum is not None
            total += np.abs(blocks.scaled_sum) @ offset.reshape(weight.rows, -1).T
        else:
            assert blocks.group_sums is not None
            per_group = np.repeat(parts.sub_offsets, 16 // parts.sub_offsets.shape[1], axis=1)
            sums = np.abs(blocks.group_sums * np.abs(blocks.scale)[:, :, None])
            total += sums.reshape(len(x), -1) @ (offset * per_group).reshape(weight.rows, -1).T
    return total


DOTS = [
    pytest.param(block_type, variant, id=f"{block_type.label}{variant}")
    for block_type in GGML_TYPES
    for variant in ("", "_generic")
    # gcc 12 compiles the portable Q5_0 dot wrongly for AVX512-VNNI: a code of -16 counts as
    # 240 (a block of -16s against ones gives 7680, not -512).
    if (block_type, variant) != (BlockType.Q5_0, "_generic")
]


@pytest.mark.parametrize(("block_type", "variant"), DOTS)
def test_integer_products_agree_with_the_dots_of_ggml(
    ggml_cpu: ctypes.CDLL, block_type: BlockType, variant: str
) -> None:
    """Same integers and scales on both sides; only the order of the float sums differs.

    Each side rounds a term at most 4 times and adds the terms of B blocks, ggml over up to
    16 lanes that it folds last: an error below (B + 20) * 2**-24 of the sum of magnitudes on
    each side, whatever the order.
    """
    activation_type = ACTIVATION_TYPES[block_type]
    weight = random_weight(block_type, 24, 1024)
    activations = np.random.default_rng(5).standard_normal((3, 1024)).astype(np.float32)
    blocks = quantize_activations(activation_type, activations)
    packed = pack(activation_type, blocks)
    x_name = activation_type.value.replace("Q", "q")
    dot = getattr(ggml_cpu, f"ggml_vec_dot_{ggml_name(block_type)}_{x_name}{variant}")
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    dot.argtypes = [ctypes.c_int, pointer, size, pointer, size, pointer, size, ctypes.c_int]
    dot.restype = None
    expected = np.zeros((3, 24), np.float32)
    row_bytes = weight.raw.size // 24
    for token, row in np.ndindex(expected.shape):
        result = ctypes.c_float()
        weight_at = weight.raw.ctypes.data + row * row_bytes
        x_at = packed[token].ctypes.data
        dot(1024, ctypes.byref(result), 0, weight_at, 0, x_at, 0, 1)
        expected[token, row] = result.value

    product = multiply_q8(weight, activations)

    num_blocks = 1024 // block_type.elements_per_block
    bound = 2 * (num_blocks + 20) * 2.0**-24 * sum_of_magnitudes(weight, blocks)
    error = np.abs(product.astype(np.float64) - expected)
    assert np.all(error <= bound)
    assert np.all(bound < 0.01 * np.abs(expected).max())  # it would see a wrong code
