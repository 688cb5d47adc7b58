"""Whatever the bytes, safetensors open or are refused: no other exception, no lost memory.

A small whole file is cut at every byte, each byte of its header is changed, its length is
set to extremes, and every figure in its JSON to values of other kinds.
"""

from __future__ import annotations

import json
import struct

import pytest

from cotejar.formats.safetensors.reader import open_safetensors

HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
    "b": {"dtype": "BF16", "shape": [3], "data_offsets": [8, 14]},
}
DATA = bytes(range(14))
WRONG_VALUES = [None, True, -1, 0, 1, 2**63, 2**200, 1.5, 1e300, "F32", "", [], [0, 0], {}]


def encode(header: object, data: bytes = DATA) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


open_file = open_safetensors
"""What the fixture `outcome` reads with."""


def test_the_file_is_whole_to_begin_with(outcome) -> None:
    assert outcome(encode(HEADER)) == "whole"


def test_a_file_cut_anywhere_is_refused(outcome) -> None:
    data = encode(HEADER)
    outcomes = {outcome(data[:n]) for n in range(len(data))}
    assert outcomes == {"APR-F014", "APR-F019"}


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80, 0xFF])
def test_a_changed_byte_of_the_header_is_survived(outcome, flip: int) -> None:
    data = encode(HEADER)
    outcomes = []
    for offset in range(len(data) - len(DATA)):
        changed = bytearray(data)
        changed[offset] ^= flip
        outcomes.append(outcome(bytes(changed)))
    assert "whole" not in outcomes[:8]  # the length
    assert outcomes.count("whole") < len(outcomes) / 2  # but for names and texts, all matter


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**32 - 1, 10**8, 2**63, 2**64 - 1])
def test_a_length_beyond_the_file_is_refused(outcome, length: int) -> None:
    data = struct.pack("<Q", length) + encode(HEADER)[8:]
    wanted = {0: "APR-F016", 1: "APR-F016", 10**8: "APR-F014"}.get(length, "APR-F015")
    assert outcome(data) == wanted


@pytest.mark.parametrize("name", ["a", "b", "__metadata__"])
@pytest.mark.parametrize("value", WRONG_VALUES, ids=repr)
def test_values_of_another_kind_are_survived(outcome, name, value) -> None:
    assert outcome(encode(HEADER | {name: value})) != "whole" or value == {}
    if name == "__metadata__":
        return
    for field in ("dtype", "shape", "data_offsets"):
        changed = outcome(encode(HEADER | {name: HEADER[name] | {field: value}}))
        assert changed != "whole" or value == HEADER[name][field]
    for field in ("shape", "data_offsets"):
        inner = [value, *HEADER[name][field][1:]]
        changed = outcome(encode(HEADER | {name: HEADER[name] | {field: inner}}))
        assert changed != "whole" or inner == HEADER[name][field]


def test_nesting_is_refused_in_little_memory(outcome) -> None:
    text = b'{"a":' + b"[" * (1 << 20)
    data = struct.pack("<Q", len(text)) + text
    assert outcome(data) == "APR-F016"


def test_thousands_of_tensors_are_read_within_the_limits(outcome) -> None:
    header = {
        f"t{i}": {"dtype": "F16", "shape": [1], "data_offsets": [2 * i, 2 * i + 2]}
        for i in range(5_000)
    }
    data = encode(header, bytes(10_000))
    assert outcome(data) == "whole"
