"""`apr export`: an `.apr` becomes a GGUF."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("export", short_help="Write an .apr as a GGUF.")
@click.argument("source")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The .gguf to write."
)
@click.option("--force", is_flag=True, help="Replace the output if it is there.")
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Read the output back, before it appears, and compare every tensor.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def export(source: str, output: Path, *, force: bool, verify: bool, as_json: bool) -> None:
    """Write SOURCE, an .apr, as a GGUF: dimensions reversed, bytes unchanged.

    The output appears whole or not at all. A model that came from a GGUF gets its keys
    back with their types, and every tensor its bytes. Of one that came from Hugging Face
    the rows of q and k are put in the order that llama.cpp wants, where it wants another.

    \b
    apr export model.apr -o model.gguf

    Exits 0 when the file is written, 2 on bad input: nothing is written then.
    """  # noqa: D301 - click wants the control character
    from cotejar.files.conversion import run_conversion
    from cotejar.formats.convert import export_model
    from cotejar.report.conversion_text import conversion_lines
    from cotejar.report.json_output import print_json
    from cotejar.report.progress import progress
    from cotejar.report.tables import print_lines

    with progress() as show:
        done = run_conversion(
            source,
            lambda check: export_model(source, output, overwrite=force, check=check),
            verify=verify,
            on_progress=show,
        )
    if as_json:
        print_json(done.as_json())
    else:
        print_lines(conversion_lines(done))
