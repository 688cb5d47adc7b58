"""`apr serve`: a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("serve", short_help="Answer over HTTP, as OpenAI's API does.")
@click.argument("model")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=8080, show_default=True, help="0 takes a free one.")
@click.option("--slots", default=8, show_default=True, help="Texts that grow at once.")
@click.option("--trace-dir", type=click.Path(path_type=Path), help="Write traces here.")
@click.option("--trace-every", default=1, show_default=True, help="Trace every n-th request.")
def serve(
    model: str, host: str, port: int, slots: int, trace_dir: Path | None, trace_every: int
) -> None:
    """Serve MODEL at /v1/completions and /v1/chat/completions until Ctrl-C.

    \b
    apr serve demo:smollm2
    apr serve model.gguf --port 9000 \\
        --trace-dir traces --trace-every 100

    There is no password: whoever reaches the address is answered. Needs the extra `serve`.

    Exits 0 after Ctrl-C, 2 on bad input.
    """  # noqa: D301 - click wants the control character
    from cotejar.report.tables import visible
    from cotejar.serving.run import ServeRequest, serve_model

    request = ServeRequest(
        source=model,
        host=host,
        port=port,
        slots=slots,
        trace_folder=trace_dir,
        trace_every=trace_every,
    )
    serve_model(
        request, lambda url: click.echo(f"serving {visible(model)} at {url}  (Ctrl-C ends it)")
    )
