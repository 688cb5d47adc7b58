"""`pv diff OLD NEW`."""

from __future__ import annotations

import json

import click

from cotejar.cli.pv.print_text import print_text


@click.command("diff")
@click.argument("old", type=click.Path())
@click.argument("new", type=click.Path())
@click.option(
    "--check",
    is_flag=True,
    help="Fail when metadata.version rose by too little, or a gate changed its meaning "
    "without five_whys.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def diff(old: str, new: str, *, check: bool, as_json: bool) -> None:
    """Say what changed between two versions of a contract, and which bump that asks for.

    Exits 0; with --check 1 when the version was raised by too little, or the new changelog
    does not explain by five whys what alters a gate's meaning; 2 when a file is no contract.
    """
    from cotejar.contracts.diff import check_problems, diff_contracts, diff_text
    from cotejar.contracts.read import read_contract

    found = diff_contracts(read_contract(old), read_contract(new))
    if as_json:
        click.echo(json.dumps(found.as_json(), ensure_ascii=False))
    else:
        print_text(diff_text(found))
    problems = check_problems(found) if check else []
    for problem in problems:
        print_text(f"error: {problem}", err=True)
    if problems:
        raise SystemExit(1)
