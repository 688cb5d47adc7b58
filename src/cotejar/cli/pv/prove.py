"""`pv prove FILE|DIR`."""

from __future__ import annotations

from pathlib import Path

import click

from cotejar.cli.finite_range import FiniteRange
from cotejar.cli.pv.report_corpus import report_corpus
from cotejar.cli.pv.validate import num_usable_cores


@click.command("prove")
@click.argument("path", metavar="FILE|DIR", type=click.Path())
@click.option(
    "--harness", "only", metavar="ID", multiple=True, help="This one only; repeat it."
)
@click.option(
    "--harnesses",
    "harness_paths",
    metavar="FILE|DIR",
    multiple=True,
    type=click.Path(),
    help="Python files that register harnesses; they are run.",
)
@click.option(
    "--timeout",
    "timeout_seconds",
    metavar="SECONDS",
    type=FiniteRange(min=0, min_open=True, max=10**7),
    default=60.0,
    show_default=True,
    help="For all claims of a harness together.",
)
@click.option(
    "--counterexamples",
    metavar="DIR",
    type=click.Path(),
    help="Save each counterexample there, as a pytest.",
)
@click.option(
    "--mutants/--no-mutants",
    "try_mutants",
    default=True,
    show_default=True,
    help="Change the code in small ways and see the claims notice.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=num_usable_cores,
    show_default="one a core",
    help="Claims to decide at a time.",
)
@click.option("--no-record", is_flag=True, help="Append nothing to the evidence.")
@click.option(
    "--evidence",
    type=click.Path(path_type=Path),
    help="Folder of the records, instead of the project's.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def prove(
    path: str,
    only: tuple[str, ...],
    harness_paths: tuple[str, ...],
    timeout_seconds: float,
    counterexamples: str | None,
    jobs: int,
    evidence: Path | None,
    *,
    try_mutants: bool,
    no_record: bool,
    as_json: bool,
) -> None:
    """Prove, up to a bound, what contracts claim of the functions that production calls.

    What came of each harness is appended to the evidence.

    Exits 0 when every harness is PROVED, 1 when one is REFUTED, 2 on bad input, 3 when one is
    UNKNOWN or NOT FOUND, or when there is none.
    """
    from cotejar.contracts.corpus import read_corpus
    from cotejar.contracts.prove.run import ProveOptions, prove_corpus

    corpus = read_corpus(path)
    options = ProveOptions(
        only=only,
        timeout_seconds=timeout_seconds,
        harness_paths=harness_paths,
        counterexamples=counterexamples,
        try_mutants=try_mutants,
        jobs=jobs,
        record=not no_record,
        evidence=evidence,
    )
    report = prove_corpus(corpus, options)
    report_corpus(corpus, report.text(), report.as_json(), as_json=as_json)
    raise SystemExit(report.exit_code)
