"""The keys of a falsification test that are ours; upstream ignores them.

falsification_tests:
- id: F-1
test: pytest tests/test_x.py
fixtures: ["demo:smollm2", "models/big.gguf"]  # without one the test is BLOCKED
level: algorithm        # or live, the default: what a survival is worth
timeout_s: 600          # instead of the project's
discharge_status: DISCHARGED   # what the contract claims of this test
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.contracts.coerce import Fields, fail

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cotejar.contracts.schema import Contract
    from cotejar.contracts.source import Path, Source
    from cotejar.contracts.yaml_nodes import Node

_KEYS = ("id", "fixtures", "level", "timeout_s", "discharge_status", "algorithm_evidence")
_MAX_TIMEOUT_S = 10**7


class Level(enum.StrEnum):
    """What a test runs on."""

    LIVE = "live"
    """The real thing; surviving it discharges an obligation."""
    ALGORITHM = "algorithm"
    """The function alone, on made-up inputs; surviving it discharges in part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TestKeys:
    """One test's own keys."""

    id: str
    fixtures: tuple[str, ...]
    """`demo:NAME`, or paths relative to the project's root, where `$NAME` may stand."""
    level: Level
    timeout_s: float | None
    discharge_status: str | None
    """Under this key, or as `algorithm_evidence.status`."""


def read_test_keys(contract: Contract) -> Mapping[str, TestKeys]:
    """The keys of every test, by its id; of a repeated id the last one's.

    Raises:
        ContractSchemaError: a key has the wrong type or an unknown word.
    """
    source = contract.source
    fields = Fields(source.root, source, (), ("falsification_tests",))
    return {keys.id: keys for keys in fields.structs("falsification_tests", _read)}


def _read(node: Node, source: Source, path: Path) -> TestKeys:
    fields = Fields(node, source, path, _KEYS)
    timeout_s = fields.number("timeout_s")
    if timeout_s is not None and not 0 < timeout_s <= _MAX_TIMEOUT_S:
        expected = f"seconds above 0, at most {_MAX_TIMEOUT_S}"
        fail(node, source, (*path, "timeout_s"), expected, str(timeout_s))
    status = fields.optional_text("discharge_status")
    return TestKeys(
        id=fields.text("id"),
        fixtures=fields.texts("fixtures"),
        level=fields.word("level", Level) or Level.LIVE,
        timeout_s=timeout_s,
        discharge_status=status or fields.struct("algorithm_evidence", _status),
    )


def _status(node: Node, source: Source, path: Path) -> str | None:
    return Fields(node, source, path, ("status",)).optional_text("status")
