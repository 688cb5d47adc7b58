"""What a plain scalar means: serde_yaml's answers, not PyYAML's."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotejar.contracts.scalars import parse_float, parse_integer, resolve


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("2026-04-01", "2026-04-01"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("FALSE", False),
        ("", None),
        ("~", None),
        ("Null", None),
        ("045", "045"),
        ("-012", "-012"),
        ("0", 0),
        ("2_000_000", "2_000_000"),
        ("12:30", "12:30"),
        ("0x1F", 31),
        ("0o17", 15),
        ("-0b101", -5),
        ("+7", 7),
        ("++7", "++7"),
        ("1.0.0", "1.0.0"),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("inf", "inf"),
        ("1e999", "1e999"),
        ("9" * 500, "9" * 500),
        ("\N{ARABIC-INDIC DIGIT ONE}", "\N{ARABIC-INDIC DIGIT ONE}"),
    ],
)
def test_a_plain_scalar_means_what_upstream_makes_of_it(text: str, value: object) -> None:
    found = resolve(text)

    assert (type(found), found) == (type(value), value)


def test_nan_is_a_float_in_three_spellings_only() -> None:
    spellings = [".nan", ".NaN", ".NAN", "nan", "NaN"]

    assert [isinstance(resolve(text), float) for text in spellings] == [True] * 3 + [False] * 2


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_float_returns_exactly(number: float) -> None:
    assert parse_float(repr(number)) == number


@given(st.integers(-(10**300), 10**300))
def test_every_integer_returns_exactly(number: int) -> None:
    assert parse_integer(str(number)) == number
