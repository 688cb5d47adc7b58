"""`pv`: validate, falsify, prove and score the contracts that say what must hold."""

from __future__ import annotations

from typing import NoReturn

import click

from cotejar.cli.lazy_group import LazyGroup, VerbTable
from cotejar.cli.run_command import run_command

PV_VERBS: VerbTable = {
    "validate": (
        "cotejar.cli.pv.validate:validate",
        "Check contracts against the schema and every rule of it.",
    ),
}
"""Every verb of `pv`, in the order of its help."""


@click.group(cls=LazyGroup, verbs=PV_VERBS)
@click.version_option(package_name="cotejar", prog_name="pv")
def pv() -> None:
    """Validate and score the contracts that say what must hold.

    Every verb exits 0 when all is well, 1 when something failed, 2 on bad usage or bad
    input, and 3 when nothing was measured.
    """


def main() -> NoReturn:
    """Entry point of `pv`."""
    run_command(pv, "pv")
