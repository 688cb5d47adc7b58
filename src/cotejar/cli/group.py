"""`cotejar`: all of `apr` at the top, and `pv` under its own name.

`pv` is also the pipe viewer on many machines; `cotejar pv validate ...` is never ambiguous.
"""

from __future__ import annotations

import click

from cotejar.cli.apr.group import APR_VERBS
from cotejar.cli.lazy_group import LazyGroup, VerbTable

COTEJAR_VERBS: VerbTable = {
    **APR_VERBS,
    "pv": (
        "cotejar.cli.pv.group:pv",
        "Validate and score the contracts that say what must hold.",
    ),
}
"""Every verb of `apr`, and the group `pv`."""


@click.group(cls=LazyGroup, verbs=COTEJAR_VERBS)
@click.version_option(package_name="cotejar", prog_name="cotejar")
def cotejar() -> None:
    """Check a language model's copy against its original, side by side."""
