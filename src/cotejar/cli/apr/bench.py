"""`apr bench`: how fast a model runs here."""

from __future__ import annotations

import click


@click.command("bench", short_help="Measure prefill, decode, tracing and memory.")
@click.argument("model")
@click.option("--prefill", default=128, show_default=True, help="Tokens of the prompt.")
@click.option("--decode", default=64, show_default=True, help="Tokens after it, one by one.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Default: all usable CPUs.")
@click.option(
    "--numerics",
    type=click.Choice(["q8", "f32", "bf16", "w8a8"]),
    multiple=True,
    default=("q8",),
    show_default=True,
    help="Can be given more than once.",
)
@click.option("--repeats", default=3, show_default=True, help="Medians are over these.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def bench(
    model: str,
    prefill: int,
    decode: int,
    threads: int | None,
    numerics: tuple[str, ...],
    repeats: int,
    *,
    as_json: bool,
) -> None:
    """Measure how fast MODEL runs on this machine, with the native engine.

    Exits 0, or 2 on bad input. Nothing is judged.
    """
    from dataclasses import asdict

    from cotejar.engines.native.speed import measure_speed
    from cotejar.kernels.instruction_set import use_threads
    from cotejar.report.json_output import print_json
    from cotejar.report.speed import speed_lines

    if threads is not None:
        use_threads(threads)
    results = [
        measure_speed(model, numerics=one, prefill=prefill, decode=decode, repeats=repeats)
        for one in numerics
    ]
    if as_json:
        print_json({"results": [asdict(result) for result in results]})
    else:
        click.echo("\n".join(line for result in results for line in speed_lines(result)))
