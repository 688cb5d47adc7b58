"""`cotejar`: all of `apr` at the top, and `pv` under its own name.

`pv` is also the pipe viewer on many machines; `cotejar pv validate ...` is never ambiguous.
"""

from __future__ import annotations

from typing import NoReturn

import click

from cotejar.cli.apr.main import APR_VERBS
from cotejar.cli.lazy_group import LazyGroup, VerbTable
from cotejar.cli.run_command import run_command

COTEJAR_VERBS: VerbTable = {
    **APR_VERBS,
    "pv": (
        "cotejar.cli.pv.main:pv",
        "Validate and score the contracts that say what must hold.",
    ),
}
"""Every verb of `apr`, and the group `pv`."""


@click.group(cls=LazyGroup, verbs=COTEJAR_VERBS)
@click.version_option(package_name="cotejar", prog_name="cotejar")
def cotejar() -> None:
    """Check a language model's copy against its original, side by side."""


def main() -> NoReturn:
    """Entry point of `cotejar`."""
    run_command(cotejar, "cotejar")
