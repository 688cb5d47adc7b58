"""pytest plugin: `pytest --contracts DIR` runs what contracts say would falsify them.

Each falsification test and each harness under DIR is one item, named by its id:
`contracts/x.yaml::FALSIFY-X-001`. DIR counts as a path of the command line: with no other
path only the contracts run.

pytest loads this module itself; without the option it does nothing and imports nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--contracts` and `--contracts-no-record`."""
    group = parser.getgroup("contracts", "contracts that run (cotejar)")
    group.addoption(
        "--contracts",
        action="append",
        default=[],
        metavar="DIR",
        help="Run every falsification test and harness of the contracts under DIR.",
    )
    group.addoption(
        "--contracts-no-record",
        action="store_true",
        help="Append nothing to the evidence.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collect contracts, if any are asked for."""
    paths = config.getoption("--contracts")
    # A contract whose command is pytest must not run the contracts again.
    if not paths or os.environ.get("COTEJAR_FALSIFYING"):
        return
    from cotejar.testing.contract_items import ContractCollection

    collection = ContractCollection(
        config, paths, record=not config.getoption("--contracts-no-record")
    )
    config.pluginmanager.register(collection, "cotejar-contract-items")
