"""`apr`: run, trace, compare and diagnose language models."""

from __future__ import annotations

from typing import NoReturn

import click

from cotejar.cli.lazy_group import LazyGroup, VerbTable
from cotejar.cli.run_command import run_command

APR_VERBS: VerbTable = {
    "run": ("cotejar.cli.apr.run:run", "Answer one prompt."),
    "trace": ("cotejar.cli.apr.trace:trace", "Record what every layer computes."),
    "parity": ("cotejar.cli.apr.parity:parity", "Compare two models or engines, and judge."),
    "bench": ("cotejar.cli.apr.bench:bench", "Measure prefill, decode, tracing, memory."),
    "doctor": ("cotejar.cli.apr.doctor:doctor", "Show versions, CPU and kernels in use."),
}
"""Every verb of `apr`, in the order of its help."""


@click.group(cls=LazyGroup, verbs=APR_VERBS)
@click.version_option(package_name="cotejar", prog_name="apr")
def apr() -> None:
    """Run, trace, compare and diagnose language models."""


def main() -> NoReturn:
    """Entry point of `apr`."""
    run_command(apr, "apr")
