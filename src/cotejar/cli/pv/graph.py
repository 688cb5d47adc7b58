"""`pv graph [DIR]`."""

from __future__ import annotations

import click

from cotejar.cli.pv.report_corpus import report_corpus

FORMATS = ("text", "dot", "json", "mermaid")


@click.command("graph")
@click.argument("path", metavar="[FILE|DIR]", default="contracts", type=click.Path())
@click.option(
    "-f",
    "--format",
    "output_format",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="How to draw it.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def graph(path: str, output_format: str, *, as_json: bool) -> None:
    """Draw which contract depends on which, in the order they build on each other.

    Exits 0; 1 when there is a cycle; 2 when the path cannot be read; 3 when a folder holds
    no contract.
    """
    from cotejar.contracts.corpus import read_corpus
    from cotejar.contracts.graph import build_graph, graph_dot, graph_mermaid, graph_text

    corpus = read_corpus(path)
    drawn = build_graph(corpus)
    draw = {"text": graph_text, "dot": graph_dot, "mermaid": graph_mermaid}
    text = draw.get(output_format, graph_text)(drawn)
    as_json = as_json or output_format == "json"
    folds = output_format == "text"
    report_corpus(corpus, text, drawn.as_json(), as_json=as_json, folds=folds)
    raise SystemExit(1 if drawn.cycles else 0)
