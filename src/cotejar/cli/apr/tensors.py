"""`apr tensors`: what tensors a file holds."""

from __future__ import annotations

import click


@click.command("tensors", short_help="List a model's tensors, with statistics if asked.")
@click.argument("file")
@click.option("--stats", is_flag=True, help="Decode every value; mean, std, min, max, NaN.")
@click.option(
    "--filter",
    "name_filter",
    metavar="TEXT",
    help="Names that contain TEXT; with * ? [ in it, a glob for the whole name.",
)
@click.option("--limit", type=click.IntRange(min=1), help="List at most so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def tensors(
    file: str, name_filter: str | None, limit: int | None, *, stats: bool, as_json: bool
) -> None:
    """List the tensors of FILE: name, block type, shape, bytes, offset.

    Shapes are row-major, (rows, columns), whatever the format. Statistics are over the
    decoded values, finite ones only; NaN and infinite ones are counted. std has ddof 1.

    \b
    apr tensors model.gguf
    apr tensors model.gguf --stats --filter ffn_down
    apr tensors model.apr --filter "model.layers.0.*" --json

    Exits 0, 2 on bad input, 3 when no tensor matches.
    """  # noqa: D301 - click wants the control character
    from cotejar.files.tensor_list import list_tensors
    from cotejar.report.json_output import print_json
    from cotejar.report.progress import progress
    from cotejar.report.tables import print_lines
    from cotejar.report.tensor_list_text import tensor_list_lines

    with progress() as show:
        found = list_tensors(
            file,
            name_filter=name_filter,
            limit=limit,
            with_stats=stats,
            on_tensor=lambda name, done, total: show(
                f"measuring {done + 1} of {total}: {name}"
            ),
        )
    if as_json:
        print_json(found.as_json())
    else:
        print_lines(tensor_list_lines(found))
