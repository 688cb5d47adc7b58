"""`apr inspect`: what a file is."""

from __future__ import annotations

import click


@click.command("inspect", short_help="Show what a model or trace file is.")
@click.argument("file")
@click.option("--verify", is_flag=True, help="Read every byte; check all checksums.")
@click.option("--vocab", is_flag=True, help="Show the vocabulary too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def inspect(file: str, *, verify: bool, vocab: bool, as_json: bool) -> None:
    """Show FILE's header, metadata, architecture and block types.

    FILE is a .gguf (any part of a split one), an .apr, a .safetensors, a Hugging Face
    folder, a trace, a stage file, or demo:smollm2. Any architecture can be inspected.
    Headers and tables are read and checked; weights are not, unless --verify asks for it.

    \b
    apr inspect model.gguf
    apr inspect model.apr --verify
    apr inspect model.gguf --json

    Exits 0 for a valid file, 2 for a broken one or none.
    """  # noqa: D301 - click wants the control character
    from cotejar.files.inspection import inspect_file
    from cotejar.report.inspection_text import inspection_lines
    from cotejar.report.json_output import print_json
    from cotejar.report.tables import print_lines

    found = inspect_file(file, verify=verify, whole_lists=vocab)
    if as_json:
        print_json(found.as_json())
    else:
        print_lines(inspection_lines(found, with_vocab=vocab))
