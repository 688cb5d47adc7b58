"""`pv explain [RULE]`."""

from __future__ import annotations

import json

import click

from cotejar.cli.pv.print_text import print_text


@click.command("explain")
@click.argument("rule", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def explain(rule: str | None, *, as_json: bool) -> None:
    """Say why a rule is there, with what breaks it and what does not; or list every rule.

    Exits 0, or 2 if no rule has that id.
    """
    from cotejar.contracts.explain import (
        explain_rule,
        list_rules,
        rule_json,
        rule_lines,
        rule_text,
    )

    if rule is None:
        rules = list_rules()
        facts = {"rules": [rule_json(one) for one in rules]}
        if as_json:
            click.echo(json.dumps(facts, ensure_ascii=False))
        else:
            print_text(rule_lines(rules))
        return
    found = explain_rule(rule)
    if as_json:
        click.echo(json.dumps(rule_json(found), ensure_ascii=False))
    else:
        print_text(rule_text(found))
