"""`pv validate FILE|DIR`."""

from __future__ import annotations

import json
import os

import click

from cotejar.cli.pv.print_text import print_text

FORMATS = ("text", "json", "sarif", "github", "junit")


def num_usable_cores() -> int:
    """The cores this process may run on, where the system says; else all of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@click.command("validate")
@click.argument("path", metavar="FILE|DIR", type=click.Path())
@click.option(
    "-f",
    "--format",
    "output_format",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="How to write the findings.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=num_usable_cores,
    show_default="one a core",
    help="Processes to share a folder's files.",
)
def validate(path: str, output_format: str, jobs: int, *, as_json: bool) -> None:
    """Check a contract, or every YAML file under a folder, by every rule of the schema.

    All violations are listed at once, with file, line and column. Binding registries and
    publish manifests are recognised by their keys and judged as what they are.

    Exits 0 when no rule is broken (warnings do not fail), 1 when one is or a file does not
    parse, 2 when the path cannot be read, 3 when a folder holds nothing to check.
    """
    from cotejar.contracts.validate import validate_path

    report = validate_path(path, jobs=jobs)
    output_format = "json" if as_json else output_format
    if output_format == "text":
        from cotejar.contracts.render.text import validation_text

        output, errors = validation_text(report)
        if output:
            print_text(output)
        if errors:
            print_text(errors, err=True)
    elif output_format == "json":
        click.echo(json.dumps(report.as_json(), ensure_ascii=False))
    elif output_format == "sarif":
        from cotejar.contracts.render.sarif import sarif_log
        from cotejar.contracts.rules.catalogue import CONTRACT_RULES
        from cotejar.contracts.rules.manifest import MANIFEST_RULES

        rules = [rule.help() for rule in CONTRACT_RULES]
        rules += [rule.help() for rule in MANIFEST_RULES]
        log = sarif_log(report.findings_and_problems, rules)
        click.echo(json.dumps(log, ensure_ascii=False))
    elif output_format == "github":
        from cotejar.contracts.render.github import github_lines

        for line in github_lines(report.findings_and_problems):
            click.echo(line)
    else:
        from cotejar.contracts.render.junit import junit_xml

        click.echo(junit_xml(report))
    raise SystemExit(report.verdict.exit_code)
