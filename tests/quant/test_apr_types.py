"""APR_Q4 and APR_Q8: bytes worked out by hand from the upstream writer's rules."""

from __future__ import annotations

import numpy as np
import pytest

from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import decode, encode


def test_apr_q4_packs_even_values_low_and_odd_values_high() -> None:
    values = np.zeros(32, np.float32)
    values[:4] = 7.0, -7.0, 2.4, -2.5  # scale 1; 2.4 rounds to 2, -2.5 away from zero

    raw = encode(BlockType.APR_Q4, values)

    scale_one = [0x00, 0x3C]
    codes = [(1 << 4) | 15, (5 << 4) | 10, *[0x88] * 14]
    assert raw.tolist() == scale_one + codes
    assert decode(BlockType.APR_Q4, raw, 32)[:4].tolist() == [7.0, -7.0, 2.0, -3.0]


def test_apr_q4_of_zeros_has_scale_one() -> None:
    raw = encode(BlockType.APR_Q4, np.zeros(32, np.float32))

    assert raw.tolist() == [0x00, 0x3C, *[0x88] * 16]


def test_apr_q4_codes_come_from_the_unrounded_scale() -> None:
    values = np.full(32, 0.1, np.float32)
    values[1] = np.float32(0.1) / 14 * np.float32(1.0001)  # just above half a step

    raw = encode(BlockType.APR_Q4, values)

    assert raw[2] == (9 << 4) | 15


def test_apr_q4_leaves_the_rest_of_its_last_block_zero() -> None:
    raw = encode(BlockType.APR_Q4, np.full(35, 7.0, np.float32))

    assert raw[18:].tolist() == [0x00, 0x3C, 0xFF, 0x0F, *[0] * 14]
    assert decode(BlockType.APR_Q4, raw, 35).tolist() == [7.0] * 35


@pytest.mark.parametrize("scale_bits", [0x7E00, 0x7C00, 0x0001])
def test_apr_q4_shows_the_scale_that_the_bytes_hold(scale_bits: int) -> None:
    raw = encode(BlockType.APR_Q4, np.full(32, 7.0, np.float32))
    raw[:2] = scale_bits & 0xFF, scale_bits >> 8

    value = decode(BlockType.APR_Q4, raw, 32)[0]

    expected = np.uint16(scale_bits).view(np.float16).astype(np.float32) * np.float32(7)
    np.testing.assert_equal(value, expected)


def test_apr_q8_shares_one_scale() -> None:
    values = np.array([127.0, -127.0, 0.5, -0.5, 0.49999997], np.float32)

    raw = encode(BlockType.APR_Q8, values)

    assert raw.tolist() == [0x00, 0x00, 0x80, 0x3F, 127, 256 - 127, 1, 255, 0]
    assert decode(BlockType.APR_Q8, raw, 5).tolist() == [127.0, -127.0, 1.0, -1.0, 0.0]


def test_apr_q8_of_zeros_has_scale_one() -> None:
    raw = encode(BlockType.APR_Q8, np.zeros(3, np.float32))

    assert raw.tolist() == [0x00, 0x00, 0x80, 0x3F, 0, 0, 0]
