"""`apr eval`: perplexity of a text, and divergence from another model on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = click.Path(path_type=Path)


def _common(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout."),
        click.option(
            "--resume", type=TEXT, help="Keep the sums here; go on from them if there."
        ),
        click.option("--chunk", default=512, show_default=True, help="Tokens run as one text."),
        click.option("--text", type=TEXT, required=True, help="A file of UTF-8."),
    ):
        command = option(command)
    return command


@click.group("eval", short_help="Perplexity of a text; KL from another model.")
def eval_() -> None:
    """Measure how well a model predicts a text.

    The text is cut as llama.cpp's perplexity tool cuts it: of each chunk the second half is
    judged.
    """


@eval_.command("perplexity")
@click.argument("model")
@_common
def perplexity(
    model: str, text: Path, chunk: int, resume: Path | None, *, as_json: bool
) -> None:
    """Measure the perplexity of a text under MODEL, [ENGINE[+numerics]:]PATH.

    \b
    apr eval perplexity model.gguf --text wiki.txt

    Exits 0 when done, 2 on bad input, 3 when the text is too short to measure.
    """  # noqa: D301 - click wants the control character
    from cotejar.evaluation.perplexity import measure_perplexity
    from cotejar.report.evaluation import perplexity_json, perplexity_lines
    from cotejar.report.json_output import print_json
    from cotejar.report.progress import progress
    from cotejar.report.tables import print_lines

    with progress() as show:
        found = measure_perplexity(
            model, text, chunk_tokens=chunk, resume=resume, on_chunk=show
        )
    if as_json:
        print_json(perplexity_json(found))
    else:
        print_lines(perplexity_lines(found))


@eval_.command("kl")
@click.argument("model")
@click.option("--reference", required=True, help="What MODEL is held against.")
@_common
def kl(
    model: str, reference: str, text: Path, chunk: int, resume: Path | None, *, as_json: bool
) -> None:
    """Measure how far MODEL's predictions lie from a reference's, over a text.

    \b
    apr eval kl model-Q4.gguf --reference model-F16.gguf --text wiki.txt

    Exits 0 when done, 2 on bad input, 3 when the text is too short to measure.
    """  # noqa: D301 - click wants the control character
    from cotejar.evaluation.divergence import measure_divergence
    from cotejar.report.evaluation import divergence_json, divergence_lines
    from cotejar.report.json_output import print_json
    from cotejar.report.progress import progress
    from cotejar.report.tables import print_lines

    with progress() as show:
        found = measure_divergence(
            reference, model, text, chunk_tokens=chunk, resume=resume, on_chunk=show
        )
    if as_json:
        print_json(divergence_json(found))
    else:
        print_lines(divergence_lines(found))
