"""`apr trace`: what every layer computes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cotejar.cli.decode_option import decode_option
from cotejar.cli.token_ids import ids

if TYPE_CHECKING:
    from cotejar.engines.run_trace import TraceRequest
    from cotejar.trace.forward_trace import Capture


@click.command("trace", short_help="Record what every layer computes.")
@click.argument("model")
@click.option("--payload", is_flag=True, help="Run the model; without it, metadata only.")
@click.option("-p", "--prompt", help='The text to run.  [default: "What is 2+2?"]')
@click.option("--tokens", type=ids, default=(), help="Token ids instead: 1,2,3.")
@decode_option
@click.option("--layer", metavar="N|A..B", help="Only these layers.")
@click.option(
    "--scope",
    type=click.Choice(["all", "last", "both"]),
    default=None,
    help="Positions that statistics cover: all tokens, the last one, or both apart.  "
    "[default: both]",
)
@click.option(
    "--capture", metavar="all|SLOT,..", help="Keep these arrays too, not only statistics."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write a trace file.")
@click.option("--force", is_flag=True, help="Replace OUTPUT if it is there.")
@click.option("--brief", is_flag=True, help="The summary alone.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def trace(
    model: str,
    prompt: str | None,
    tokens: tuple[int, ...],
    decode: int | None,
    layer: str | None,
    scope: str | None,
    capture: str | None,
    output: Path | None,
    *,
    payload: bool,
    force: bool,
    brief: bool,
    as_json: bool,
) -> None:
    """Run MODEL once and record every site of every layer.

    MODEL is [ENGINE[+numerics]:]PATH, or recorded:PATH for a trace made before. Each layer
    gets ten lines, with the statistics of each scope and how many values they cover.

    \b
    apr trace demo:smollm2 --payload --prompt "What is 2+2?"
    apr trace oracle:model.apr --capture all -o run.trace
    apr trace m.gguf --capture all -o run.trace --decode

    Exits 0 when done, 2 on bad input.
    """  # noqa: D301 - click wants the control character
    from cotejar.engines.registry import parse_engine_name
    from cotejar.engines.run_trace import TraceRequest

    name = parse_engine_name(model)
    recording = any(option is not None for option in (decode, layer, scope, capture))
    if not (payload or output is not None or name.is_recorded):
        if prompt is not None or tokens or recording:
            raise click.UsageError(
                "--prompt, --tokens, --decode, --layer, --scope and --capture need --payload"
            )
        _show_metadata(name.path, as_json=as_json)
        return
    if name.is_recorded and recording:
        raise click.UsageError(
            "--decode, --layer, --scope and --capture say what to record; a recorded trace is "
            "shown whole"
        )
    wanted = _read_capture(name.path, layer, scope, capture)
    request = TraceRequest(
        source=model, prompt=prompt, token_ids=tokens, capture=wanted, decode=decode
    )
    _show_trace(request, output, force=force, brief=brief, as_json=as_json)


def _read_capture(
    path: str, layer: str | None, scope: str | None, capture: str | None
) -> Capture:
    from cotejar.model.language_model import open_language_model
    from cotejar.trace.forward_trace import Capture, parse_capture, parse_layers, parse_scopes

    layers = None
    if layer is not None:
        num_layers = open_language_model(path).declared.config.num_layers
        layers = parse_layers(layer, num_layers)
    return Capture(
        scopes=parse_scopes(scope or "both"),
        array_slots=frozenset() if capture is None else parse_capture(capture),
        layers=layers,
    )


def _show_trace(
    request: TraceRequest, output: Path | None, *, force: bool, brief: bool, as_json: bool
) -> None:
    from cotejar.engines.registry import parse_engine_name
    from cotejar.engines.run_trace import run_trace
    from cotejar.formats.atomic import require_writable
    from cotejar.formats.open_model import input_files
    from cotejar.report.json_output import print_json
    from cotejar.report.tables import print_lines
    from cotejar.report.trace import trace_json, trace_lines
    from cotejar.trace.trace_file import write_trace

    if output is not None:
        inputs = input_files(parse_engine_name(request.source).path)
        require_writable(output, overwrite=force, inputs=inputs)
    result = run_trace(request)
    if output is not None:
        write_trace(output, result.trace, overwrite=force)
    if as_json:
        print_json(trace_json(result))
    else:
        print_lines(trace_lines(result, brief=brief))


def _show_metadata(path: str, *, as_json: bool) -> None:
    from cotejar.model.language_model import open_language_model
    from cotejar.report.json_output import print_json
    from cotejar.report.tables import print_lines
    from cotejar.report.trace import architecture_lines, metadata_json

    model = open_language_model(path)
    if as_json:
        print_json(metadata_json(model))
        return
    print_lines(architecture_lines(model.declared.config))
    click.echo("No statistics: --payload runs the model.")
