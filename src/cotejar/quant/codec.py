"""Bytes to float32 and back, for every block type: the face of this room.

`decode` gives the bits that ggml's `dequantize_row_*` gives (a NaN is a NaN; its payload is
not promised). Blocks are decoded a few thousand at a time, so that scratch memory stays
small whatever the tensor's size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import EncodingError, TensorShapeError
from cotejar.quant import apr_types, floats, q2_k, q3_k, q4, q4_k, q5, q5_k, q6_k, q8_0
from cotejar.quant.block_type import BlockType

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float32, UInt8

    from cotejar.quant.block_parts import BlockParts

UNPACKERS: dict[BlockType, Callable[[np.ndarray], BlockParts]] = {
    BlockType.Q4_0: q4.unpack_q4_0,
    BlockType.Q4_1: q4.unpack_q4_1,
    BlockType.Q5_0: q5.unpack_q5_0,
    BlockType.Q5_1: q5.unpack_q5_1,
    BlockType.Q8_0: q8_0.unpack_q8_0,
    BlockType.Q2_K: q2_k.unpack_q2_k,
    BlockType.Q3_K: q3_k.unpack_q3_k,
    BlockType.Q4_K: q4_k.unpack_q4_k,
    BlockType.Q5_K: q5_k.unpack_q5_k,
    BlockType.Q6_K: q6_k.unpack_q6_k,
    BlockType.APR_Q4: apr_types.unpack_apr_q4,
}
"""Every type that consists of blocks with a scale: uint8 (N, bytes per block) to parts."""

_ENCODERS: dict[BlockType, Callable[[np.ndarray], np.ndarray]] = {
    BlockType.Q4_0: q4.encode_q4_0,
    BlockType.Q4_1: q4.encode_q4_1,
    BlockType.Q5_0: q5.encode_q5_0,
    BlockType.Q5_1: q5.encode_q5_1,
    BlockType.Q8_0: q8_0.encode_q8_0,
    BlockType.Q4_K: q4_k.encode_q4_k,
    BlockType.Q6_K: q6_k.encode_q6_k,
    BlockType.APR_Q4: apr_types.encode_apr_q4,
}

ENCODABLE = frozenset({*_ENCODERS, *floats.FLOAT_TYPES, BlockType.APR_Q8})
"""The types that `encode` can write."""

_VALUES_AT_A_TIME = 1 << 16
"""Scratch of one step is a few times this many bytes: it stays in a core's own cache."""


