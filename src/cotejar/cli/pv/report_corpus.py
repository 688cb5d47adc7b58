"""What the verbs over a folder have in common: files that were skipped, and JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from cotejar.cli.pv.print_text import print_text

if TYPE_CHECKING:
    from cotejar.contracts.corpus import Corpus


def report_corpus(
    corpus: Corpus, text: str, facts: dict[str, Any], *, as_json: bool, folds: bool = True
) -> None:
    """Print `text`, or `facts` with the skipped files; name the skipped ones on stderr.

    `folds` is False for text that a program reads, whose lines must stay whole.
    """
    for skipped in corpus.skipped:
        where, problem = skipped.error.parts["where"], skipped.error.problem
        print_text(f"warning: skipped {where}: {problem}", err=True)
    if as_json:
        listed = [{"file": s.file, "error": s.error.as_json()} for s in corpus.skipped]
        click.echo(json.dumps({**facts, "skipped": listed}, ensure_ascii=False))
    elif folds:
        print_text(text)
    else:
        click.echo(text)
