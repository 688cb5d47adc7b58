"""`apr run`: one prompt, one answer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cotejar.cli.apr.sampling import (
    grammar_flags,
    read_grammar_flags,
    read_sampling,
    sampling_flags,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.generation.sampling_options import SamplingOptions

PATH = click.Path(path_type=Path)


@click.command("run", short_help="Answer one prompt.")
@click.argument("model")
@click.argument("prompt_argument", metavar="[PROMPT]", required=False)
@click.option("-p", "--prompt", help="The same as PROMPT.")
@click.option("-n", "--max-tokens", default=32, show_default=True, help="Stop after so many.")
@sampling_flags
@grammar_flags
@click.option("--batch", type=PATH, help="Answer the prompts of a .jsonl file, side by side.")
@click.option("-o", "--output", type=PATH, help="Where the answers to --batch go.")
@click.option("--slots", default=8, show_default=True, help="Answers of --batch at once.")
@click.option("--raw", is_flag=True, help="Give the prompt as it is, without chat template.")
@click.option("--skip-contract", is_flag=True, help="Do not look at the weights first.")
@click.option(
    "--no-gpu", "--cpu", is_flag=True, help="Use no GPU. Every engine here runs on the CPU."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def run(
    model: str,
    prompt_argument: str | None,
    prompt: str | None,
    max_tokens: int,
    batch: Path | None,
    output: Path | None,
    slots: int,
    *,
    raw: bool,
    skip_contract: bool,
    no_gpu: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Answer one prompt with MODEL, as text that streams while it is made.

    MODEL is [ENGINE[+numerics]:]PATH: a .gguf, an .apr, a Hugging Face folder, or
    demo:smollm2. An instruct model's own chat template is applied unless --raw is given.

    \b
    apr run demo:smollm2 "What is the capital of France?"
    apr run native+f32:model.apr --prompt "def fib(n):" --raw
    apr run model.gguf --batch prompts.jsonl -o answers.jsonl

    A line of a batch is {"prompt": "..."} or {"messages": [...]}, and if wanted id,
    max_tokens, temperature and seed. Interrupted, the same command goes on.

    Exits 0 when done, 2 on bad input.
    """  # noqa: D301 - click wants the control character
    if batch is not None:
        if prompt is not None or prompt_argument is not None:
            raise click.UsageError("give a prompt or --batch, not both")
        if output is None:
            raise click.UsageError("--batch needs -o OUTPUT")
        if read_grammar_flags(options) is not None:
            raise click.UsageError("a batch takes no grammar")
        sampling = read_sampling(options)
        run_batch_file(
            model, batch, output, max_tokens, sampling, slots=slots, raw=raw, as_json=as_json
        )
        return
    from cotejar.generation.run import RunRequest, run_prompt
    from cotejar.report.json_output import print_json
    from cotejar.report.tables import encodable, visible, visible_lines

    del no_gpu  # there is no GPU engine to leave out
    if prompt is not None and prompt_argument is not None:
        raise click.UsageError("give the prompt once: as PROMPT or with --prompt")
    given = prompt if prompt is not None else prompt_argument
    if given is None:
        raise click.UsageError("give a prompt: as PROMPT or with --prompt")
    request = RunRequest(
        source=model,
        prompt=given,
        max_tokens=max_tokens,
        grammar=read_grammar_flags(options),
        sampling=read_sampling(options),
        raw=raw,
        skip_contract=skip_contract,
    )
    start = time.perf_counter()
    heading = f"=== APR Run ===\nSource: {visible(model)}\n\nOutput:\n"
    printer = _Printer(heading, lambda text: encodable(visible_lines(text)), quiet=as_json)
    result = run_prompt(request, printer.write)
    seconds = time.perf_counter() - start
    if not as_json:
        printer.finish()
        click.echo(f"\n\nCompleted in {seconds:.2f}s (cached)")
        return
    facts = {
        "model": model,
        "text": result.text,
        "tokens": result.generation.token_ids,
        "tokens_generated": len(result.generation.token_ids),
        "prompt_tokens": list(result.generation.prompt_ids),
        "max_tokens": max_tokens,
        "tok_per_sec": result.generation.tokens_per_s,
        "inference_time_ms": 1000 * result.generation.seconds,
        "used_gpu": False,
        "cached": True,
        "ended": result.generation.ended,
        "chat_template": result.used_template,
        "engine": result.engine.engine,
        "numerics": result.engine.numerics,
    }
    print_json(facts)


def run_batch_file(
    model: str,
    prompts: Path,
    output: Path,
    max_tokens: int,
    sampling: SamplingOptions,
    *,
    slots: int,
    raw: bool,
    as_json: bool,
) -> None:
    """Answer a file of prompts; a bar on stderr shows how far it is."""
    from cotejar.generation.batch import BatchRequest, run_batch
    from cotejar.generation.open_native import open_native
    from cotejar.report.batch import batch_json, batch_lines
    from cotejar.report.json_output import print_json
    from cotejar.report.progress import progress_bar
    from cotejar.report.tables import print_lines

    request = BatchRequest(
        prompts=prompts,
        output=output,
        max_tokens=max_tokens,
        sampling=sampling,
        raw=raw,
        slots=slots,
    )
    start = time.perf_counter()
    with progress_bar("prompts") as show:
        result = run_batch(open_native(model), request, show)
    seconds = time.perf_counter() - start
    if as_json:
        print_json(batch_json(result, output, seconds))
    else:
        print_lines(batch_lines(result, output, seconds))
    if result.failures:
        raise SystemExit(2)


class _Printer:
    """Prints the heading before the first piece, so that an error prints nothing else."""

    def __init__(self, heading: str, encode: Callable[[str], str], *, quiet: bool) -> None:
        self._heading = heading
        self._encode = encode
        self._quiet = quiet
        self._began = False

    def write(self, text: str) -> None:
        if self._quiet:
            return
        if not self._began:
            click.echo(self._encode(self._heading), nl=False)
            self._began = True
        click.echo(self._encode(text), nl=False)

    def finish(self) -> None:
        """Nothing was generated at all: the heading is due all the same."""
        self.write("")
