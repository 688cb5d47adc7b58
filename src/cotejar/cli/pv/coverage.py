"""`pv coverage [DIR]`."""

from __future__ import annotations

import click

from cotejar.cli.pv.report_corpus import report_corpus


@click.command("coverage")
@click.argument("path", metavar="[FILE|DIR]", default="contracts", type=click.Path())
@click.option("--binding", type=click.Path(), help="A registry of equations and functions.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def coverage(path: str, binding: str | None, *, as_json: bool) -> None:
    """Count how many obligations have tests, harnesses and code behind them.

    Exits 0; 2 when the path cannot be read; 3 when a folder holds no contract.
    """
    from cotejar.contracts.corpus import read_corpus, read_optional_bindings
    from cotejar.contracts.coverage import coverage_text, measure_coverage

    corpus = read_corpus(path)
    report = measure_coverage(corpus, read_optional_bindings(binding))
    report_corpus(corpus, coverage_text(report), report.as_json(), as_json=as_json)
