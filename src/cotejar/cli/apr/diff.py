"""`apr diff`: what differs between two files."""

from __future__ import annotations

import click

from cotejar.cli.finite_range import FiniteRange


@click.command("diff", short_help="Show what differs between two models, or two traces.")
@click.argument("a")
@click.argument("b")
@click.option("--values", is_flag=True, help="Show the elements that differ most.")
@click.option("--weights", is_flag=True, help="Compare tensors only, no metadata.")
@click.option(
    "--filter",
    "name_filter",
    metavar="TEXT",
    help="Tensors or sites whose name contains TEXT, or matches it as a glob.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Length of each list.",
)
@click.option(
    "--transpose-aware",
    is_flag=True,
    help="Recognise a transposed matrix, and q/k rows in the other RoPE order.",
)
@click.option(
    "--threshold",
    type=FiniteRange(min=0),
    metavar="REL_L2",
    help="Relative L2 up to which values count as the same.  [default: 0]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def diff(
    a: str,
    b: str,
    name_filter: str | None,
    limit: int,
    threshold: float | None,
    *,
    values: bool,
    weights: bool,
    transpose_aware: bool,
    as_json: bool,
) -> None:
    """Show what differs between A, the reference, and B.

    Two models, of any two formats: metadata, then the tensors' bytes, then the decoded
    values of those that are not equal, worst first. Two traces: site by site. Two stage
    files (APRT): element by element. A diff judges nothing; `apr parity` does.

    With --threshold the architecture and the values decide; block types and other
    metadata keys, which go with a quantisation, are only listed.

    \b
    apr diff model.gguf model.apr
    apr diff model-f16.gguf model-q4_k.gguf --threshold 0.1
    apr diff hf-folder model.gguf --transpose-aware --values
    apr diff a.trace b.trace

    Exits 0 when they are the same, 1 when they differ, 2 on bad input, 3 when nothing
    could be compared.
    """  # noqa: D301 - click wants the control character
    from cotejar.files.diff_files import diff_files
    from cotejar.files.diff_models import DiffOptions
    from cotejar.report.file_diff import file_diff_json, file_diff_lines
    from cotejar.report.json_output import print_json
    from cotejar.report.progress import progress
    from cotejar.report.tables import print_lines

    options = DiffOptions(
        name_filter=name_filter,
        weights_only=weights,
        transpose_aware=transpose_aware,
        threshold=threshold,
        num_worst=limit if values else 0,
    )
    with progress() as show:
        found = diff_files(
            a,
            b,
            options,
            limit=limit,
            on_progress=lambda name, done, total: show(
                f"comparing {done + 1} of {total}: {name}"
            ),
        )
    if as_json:
        print_json(file_diff_json(found, limit=limit))
    else:
        print_lines(file_diff_lines(found, limit=limit, with_values=values))
    raise SystemExit(found.exit_code)
