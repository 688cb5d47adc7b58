"""`apr probe`: which faults can a prompt show?"""

from __future__ import annotations

import click

from cotejar.cli.token_ids import ids


@click.command("probe", short_help="Which faults can a prompt show on a model?")
@click.argument("model")
@click.option("-p", "--prompt", help="The text to judge.  [default: that of `apr parity`]")
@click.option("--tokens", type=ids, default=(), help="Token ids instead: 1,2,3.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="ID[@LAYER][*STRENGTH]",
    help="Judge this one; may be repeated.  [default: all]",
)
@click.option(
    "--numerics",
    type=click.Choice(["f32", "q8", "bf16", "w8a8"]),
    default="f32",
    show_default=True,
    help="In which noise a fault must show.",
)
@click.option(
    "--measure",
    type=click.Choice(["none", "doubt", "all"]),
    default="doubt",
    show_default=True,
    help="Which faults are run: those whose showing depends on the values.",
)
@click.option("--all", "show_all", is_flag=True, help="List the faults that show, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def probe(
    model: str,
    prompt: str | None,
    tokens: tuple[int, ...],
    faults: tuple[str, ...],
    numerics: str,
    measure: str,
    *,
    show_all: bool,
    as_json: bool,
) -> None:
    """Say which faults of the catalogue a prompt can show on MODEL, and propose a better one.

    Position 0 cannot show RoPE, a text within the window shows none, and a model without
    biases cannot miss one. Where the values decide, the fault is run, and judged against
    the exact oracle by the default gates.

    \b
    apr probe model.gguf
    apr probe model.gguf --prompt "Hello" --numerics q8
    apr probe model.gguf --tokens 1 --measure none

    Exits 0 where no fault that the model can have stays hidden, 1 where one does, 2 on bad
    input, 3 where there was none to show.
    """  # noqa: D301 - click wants the control character
    from cotejar.engines.run_trace import DEFAULT_PROMPT, require_text
    from cotejar.model.language_model import open_language_model
    from cotejar.parity.probe import probe_prompt
    from cotejar.report.json_output import print_json
    from cotejar.report.probe import probe_lines
    from cotejar.report.progress import progress
    from cotejar.report.tables import print_lines

    if prompt is not None and tokens:
        raise click.UsageError("give --prompt or --tokens, not both")
    opened = open_language_model(model)
    text = None if tokens else DEFAULT_PROMPT if prompt is None else prompt
    if text is not None:
        require_text(text)
    with progress() as show:
        report = probe_prompt(
            opened,
            token_ids=tokens if text is None else opened.tokenizer.encode(text),
            prompt=text,
            faults=faults,
            numerics=numerics,
            measure=measure,  # type: ignore[arg-type] # click has checked it
            on_progress=show,
        )
    if as_json:
        print_json(report.as_json())
    else:
        print_lines(probe_lines(report, show_all=show_all))
    raise SystemExit(report.verdict.exit_code)
