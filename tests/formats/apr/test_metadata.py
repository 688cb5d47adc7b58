"""Metadata that are no JSON object within the limits are refused."""

from __future__ import annotations

from functools import partial

import pytest

from cotejar.errors import (
    MetadataError,
)
from cotejar.formats.apr.reader import open_apr
from cotejar.testing.refusals import refused_file

AGAIN = "import the model again from its source: `apr import SOURCE -o MODEL.apr`"


refused = partial(refused_file, open_apr)
"""`refused(path, kind, message)`: opening the file raises exactly that."""


@pytest.mark.parametrize(
    ("metadata", "problem", "where", "expected", "found"),
    [
        (
            b"[1]",
            "the JSON is no object",
            "FILE, metadata",
            "an object: {...}",
            "an array: '[1]'",
        ),
        (
            b'{"a":}',
            "the JSON cannot be read",
            "FILE, metadata, character 5 of 6",
            "JSON",
            "Expecting value: '}'",
        ),
        (
            b'{"a":"\xff"}',
            "the JSON is not UTF-8",
            "FILE, metadata, byte 6 of 9",
            "UTF-8",
            "byte 0xff: invalid start byte",
        ),
        (
            b'{"a":NaN}',
            "the JSON holds a number that JSON does not have",
            "FILE, metadata",
            "finite numbers of a sensible length",
            "NaN",
        ),
        (
            b'{"a":"\\ud800"}',
            "a string in the JSON is half of a surrogate pair",
            "FILE, metadata",
            "text that can be written as UTF-8",
            "U+D800",
        ),
        (
            b'{"a":' + b"[" * 64 + b"]" * 64 + b"}",
            "the JSON is nested too deep",
            "FILE, metadata",
            "at most 64 levels",
            "more than 64 levels",
        ),
    ],
)
def test_metadata_that_cannot_be_read(make, metadata, problem, where, expected, found) -> None:
    refused(
        make.one(metadata=metadata),
        MetadataError,
        f"error[APR-F016]: {problem}\n"
        f"  where     {where}\n"
        f"  expected  {expected}\n"
        f"  found     {found}\n"
        "  try       the file is damaged, or its writer is at fault: convert the model again",
    )


@pytest.mark.parametrize(
    "metadata", [b'{"a":' + b"[" * 63 + b"]" * 63 + b"}", b'{"a":"\\\\ud800"}']
)
def test_metadata_just_within_the_rules(make, metadata) -> None:
    with open_apr(make.one(metadata=metadata)) as file:
        assert list(file.metadata) == ["a"]


def test_nesting_that_would_exhaust_the_stack(make) -> None:
    with pytest.raises(MetadataError, match="nested too deep"):
        open_apr(make.one(metadata=b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"))


def test_an_announcement_that_is_no_object(make) -> None:
    refused(
        make.one(metadata=b'{"cotejar.block_types":[72]}'),
        MetadataError,
        "error[APR-F016]: the metadata key cotejar.block_types is no object\n"
        "  where     FILE, metadata\n"
        '  expected  an object such as {"72": "Q8_0"}\n'
        "  found     [72]\n"
        f"  try       {AGAIN}",
    )
