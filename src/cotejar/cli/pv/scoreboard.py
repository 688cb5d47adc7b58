"""`pv scoreboard [FILE|DIR]`."""

from __future__ import annotations

from pathlib import Path

import click

from cotejar.cli.pv.print_text import print_text
from cotejar.cli.pv.report_corpus import report_corpus


@click.command("scoreboard")
@click.argument("path", metavar="[FILE|DIR]", default="contracts", type=click.Path())
@click.option(
    "--evidence",
    type=click.Path(path_type=Path),
    help="Folder of the records, instead of the project's.",
)
@click.option("--check", is_flag=True, help="Fail on a claim that evidence does not bear out.")
@click.option("--markdown", is_flag=True, help="A Markdown table.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def scoreboard(
    path: str, evidence: Path | None, *, check: bool, markdown: bool, as_json: bool
) -> None:
    """Say which obligations are discharged, by evidence and proofs alone.

    DISCHARGED: its live tests survived, on today's contract, test, code and models. PARTIAL:
    proved, or survived in part. BLOCKED: a fixture is absent. OPEN: none of this. The total
    reads discharged+partial.

    Exits 0; with --check 1 when a contract claims more than that; 2 when something cannot be
    read; 3 when nothing states an obligation.
    """
    from cotejar.contracts.corpus import read_corpus
    from cotejar.contracts.scoreboard.claims import check_claims
    from cotejar.contracts.scoreboard.render import (
        check_verdict,
        scoreboard_json,
        scoreboard_markdown,
        scoreboard_text,
    )
    from cotejar.contracts.scoreboard.states import score_corpus

    corpus = read_corpus(path)
    board = score_corpus(corpus, evidence)
    for contract in board.contracts:
        if contract.truncated:
            print_text(f"warning: {contract.truncated}", err=True)
    findings = check_claims(board) if check else []
    code = check_verdict(findings, len(corpus.skipped)).exit_code if check else 0
    write = scoreboard_markdown if markdown else scoreboard_text
    facts = scoreboard_json(board, findings, code)
    text = write(board, findings)
    report_corpus(corpus, text, facts, as_json=as_json, folds=not markdown)
    raise SystemExit(code)
