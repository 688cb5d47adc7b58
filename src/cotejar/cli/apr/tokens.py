"""`apr tokens`: do two tokenizers give the same ids?"""

from __future__ import annotations

from pathlib import Path

import click


@click.command("tokens", short_help="Compare two tokenizers over a corpus.")
@click.argument("reference")
@click.argument("candidate")
@click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    help="A UTF-8 file in place of the texts that come with this program.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def tokens(reference: str, candidate: str, corpus: Path | None, *, as_json: bool) -> None:
    """Compare the ids that two tokenizers give, and name the first token that differs.

    Each is [TOKENIZER:]PATH with native, llamacpp or transformers for TOKENIZER; without
    it, our own tokenizer of that model.

    \b
    apr tokens model.gguf llamacpp:model.gguf
    apr tokens model.gguf model.apr
    apr tokens model.gguf transformers:DIR --corpus text.txt

    Exits 0 on PASS, 1 on FAIL, 2 on bad input, 3 when nothing could be compared.
    """  # noqa: D301 - click wants the control character
    from cotejar.engines.tokenizers import open_tokenizer
    from cotejar.parity.tokens import compare_tokenizers
    from cotejar.report.json_output import print_json
    from cotejar.report.progress import progress
    from cotejar.report.tables import print_lines
    from cotejar.report.tokens import tokens_lines
    from cotejar.tokenizer.corpus import built_in_corpus, read_corpus

    cases = built_in_corpus() if corpus is None else read_corpus(corpus)
    with progress() as show:
        show(f"opening {reference}")
        first = open_tokenizer(reference)
        show(f"opening {candidate}")
        report = compare_tokenizers(first, open_tokenizer(candidate), cases, show)
    if as_json:
        print_json(report.as_json())
    else:
        print_lines(tokens_lines(report))
    raise SystemExit(report.verdict.exit_code)
