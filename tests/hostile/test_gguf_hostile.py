"""Whatever the bytes, a GGUF opens or is refused: no other exception, no lost memory.

A small whole file is cut at every byte, each byte of its header region is changed, and
every 4 and 8 bytes of it are set to the extremes that counts, lengths and offsets have.
"""

from __future__ import annotations

import numpy as np
import pytest

from cotejar.formats.gguf.reader import open_gguf
from cotejar.formats.gguf.value import GgufValue, ValueType
from cotejar.formats.gguf.writer import GgufTensor, write_gguf
from cotejar.quant.block_type import BlockType

EXTREMES = [
    (width, value.to_bytes(width, "little"))
    for width, values in (
        (4, (0, 2**31, 2**32 - 1)),
        (8, (0, 2**31, 2**32 - 1, 2**63, 2**64 - 1)),
    )
    for value in values
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[bytes, int]:
    """A whole file with every kind of value, and where its header region ends."""
    path = tmp_path_factory.mktemp("whole") / "whole.gguf"
    metadata = {
        "general.alignment": GgufValue.encode(ValueType.UINT32, 32),
        "split.count": GgufValue.encode(ValueType.UINT16, 1),
        "text": GgufValue.encode(ValueType.STRING, "llama"),
        "flag": GgufValue.encode(ValueType.BOOL, value=True),
        "wide": GgufValue.encode(ValueType.FLOAT64, 0.5),
        "strings": GgufValue.encode_array(ValueType.STRING, ["a", "bc", ""]),
        "flags": GgufValue.encode_array(ValueType.BOOL, [True, False]),
        "numbers": GgufValue.encode_array(ValueType.INT32, [1, -2, 3]),
    }
    layouts = [(BlockType.F32, (3, 4)), (BlockType.Q8_0, (2, 32)), (BlockType.Q4_K, (256,))]
    tensors = [
        GgufTensor(
            name=f"t{index}",
            block_type=kind,
            shape=shape,
            data=np.full(kind.num_bytes(int(np.prod(shape))), index, np.uint8),
        )
        for index, (kind, shape) in enumerate(layouts)
    ]
    write_gguf(path, metadata=metadata, tensors=tensors)
    with open_gguf(path) as file:
        return path.read_bytes(), file.tensors["t0"].offset_bytes


open_file = open_gguf
"""What the fixture `outcome` reads with."""


def test_the_file_is_whole_to_begin_with(whole, outcome) -> None:
    assert outcome(whole[0]) == "whole"


def test_a_file_cut_anywhere_is_refused(whole, outcome) -> None:
    data, _ = whole
    last = len(data) - data[-32:].count(b"\0")  # up to there it is tensors, not padding

    outcomes = {size: outcome(data[:size]) for size in range(len(data))}

    assert [size for size, result in outcomes.items() if result == "whole"] == list(
        range(last, len(data))
    )
    assert set(outcomes.values()) <= {"APR-F014", "APR-F015", "APR-F019", "whole"}


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_changed_byte_of_the_header_region_is_survived(whole, outcome, flip: int) -> None:
    data, end = whole

    outcomes = []
    for offset in range(end):
        changed = bytearray(data)
        changed[offset] ^= flip
        outcomes.append(outcome(bytes(changed)))

    assert len(outcomes) == end
    assert outcomes[0] == "APR-F011"  # the magic
    assert outcomes.count("whole") < end / 2  # most of the bytes matter


@pytest.mark.parametrize(("width", "extreme"), EXTREMES)
def test_an_extreme_anywhere_in_the_header_region_is_survived(
    whole, outcome, width: int, extreme: bytes
) -> None:
    data, end = whole

    outcomes = [
        outcome(data[:offset] + extreme + data[offset + width :])
        for offset in range(end - width + 1)
    ]

    assert outcomes[8] != "whole"  # the tensor count
    assert outcomes[16] != "whole"  # the key count
    assert "APR-F014" in outcomes or int.from_bytes(extreme, "little") == 0
