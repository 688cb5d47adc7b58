"""The keys of a test that are ours."""

from __future__ import annotations

from typing import Any

import pytest

from cotejar.contracts.falsify.keys import read_test_keys
from cotejar.errors import ContractSchemaError


def test_keys_are_read_and_default_to_a_live_test(bench: Any) -> None:
    bench.test("pytest", "F-1", fixtures=["$MODELS/a.gguf"], level="algorithm", timeout_s=2.5)
    bench.test("pytest", "F-2", algorithm_evidence={"status": "PARTIAL_ALGORITHM_LEVEL"})

    keys = read_test_keys(bench.contract)

    first, second = keys["F-1"], keys["F-2"]
    assert (first.fixtures, first.level, first.timeout_s) == (
        ("$MODELS/a.gguf",),
        "algorithm",
        2.5,
    )
    assert (second.fixtures, second.level, second.timeout_s) == ((), "live", None)
    assert second.discharge_status == "PARTIAL_ALGORITHM_LEVEL"


@pytest.mark.parametrize(
    ("key", "value", "expected", "found"),
    [
        ("level", "lively", "one of: live, algorithm", "the text 'lively'"),
        ("timeout_s", 0, "seconds above 0, at most 10000000", "0.0"),
        ("fixtures", "demo:smollm2", "a list", "the text 'demo:smollm2'"),
    ],
)
def test_a_key_that_means_nothing_is_refused_with_its_place(
    bench: Any, key: str, value: Any, expected: str, found: str
) -> None:
    bench.test("pytest", **{key: value})

    with pytest.raises(ContractSchemaError) as caught:
        read_test_keys(bench.contract)

    parts = caught.value.parts
    assert caught.value.problem.startswith(
        f"Failed to parse YAML: falsification_tests[0].{key}: "
    )
    assert (parts["expected"], parts["found"]) == (expected, found)
