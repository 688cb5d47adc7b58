"""`apr check`: does one engine agree with itself?"""

from __future__ import annotations

import click

from cotejar.cli.finite_range import FiniteRange
from cotejar.cli.token_ids import ids


@click.command("check", short_help="Does an engine agree with itself?")
@click.argument("model")
@click.option("--engine", metavar="ENGINE[+NUMERICS]", help="Instead of a prefix of MODEL.")
@click.option("-p", "--prompt", help="The text that is cut up.  [default: one of every kind]")
@click.option("--tokens", type=ids, default=(), help="Token ids instead: 1,2,3.")
@click.option(
    "--limit", type=FiniteRange(0), help="On relative L2, instead of the measured one."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def check(
    model: str,
    engine: str | None,
    prompt: str | None,
    tokens: tuple[int, ...],
    limit: float | None,
    *,
    as_json: bool,
) -> None:
    """Run one text in every way that must not matter, and compare the logits.

    Token by token, in chunks, beside other texts, with other threads, from a saved state,
    after another text with the same beginning, at the end of the context. MODEL is
    [ENGINE[+numerics]:]PATH.

    \b
    apr check model.gguf
    apr check llamacpp:model.gguf
    apr check model.gguf --engine native+f32 --json

    Exits 0 on PASS, 1 on FAIL, 2 on bad input, 3 when nothing could be judged.
    """  # noqa: D301 - click wants the control character
    from cotejar.parity.self_check import check_engine
    from cotejar.report.json_output import print_json
    from cotejar.report.progress import progress
    from cotejar.report.self_check import self_check_json, self_check_lines
    from cotejar.report.tables import print_lines

    if prompt is not None and tokens:
        raise click.UsageError("give one of --prompt and --tokens")
    source = model if engine is None else f"{engine}:{model}"
    with progress() as show:
        found = check_engine(source, prompt=prompt, token_ids=tokens, limit=limit, on_row=show)
    if as_json:
        print_json(self_check_json(found))
    else:
        print_lines(self_check_lines(found))
    raise SystemExit(found.verdict.exit_code)
