"""`--json` is strict JSON, and loses nothing by that."""

from __future__ import annotations

import enum
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotejar.report.json_output import encode_json, print_json, strict


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def test_a_number_that_is_not_finite_is_null_beside_its_name() -> None:
    facts = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.5}

    assert strict(facts) == {
        "a": None,
        "a_nonfinite": "NaN",
        "b": None,
        "b_nonfinite": "Infinity",
        "c": None,
        "c_nonfinite": "-Infinity",
        "d": 1.5,
    }


def test_a_numpy_scalar_that_is_not_finite_is_named_too() -> None:
    found = strict({"outer": [{"x": np.float32(np.inf)}, {"x": np.float64(np.nan)}]})

    assert found == {
        "outer": [
            {"x": None, "x_nonfinite": "Infinity"},
            {"x": None, "x_nonfinite": "NaN"},
        ]
    }


def test_in_a_list_it_is_null() -> None:
    assert strict([1.0, math.nan, np.array([np.inf, 2.0])]) == [1.0, None, [None, 2.0]]


def test_numpy_paths_enums_and_tuples_have_a_place() -> None:
    class Colour(enum.Enum):
        RED = "red"

    facts = {
        "n": np.int64(3),
        "b": np.bool_(True),
        "p": Path("a/b"),
        "e": Colour.RED,
        "t": (1,),
    }

    assert strict(facts) == {"n": 3, "b": True, "p": "a/b", "e": "red", "t": [1]}


def test_a_file_name_that_is_not_utf8_is_shown_escaped() -> None:
    name = b"model-\xff.gguf".decode("utf-8", "surrogateescape")

    text = encode_json({"file": name})

    assert json.loads(text) == {"file": "model-\\udcff.gguf"}
    text.encode("utf-8")


def test_what_has_no_place_is_a_defect_of_the_caller() -> None:
    with pytest.raises(TypeError, match="bytes has no place in JSON"):
        encode_json({"data": b"12"})


def test_one_object_goes_to_stdout_in_utf8(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    print_json({"prompt": "¿2+2?"})

    assert capfdbinary.readouterr().out == '{\n  "prompt": "¿2+2?"\n}\n'.encode()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_whatever_comes_is_strict_json(facts: dict[str, object]) -> None:
    text = encode_json(facts)

    found = json.loads(text.encode("utf-8"), parse_constant=refuse)

    assert found.keys() >= facts.keys()
