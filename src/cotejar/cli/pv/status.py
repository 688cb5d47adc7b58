"""`pv status FILE`."""

from __future__ import annotations

import json

import click

from cotejar.cli.pv.print_text import print_text


@click.command("status")
@click.argument("file", type=click.Path())
@click.option("--why", is_flag=True, help="The five whys behind each change of meaning.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def status(file: str, *, why: bool, as_json: bool) -> None:
    """Say what a contract holds: its counts, its gate, and how deep its claims are backed.

    Exits 0, or 2 if the file is no contract.
    """
    from cotejar.contracts.read import read_contract
    from cotejar.contracts.status import contract_status, status_text

    found = contract_status(read_contract(file))
    if as_json:
        click.echo(json.dumps(found.as_json(), ensure_ascii=False))
    else:
        print_text(status_text(found, why=why))
