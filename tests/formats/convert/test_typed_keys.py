"""GGUF keys go through JSON and come back with every type and every bit."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotejar.errors import (
    MetadataError,
)
from cotejar.formats.convert.typed_keys import decode_keys, encode_keys
from cotejar.formats.gguf.value import GgufValue, ValueType
from cotejar.testing.refusals import refused

AGAIN = "import the model again from its source"


def text(value: str) -> GgufValue:
    return GgufValue.encode(ValueType.STRING, value)


SCALARS = {
    ValueType.UINT8: st.integers(0, 2**8 - 1),
    ValueType.INT16: st.integers(-(2**15), 2**15 - 1),
    ValueType.UINT64: st.integers(0, 2**64 - 1),
    ValueType.INT64: st.integers(-(2**63), 2**63 - 1),
    ValueType.BOOL: st.booleans(),
    ValueType.STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
}
FLOAT_BYTES = {ValueType.FLOAT32: 4, ValueType.FLOAT64: 8}


@st.composite
def gguf_values(draw: st.DrawFn) -> GgufValue:
    """A value of any type; a float by its bits, NaNs of all kinds included."""
    if draw(st.booleans()):
        kind = draw(st.sampled_from(sorted(SCALARS)))
        if draw(st.booleans()):
            return GgufValue.encode_array(kind, draw(st.lists(SCALARS[kind], max_size=5)))
        return GgufValue.encode(kind, draw(SCALARS[kind]))
    kind = draw(st.sampled_from(sorted(FLOAT_BYTES)))
    size = FLOAT_BYTES[kind]
    if draw(st.booleans()):
        return GgufValue(value_type=kind, payload=draw(st.binary(min_size=size, max_size=size)))
    count = draw(st.integers(0, 4))
    bits = draw(st.binary(min_size=size * count, max_size=size * count))
    payload = struct.pack("<IQ", kind, count) + bits
    return GgufValue(value_type=ValueType.ARRAY, payload=payload)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), gguf_values()))
def test_typed_keys_survive_json_bit_by_bit(typed) -> None:
    through = json.loads(json.dumps(encode_keys(typed, {}, where="x"), allow_nan=False))
    returned = decode_keys({"gguf.metadata": through}, where="x")
    assert list(returned.items()) == list(typed.items())


@pytest.mark.parametrize(
    ("entries", "where", "expected", "found"),
    [
        ({}, "x", "a list of [key, type, value]", "{}"),
        ([["k", "UINT8"]], "x", "[key, type, value], each key once", "['k', 'UINT8']"),
        (
            [["k", "UINT8", 1], ["k", "UINT8", 2]],
            "x",
            "[key, type, value], each key once",
            "['k', 'UINT8', 2]",
        ),
        ([["k", "UINT7", 1]], "x, 'k'", "a type of GGUF, or ARRAY[TYPE]", "'UINT7'"),
        ([["k", "ARRAY", 1]], "x, 'k'", "a type of GGUF, or ARRAY[TYPE]", "'ARRAY'"),
        ([["k", "ARRAY[UINT8]", 1]], "x, 'k'", "a list", "1"),
        ([["k", "FLOAT32", 1e39]], "x, 'k'", "a FLOAT32", "1e+39"),
        ([["k", "FLOAT32", True]], "x, 'k'", "a FLOAT32", "True"),
        ([["k", "FLOAT32", {"bits": "7fc0000"}]], "x, 'k'", "a FLOAT32", "{'bits': '7fc0000'}"),
        (
            [["k", "ARRAY[STRING]", {"same_as": "gone"}]],
            "x, 'k'",
            "the key 'gone' in the metadata",
            "'no such key'",
        ),
    ],
)
def test_keys_that_describe_no_gguf(entries, where, expected, found) -> None:
    refused(
        MetadataError,
        "error[APR-F016]: gguf.metadata does not describe the keys of a GGUF\n"
        f"  where     {where}\n"
        f"  expected  {expected}\n"
        f"  found     {found}\n"
        f"  try       {AGAIN}",
        lambda: decode_keys({"gguf.metadata": entries}, where="x"),
    )
