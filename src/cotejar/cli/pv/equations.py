"""`pv equations FILE`."""

from __future__ import annotations

import json

import click

from cotejar.cli.pv.print_text import print_text


@click.command("equations")
@click.argument("file", type=click.Path())
@click.option(
    "-f",
    "--format",
    "output_format",
    type=click.Choice(("text", "latex", "json")),
    default="text",
    show_default=True,
    help="How to write them.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def equations(file: str, output_format: str, *, as_json: bool) -> None:
    """Write a contract's equations.

    Exits 0, or 2 if the file is no contract.
    """
    from cotejar.contracts.equations import equations_json, equations_latex, equations_text
    from cotejar.contracts.read import read_contract

    contract = read_contract(file)
    if as_json or output_format == "json":
        click.echo(json.dumps(equations_json(contract), ensure_ascii=False))
    elif output_format == "latex":
        click.echo(equations_latex(contract))
    else:
        print_text(equations_text(contract))
