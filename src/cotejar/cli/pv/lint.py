"""`pv lint [FILE|DIR]`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from cotejar.cli.finite_range import FiniteRange
from cotejar.cli.pv.print_text import print_text

if TYPE_CHECKING:
    from cotejar.contracts.binding import BindingRegistry
    from cotejar.contracts.lint_report import LintReport
    from cotejar.contracts.reverse_coverage import ReverseCoverage

FORMATS = ("text", "json", "sarif", "github")
SEVERITIES = ("error", "warning", "info")
LEVELS = ("basic", "standard", "strict", "proven")


@click.command("lint")
@click.argument("path", metavar="[FILE|DIR]", default="contracts", type=click.Path())
@click.option("--gate", "gates", multiple=True, help="Run this gate alone; may be repeated.")
@click.option("--binding", type=click.Path(), help="A registry of equations and functions.")
@click.option(
    "--source",
    type=click.Path(),
    help="With --binding: which of its public functions no equation is bound to.",
)
@click.option(
    "--min-coverage",
    type=FiniteRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of --source that must be bound.",
)
@click.option("--diff", "changed_since", metavar="REV", help="Judge what changed since, only.")
@click.option("--baseline", type=click.Path(), help="Let pass what this earlier run found.")
@click.option("--trend", is_flag=True, help="Compare with earlier runs, and add this one.")
@click.option("--show-trend", is_flag=True, help="List the last 10 runs, and do nothing else.")
@click.option("--min-score", type=FiniteRange(0, 1), help="Fail what scores below this.")
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
    source: str | None,
    min_coverage: float,
    changed_since: str | None,
    baseline: str | None,
    min_score: float | None,
    min_level: str | None,
    config: str | None,
    rules: tuple[str, ...],
    suppressed: tuple[str, ...],
    severity: str,
    output_format: str,
    *,
    trend: bool,
    show_trend: bool,
    strict_test_binding: bool,
    strict: bool,
    as_json: bool,
) -> None:
    """Judge contracts gate by gate: valid, traceable, complete, run by what is there.

    A baseline is what -f sarif or --json printed. --trend keeps its runs in
    .pv/lint-trend.jsonl beside the folder of contracts. --diff takes a revision of git, such
    as origin/main, and also judges the contracts that depend on what changed.

    Exits 0 when every gate passes, 1 when one fails, 2 on bad usage or an unreadable path,
    3 when there is no contract, or none that changed. `pv explain RULE` says what a finding
    means.
    """
    from cotejar.contracts.corpus import read_optional_bindings
    from cotejar.contracts.findings import Severity
    from cotejar.contracts.lint import LintScope, lint_path
    from cotejar.contracts.lint_baseline import read_baseline
    from cotejar.contracts.lint_config import read_lint_config
    from cotejar.contracts.lint_report import lint_text
    from cotejar.contracts.rules.lint_rule import LintSettings
    from cotejar.contracts.schema import EnforcementLevel

    if show_trend:
        _show_trend(path, as_json=as_json or output_format == "json")
        return
    bindings = read_optional_bindings(binding)
    settings = LintSettings(
        bindings=bindings,
        reverse=_measured(source, bindings, min_coverage),
        min_score=min_score,
        min_level=None if min_level is None else EnforcementLevel(min_level),
        strict_test_binding=strict_test_binding,
    )
    scope = LintScope(
        changed_since=changed_since,
        baseline=None if baseline is None else read_baseline(baseline),
        records_trend=trend,
    )
    config_read = read_lint_config(config, rules=rules, suppressed=suppressed)
    report = lint_path(
        path, settings=settings, config=config_read, gates=gates, strict=strict, scope=scope
    )
    if output_format == "text" and not as_json:
        print_text(lint_text(report, least=Severity(severity)))
    else:
        click.echo(_written(report, "json" if as_json else output_format), nl=False)
    raise SystemExit(report.verdict.exit_code)


def _measured(
    source: str | None, bindings: BindingRegistry | None, least: float
) -> ReverseCoverage | None:
    """Hold the functions of a source folder against the registry, if both are given."""
    from cotejar.contracts.reverse_coverage import measure_reverse_coverage

    if source is None:
        return None
    if bindings is None:
        raise click.UsageError("--source needs --binding: it says which functions are bound")
    return measure_reverse_coverage(source, bindings, least=least)


def _show_trend(path: str, *, as_json: bool) -> None:
    """Print the runs that are on record."""
    from cotejar.contracts.lint_trend import read_trend, trend_file, trend_text

    snapshots = read_trend(trend_file(path))
    if as_json:
        click.echo(json.dumps({"runs": [snapshot.as_json() for snapshot in snapshots]}))
    else:
        print_text(trend_text(snapshots))


def _written(report: LintReport, output_format: str) -> str:
    """The report as a program reads it, with a newline where there is anything."""
    from cotejar.contracts.render.github import github_lines
    from cotejar.contracts.render.sarif import sarif_log
    from cotejar.contracts.rules.every_rule import all_rules

    if output_format == "json":
        return json.dumps(report.as_json(), ensure_ascii=False) + "\n"
    if output_format == "sarif":
        rules = [rule.help() for rule in all_rules()]
        has_baseline = report.num_gone is not None
        log = sarif_log(report.findings, rules, known=report.known if has_baseline else None)
        return json.dumps(log, ensure_ascii=False) + "\n"
    return "".join(f"{line}\n" for line in github_lines(report.findings))
