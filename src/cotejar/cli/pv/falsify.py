"""`pv falsify FILE|DIR`."""

from __future__ import annotations

from pathlib import Path

import click

from cotejar.cli.finite_range import FiniteRange
from cotejar.cli.pv.print_text import print_text
from cotejar.cli.pv.report_corpus import report_corpus


@click.command("falsify")
@click.argument("path", metavar="FILE|DIR", type=click.Path())
@click.option("--id", "ids", multiple=True, help="Run this test only; may be repeated.")
@click.option("--shell", is_flag=True, help="Let a command have a shell; never under CI.")
@click.option("--strict", is_flag=True, help="Exit 3 when any test did not run.")
@click.option("--no-record", is_flag=True, help="Append nothing to the evidence.")
@click.option(
    "--evidence",
    type=click.Path(path_type=Path),
    help="Folder of the records, instead of the project's.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=FiniteRange(min=0, min_open=True, max=10**7),
    help="Seconds for each test, instead of its own and the project's.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def falsify(
    path: str,
    ids: tuple[str, ...],
    evidence: Path | None,
    timeout_s: float | None,
    *,
    shell: bool,
    strict: bool,
    no_record: bool,
    as_json: bool,
) -> None:
    """Run what would falsify a contract, within limits, and record the evidence.

    A command that exits 0 survived; prose is never run and never passes. Each command runs
    in the project's root without a shell, if the project allows its program, and may write
    to a scratch folder only.

    Exits 0 when at least one test ran and all that ran survived; 1 when one was falsified or
    had to be stopped; 2 on bad input; 3 when nothing ran.
    """
    from cotejar.contracts.corpus import read_corpus
    from cotejar.contracts.falsify.report import FalsifyReport, result_text, summary_text
    from cotejar.contracts.falsify.run import Options, TestResult, falsify_corpus

    def show(result: TestResult) -> None:
        print_text(result_text(result), err=as_json)

    corpus = read_corpus(path)
    options = Options(shell=shell, record=not no_record, evidence=evidence, timeout_s=timeout_s)
    results = falsify_corpus(corpus, options, ids=ids, on_result=show)
    report = FalsifyReport(
        results=tuple(results), num_skipped_files=len(corpus.skipped), strict=strict
    )
    report_corpus(corpus, summary_text(report), report.as_json(), as_json=as_json)
    raise SystemExit(report.verdict.exit_code)
