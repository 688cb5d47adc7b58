"""`pv lint [FILE|DIR]`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cotejar.contracts.lint import LintReport

FORMATS = ("text", "json", "sarif", "github")
SEVERITIES = ("error", "warning", "info")
LEVELS = ("basic", "standard", "strict", "proven")


@click.command("lint")
@click.argument("path", metavar="[FILE|DIR]", default="contracts", type=click.Path())
@click.option("--gate", "gates", multiple=True, help="Run this gate alone; may be repeated.")
@click.option("--binding", type=click.Path(), help="A registry of equations and functions.")
@click.option("--min-score", type=click.FloatRange(0, 1), help="Fail what scores below this.")
@click.option("--min-level", type=click.Choice(LEVELS), help="Warn of what lists less.")
@click.option("--strict-test-binding", is_flag=True, help="Warn of tests that are prose.")
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
@click.option("--config", type=click.Path(), help="Settings; default .pv.toml if there is one.")
@click.option("--rule", "rules", multiple=True, metavar="ID=off|info|warning|error")
@click.option("--suppress", "suppressed", multiple=True, metavar="ID[:CONTRACT]")
@click.option(
    "--severity",
    type=click.Choice(SEVERITIES),
    default="info",
    show_default=True,
    help="Show findings from this severity up.",
)
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
def lint(
    path: str,
    gates: tuple[str, ...],
    binding: str | None,
    min_score: float | None,
    min_level: str | None,
    config: str | None,
    rules: tuple[str, ...],
    suppressed: tuple[str, ...],
    severity: str,
    output_format: str,
    *,
    strict_test_binding: bool,
    strict: bool,
    as_json: bool,
) -> None:
    """Judge contracts gate by gate: valid, traceable, complete, run by what is there.

    Exits 0 when every gate passes, 1 when one fails, 2 on bad usage or an unreadable path,
    3 when there is no contract. `pv explain RULE` says what a finding means.
    """
    from cotejar.contracts.corpus import read_optional_bindings
    from cotejar.contracts.lint import lint_path
    from cotejar.contracts.lint_config import read_lint_config
    from cotejar.contracts.rules.lint_rule import LintSettings
    from cotejar.contracts.schema import EnforcementLevel

    settings = LintSettings(
        bindings=read_optional_bindings(binding),
        min_score=min_score,
        min_level=None if min_level is None else EnforcementLevel(min_level),
        strict_test_binding=strict_test_binding,
    )
    config_read = read_lint_config(config, rules=rules, suppressed=suppressed)
    report = lint_path(path, settings=settings, config=config_read, gates=gates, strict=strict)
    click.echo(_written(report, "json" if as_json else output_format, severity), nl=False)
    raise SystemExit(report.verdict.exit_code)


def _written(report: LintReport, output_format: str, severity: str) -> str:
    """The report in one of the formats, with a newline where there is anything."""
    from cotejar.contracts.findings import Severity
    from cotejar.contracts.lint import lint_text
    from cotejar.contracts.render.github import github_lines
    from cotejar.contracts.render.sarif import sarif_log
    from cotejar.contracts.rules.every_rule import all_rules

    if output_format == "json":
        return json.dumps(report.as_json(), ensure_ascii=False) + "\n"
    if output_format == "sarif":
        log = sarif_log(report.findings, [rule.help() for rule in all_rules()])
        return json.dumps(log, ensure_ascii=False) + "\n"
    if output_format == "github":
        return "".join(f"{line}\n" for line in github_lines(report.findings))
    return lint_text(report, least=Severity(severity)) + "\n"