def decode(
    block_type: BlockType, raw: UInt8[np.ndarray, "Y"], num_elements: int
) -> Float32[np.ndarray, "n"]:
    """Decode a whole tensor.

    Args:
        block_type: the type of the bytes.
        raw: exactly the tensor's bytes.
        num_elements: values in the tensor.

    Raises:
        TensorShapeError: the bytes do not hold that many values of that type.
    """
    _check_num_elements(block_type, num_elements)
    _check_num_bytes(block_type, raw, num_elements)
    out = np.empty(num_elements, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        if block_type in floats.FLOAT_TYPES:
            floats.decode_floats(block_type, raw, out)
        elif block_type is BlockType.APR_Q8:
            scale, codes = apr_types.split_apr_q8(raw)
            np.multiply(codes, scale, out=out)
        else:
            _decode_blocks(block_type, raw, out)
    return out


def decode_rows(
    block_type: BlockType,
    raw: UInt8[np.ndarray, "Y"],
    rows: int,
    columns: int,
    start: int,
    stop: int,
) -> Float32[np.ndarray, "R C"]:
    """Decode rows start..stop of a matrix of (rows, columns).

    Raises:
        TensorShapeError: the bytes are not those of such a matrix, a row is not a whole
            number of blocks (APR_Q4 and APR_Q8 have no such rule), or there are no such rows.
    """
    check_matrix(block_type, raw, rows, columns)
    check_rows(block_type, rows, start, stop)
    first, last = start * columns, stop * columns
    if block_type is BlockType.APR_Q8:
        part = np.concatenate([raw[:4], raw[4 + first : 4 + last]])
        return decode(block_type, part, last - first).reshape(stop - start, columns)
    per_block, num_bytes = block_type.elements_per_block, block_type.bytes_per_block
    first_block, last_block = first // per_block, -(-last // per_block)
    skipped = first - first_block * per_block
    num_decoded = min(last_block * per_block, rows * columns) - first_block * per_block
    part = raw[first_block * num_bytes : last_block * num_bytes]
    values = decode(block_type, part, num_decoded)[skipped : skipped + last - first]
    return values.reshape(stop - start, columns)


def check_rows(block_type: BlockType, rows: int, start: int, stop: int) -> None:
    """Refuse rows start..stop that a matrix of `rows` has not, and no rows.

    Raises:
        TensorShapeError: there are no such rows.
    """
    if not 0 <= start < stop <= rows:
        raise TensorShapeError(
            "there are no such rows",
            where=f"{block_type.label} matrix",
            expected=f"one row or more within 0..{rows}",
            found=f"{start}..{stop}",
            hint="this is a defect of the caller; please report it",
        )


def encode(block_type: BlockType, values: Float32[np.ndarray, "n"]) -> UInt8[np.ndarray, "Y"]:
    """Encode a whole tensor, value by value in row-major order.

    Rows are not seen here: that a row is a whole number of blocks is the caller's to check.

    Raises:
        EncodingError: `encode` cannot write the type, or the type cannot hold the values:
            NaN, Inf, or too large for its float16 scale.
        TensorShapeError: the values are no whole number of blocks (APR_Q4 may end in part).
    """
    values = np.ascontiguousarray(values, np.float32).reshape(-1)
    if block_type not in ENCODABLE:
        raise EncodingError(
            f"{block_type.label} can be read but not written",
            where="encode",
            expected=", ".join(sorted(one.label for one in ENCODABLE)),
            found=block_type.label,
            hint="choose one of the types above",
        )
    _check_num_elements(block_type, values.size)
    _check_finite(block_type, values)
    if block_type is BlockType.APR_Q8:
        return apr_types.encode_apr_q8(values)
    if block_type in floats.FLOAT_TYPES:
        raw = floats.encode_floats(block_type, values)
        _check_held(block_type, decode(block_type, raw, values.size), values)
        return raw
    return _encode_blocks(block_type, values)


def check_matrix(
    block_type: BlockType, raw: UInt8[np.ndarray, "Y"], rows: int, columns: int
) -> None:
    """Refuse bytes that are not those of a matrix of (rows, columns).

    Raises:
        TensorShapeError: see `decode_rows`.
    """
    is_flattened = block_type is BlockType.APR_Q4
    if (
        columns < 1
        or rows < 1
        or (columns % block_type.elements_per_block and not is_flattened)
    ):
        raise TensorShapeError(
            f"rows of {columns} values are no whole {block_type.label} blocks",
            where=f"{block_type.label} matrix of {rows} x {columns}",
            expected=f"a multiple of {block_type.elements_per_block} columns, 1 row or more",
            found=f"{rows} rows of {columns} columns",
            hint="the tensor table is wrong, or the file was made with another block size",
        )
    _check_num_bytes(block_type, raw, rows * columns)


def _decode_blocks(
    block_type: BlockType, raw: UInt8[np.ndarray, "Y"], out: Float32[np.ndarray, "n"]
) -> None:
    unpack, width = UNPACKERS[block_type], block_type.elements_per_block
    blocks_NY = raw.reshape(-1, block_type.bytes_per_block)
    num_whole = out.size // width
    out_NW = out[: num_whole * width].reshape(num_whole, width)
    step = _VALUES_AT_A_TIME // width
    for first in range(0, num_whole, step):
        part = slice(first, min(first + step, num_whole))
        unpack(blocks_NY[part]).weights(out_NW[part])
    if num_whole * width < out.size:
        last_1W = np.empty((1, width), np.float32)
        unpack(blocks_NY[num_whole:]).weights(last_1W)
        out[num_whole * width :] = last_1W[0, : out.size - num_whole * width]


def _encode_blocks(
    block_type: BlockType, values: Float32[np.ndarray, "n"]
) -> UInt8[np.ndarray, "Y"]:
    encode_part, width = _ENCODERS[block_type], block_type.elements_per_block
    num_blocks = -(-values.size // width)
    if num_blocks * width > values.size:
        return _encode_last_in_part(block_type, values)
    values_NW = values.reshape(num_blocks, width)
    blocks_NY = np.empty((num_blocks, block_type.bytes_per_block), np.uint8)
    step = _VALUES_AT_A_TIME // width
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, num_blocks, step):
            part = slice(first, first + step)
            blocks_NY[part] = encode_part(values_NW[part])
            scales = UNPACKERS[block_type](blocks_NY[part])
            _check_held(block_type, scales.scale, values_NW[part])
            if scales.offset is not None:
                _check_held(block_type, scales.offset, values_NW[part])
    return blocks_NY.reshape(-1)


def _encode_last_in_part(
    block_type: BlockType, values: Float32[np.ndarray, "n"]
) -> UInt8[np.ndarray, "Y"]:
    """APR_Q4 only. Its writer leaves the unused halves of the last block's bytes zero."""
    num_used = values.size % block_type.elements_per_block
    padded = np.zeros(values.size - num_used + block_type.elements_per_block, np.float32)
    padded[: values.size] = values
    raw = _encode_blocks(block_type, padded)
    codes_16 = raw[-16:]
    codes_16[-(-num_used // 2) :] = 0
    if num_used % 2:
        codes_16[num_used // 2] &= 0x0F
    return raw


def _check_num_elements(block_type: BlockType, num_elements: int) -> None:
    per_block = block_type.elements_per_block
    if num_elements < 1 or (num_elements % per_block and block_type is not BlockType.APR_Q4):
        raise TensorShapeError(
            f"{num_elements} values are no whole {block_type.label} blocks",
            where=f"{block_type.label} tensor",
            expected=f"a multiple of {per_block} values, at least one block",
            found=f"{num_elements} values",
            hint="choose a block type whose block size divides the tensor's rows",
        )


def _check_num_bytes(
    block_type: BlockType, raw: UInt8[np.ndarray, "Y"], num_elements: int
) -> None:
    expected = block_type.num_bytes(num_elements)
    if raw.dtype != np.uint8 or raw.shape != (expected,):
        raise TensorShapeError(
            "the bytes do not hold the tensor",
            where=f"{block_type.label} tensor of {num_elements} values",
            expected=f"uint8 ({expected},)",
            found=f"{raw.dtype} {raw.shape}",
            hint="the tensor table is wrong, or the file is cut short",
        )


def _check_finite(block_type: BlockType, values: Float32[np.ndarray, "n"]) -> None:
    is_broken = ~np.isfinite(values)
    if is_broken.any():
        raise EncodingError(
            "NaN and Inf cannot be encoded",
            where=f"{block_type.label} tensor of {values.size} values",
            expected="finite values",
            found=f"{int(is_broken.sum())} not finite, the first at index {is_broken.argmax()}",
            hint="`apr tensors FILE --stats` shows which tensors hold them",
        )


def _check_held(
    block_type: BlockType,
    written: Float32[np.ndarray, "..."],
    values: Float32[np.ndarray, "..."],
) -> None:
    """Refuse an Inf or NaN that encoding made of finite values: they were too large."""
    if not np.isfinite(written).all():
        raise EncodingError(
            f"the values are too large for {block_type.label}",
            where=f"{block_type.label} tensor",
            expected="values and scales that the type's floats can hold",
            found=f"a largest magnitude of {np.abs(values).max():g}",
            hint="keep this tensor in F32, or in BF16",
        )
