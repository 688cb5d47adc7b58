"""`apr noise`: how far do honest arithmetics lie apart on a model?"""

from __future__ import annotations

from pathlib import Path

import click


@click.command("noise", short_help="Measure how far honest arithmetics lie apart.")
@click.argument("model")
@click.option(
    "--engines",
    default="native+f32,native+q8",
    show_default=True,
    metavar="LIST",
    help="ENGINE[+numerics] with commas between them, or all.",
)
@click.option(
    "-p",
    "--prompt",
    "prompts",
    multiple=True,
    help="Measure over this text; may be repeated.  [default: a varied set]",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the profile here.")
@click.option("--force", is_flag=True, help="Replace OUTPUT if it is there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def noise(
    model: str,
    engines: str,
    prompts: tuple[str, ...],
    output: Path | None,
    *,
    force: bool,
    as_json: bool,
) -> None:
    """Hold engines against the float64 oracle on MODEL, and keep the largest distances.

    What is measured is taken for honest noise: `apr parity --noise PROFILE` allows a small
    multiple of it at each site. `all` is every numerics of every engine that is installed;
    what cannot run is left out, and listed.

    \b
    apr noise model.gguf -o model.noise.json
    apr noise model.gguf --engines native+q8,llamacpp
    apr noise demo:smollm2 --engines all --json

    Exits 0 when it measured, 2 on bad input, 3 when nothing could be measured.
    """  # noqa: D301 - click wants the control character
    from cotejar.formats.atomic import require_writable
    from cotejar.formats.open_model import input_files
    from cotejar.parity.noise_file import noise_json, write_noise
    from cotejar.parity.noise_measure import NoiseRequest, measure_noise
    from cotejar.report.json_output import print_json
    from cotejar.report.noise import noise_lines
    from cotejar.report.progress import progress
    from cotejar.report.tables import print_lines

    named = tuple(dict.fromkeys(name.strip() for name in engines.split(",") if name.strip()))
    if not named:
        raise click.UsageError("--engines names no engine")
    if output is not None:
        require_writable(output, overwrite=force, inputs=input_files(model))
    request = NoiseRequest(model=model, engines=named, prompts=prompts)
    with progress() as show:
        profile = measure_noise(request, show)
    if output is not None:
        write_noise(output, profile, overwrite=force)
    if as_json:
        print_json(noise_json(profile))
    else:
        print_lines(noise_lines(profile))
