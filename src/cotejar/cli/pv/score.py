"""`pv score [FILE|DIR]`."""

from __future__ import annotations

import click

from cotejar.cli.finite_range import FiniteRange
from cotejar.cli.pv.report_corpus import report_corpus


@click.command("score")
@click.argument("path", metavar="[FILE|DIR]", default="contracts", type=click.Path())
@click.option("--binding", type=click.Path(), help="A registry of equations and functions.")
@click.option(
    "--min-score",
    type=FiniteRange(0, 1),
    help="Fail when any contract is below this.",
)
@click.option(
    "--weights",
    metavar="PART=NUMBER,...",
    default="",
    help="Other weights; all are divided by their sum.",
)
@click.option(
    "--top-gaps",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="How many of the dearest gaps to list.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def score(
    path: str,
    binding: str | None,
    min_score: float | None,
    weights: str,
    top_gaps: int,
    *,
    as_json: bool,
) -> None:
    """Score how complete each contract is, with a grade from A to F and the dearest gaps.

    With --binding the code base is scored too: what of it is bound, how deeply that is
    backed, and which contracts changed after the registry. It measures what contracts hold,
    not what was run. Exits 0; 1 when a contract is below
    --min-score; 2 when the path cannot be read; 3 when a folder holds no contract.
    """
    from cotejar.contracts.corpus import read_corpus, read_optional_bindings
    from cotejar.contracts.score import (
        parse_weights,
        score_contract,
        score_json,
        score_text,
    )
    from cotejar.contracts.score_codebase import measure_drift, score_codebase

    normal = parse_weights(weights)
    corpus = read_corpus(path)
    bindings = read_optional_bindings(binding)
    scores = [score_contract(contract, bindings, normal) for contract in corpus.contracts]
    facts = score_json(scores, min_score=min_score)
    text = score_text(scores, top_gaps=top_gaps)
    if bindings is not None:
        drift = measure_drift(corpus.contracts, bindings)
        codebase = score_codebase(corpus.contracts, bindings, drift)
        facts["codebase"] = codebase.as_json()
        text += f"\n\n{codebase.as_text()}"
    report_corpus(corpus, text, facts, as_json=as_json)
    raise SystemExit(facts["exit_code"])
