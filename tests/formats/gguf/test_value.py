"""A metadata value survives its bytes, and a value of another type is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotejar.errors import MetadataError
from cotejar.formats.gguf.value import GgufValue, ValueType

INTEGERS = {
    ValueType.UINT8: (0, 2**8 - 1),
    ValueType.INT8: (-(2**7), 2**7 - 1),
    ValueType.UINT16: (0, 2**16 - 1),
    ValueType.INT16: (-(2**15), 2**15 - 1),
    ValueType.UINT32: (0, 2**32 - 1),
    ValueType.INT32: (-(2**31), 2**31 - 1),
    ValueType.UINT64: (0, 2**64 - 1),
    ValueType.INT64: (-(2**63), 2**63 - 1),
}
TYPED = {
    **{kind: st.integers(*limits) for kind, limits in INTEGERS.items()},
    ValueType.FLOAT32: st.floats(width=32, allow_nan=False),
    ValueType.FLOAT64: st.floats(allow_nan=False),
    ValueType.BOOL: st.booleans(),
    ValueType.STRING: st.text(),
}
ONE = st.sampled_from(list(TYPED)).flatmap(lambda kind: st.tuples(st.just(kind), TYPED[kind]))
MANY = st.sampled_from(list(TYPED)).flatmap(
    lambda kind: st.tuples(st.just(kind), st.lists(TYPED[kind]))
)


@given(ONE)
def test_a_value_comes_back(typed) -> None:
    kind, value = typed

    encoded = GgufValue.encode(kind, value)

    assert (encoded.value_type, encoded.element_type) == (kind, None)
    assert encoded.decode() == value


@given(MANY)
def test_a_list_comes_back(typed) -> None:
    kind, values = typed

    encoded = GgufValue.encode_array(kind, values)

    assert (encoded.value_type, encoded.element_type) == (ValueType.ARRAY, kind)
    assert encoded.decode() == values


def test_the_bytes_are_those_of_the_specification() -> None:
    assert GgufValue.encode(ValueType.UINT32, 1).payload == b"\1\0\0\0"
    assert GgufValue.encode(ValueType.STRING, "é").payload == b"\2" + bytes(7) + b"\xc3\xa9"
    assert GgufValue.encode_array(ValueType.BOOL, [True, False]).payload == (
        struct.pack("<IQ", 7, 2) + b"\1\0"
    )


@pytest.mark.parametrize("kind", list(INTEGERS))
def test_an_integer_out_of_range_is_refused(kind: ValueType) -> None:
    for value in (INTEGERS[kind][0] - 1, INTEGERS[kind][1] + 1):
        with pytest.raises(MetadataError) as caught:
            GgufValue.encode(kind, value, where="out.gguf, key 'k'")

        assert str(caught.value) == (
            "error[APR-F016]: a metadata value does not fit its type\n"
            "  where     out.gguf, key 'k'\n"
            f"  expected  a value for {kind.name}\n"
            f"  found     [{value}]\n"
            "  try       correct the value, or write it with another type"
        )


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (ValueType.UINT32, 1.0),
        (ValueType.UINT32, True),
        (ValueType.UINT32, "1"),
        (ValueType.BOOL, 1),
        (ValueType.STRING, 1),
        (ValueType.FLOAT32, "1"),
        (ValueType.FLOAT32, True),
        (ValueType.FLOAT32, 1e39),
        (ValueType.STRING, "\ud800"),
        (ValueType.ARRAY, []),
    ],
)
def test_a_value_of_another_type_is_refused(kind: ValueType, value: object) -> None:
    with pytest.raises(MetadataError):
        GgufValue.encode(kind, value)


def test_a_whole_number_will_do_for_a_float() -> None:
    assert GgufValue.encode(ValueType.FLOAT32, 10000).decode() == 10000.0


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(MetadataError) as caught:
        GgufValue.encode(ValueType.UINT8, "x" * 100)

    assert caught.value.parts["found"] == "'" + "x" * 56 + "..."
