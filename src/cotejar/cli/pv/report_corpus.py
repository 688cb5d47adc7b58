"""What the verbs over a folder have in common: files that were skipped, and JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cotejar.contracts.corpus import Corpus


def report_corpus(corpus: Corpus, text: str, facts: dict[str, Any], *, as_json: bool) -> None:
    """Print `text`, or `facts` with the skipped files; name the skipped ones on stderr."""
    for skipped in corpus.skipped:
        where, problem = skipped.error.parts["where"], skipped.error.problem
        click.echo(f"warning: skipped {where}: {problem}", err=True)
    if as_json:
        listed = [{"file": s.file, "error": s.error.as_json()} for s in corpus.skipped]
        click.echo(json.dumps({**facts, "skipped": listed}, ensure_ascii=False))
    else:
        click.echo(text)
