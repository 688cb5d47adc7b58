"""`pv diff OLD NEW`."""

from __future__ import annotations

import json

import click


@click.command("diff")
@click.argument("old", type=click.Path())
@click.argument("new", type=click.Path())
@click.option(
    "--check",
    is_flag=True,
    help="Fail when metadata.version rose by less than the changes ask for.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def diff(old: str, new: str, *, check: bool, as_json: bool) -> None:
    """Say what changed between two versions of a contract, and which bump that asks for.

    Exits 0; with --check 1 when the version was raised by too little; 2 when a file is no
    contract.
    """
    from cotejar.contracts.diff import diff_contracts, diff_text
    from cotejar.contracts.read import read_contract

    found = diff_contracts(read_contract(old), read_contract(new))
    if as_json:
        click.echo(json.dumps(found.as_json(), ensure_ascii=False))
    else:
        click.echo(diff_text(found))
    if check and not found.is_bump_enough:
        made = "no rise" if found.actual is None else found.actual.name.lower()
        click.echo(
            f"error: the changes ask for a {found.needed.name.lower()} bump, but "
            f"{found.old_version} -> {found.new_version} is {made}",
            err=True,
        )
        raise SystemExit(1)
