"""`apr import`: a model of another format becomes an `.apr`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("import", short_help="Write a GGUF or Hugging Face model as an .apr.")
@click.argument("source")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The .apr to write."
)
@click.option("--strict", is_flag=True, help="Refuse block types without an upstream code.")
@click.option(
    "--quantize",
    type=click.Choice(["q8_0", "q4_0", "q4_k", "q6_k"], case_sensitive=False),
    help="Re-encode the matrices.",
)
@click.option("--force", is_flag=True, help="Replace the output if it is there.")
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Read the output back, before it appears, and compare every tensor.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def import_(
    source: str,
    output: Path,
    quantize: str | None,
    *,
    strict: bool,
    force: bool,
    verify: bool,
    as_json: bool,
) -> None:
    """Write SOURCE as an .apr: dimensions reversed, bytes unchanged.

    SOURCE is a .gguf (any part of a split one), a .safetensors, a Hugging Face folder, or
    demo:smollm2. The output appears whole or not at all. Block types that upstream's .apr
    has no code for are written as 64 + ggml's id and announced in the metadata.

    \b
    apr import model.gguf -o model.apr
    apr import demo:smollm2 -o smollm2.apr --force
    apr import hf-folder -o model.apr --quantize q8_0

    Exits 0 when the file is written, 2 on bad input: nothing is written then.
    """  # noqa: D301 - click wants the control character
    from cotejar.files.conversion import run_conversion
    from cotejar.formats.convert import import_model
    from cotejar.report.conversion_text import conversion_lines
    from cotejar.report.json_output import print_json
    from cotejar.report.progress import progress
    from cotejar.report.tables import print_lines

    with progress() as show:
        done = run_conversion(
            source,
            lambda check: import_model(
                source,
                output,
                strict=strict,
                quantize=quantize,
                overwrite=force,
                check=check,
            ),
            verify=verify,
            on_progress=show,
        )
    if as_json:
        print_json(done.as_json())
    else:
        print_lines(conversion_lines(done))
