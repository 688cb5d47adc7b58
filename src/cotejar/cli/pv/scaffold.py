"""`pv scaffold FILE`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("scaffold")
@click.argument("file", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="Write there; never over a file.")
def scaffold(file: str, output: str | None) -> None:
    """Write Python tests for a contract's claims; each fails until it is written.

    Exits 0; 2 when the file is no contract, or the output is there already.
    """
    from cotejar.contracts.read import read_contract
    from cotejar.contracts.scaffold import scaffold_tests
    from cotejar.formats.atomic import atomic_write_text

    source = scaffold_tests(read_contract(file))
    if output is None:
        click.echo(source, nl=False)
    else:
        atomic_write_text(Path(output), source)
