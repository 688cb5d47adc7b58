"""`apr diagnose`: where two runs part, which side is wrong, and why."""

from __future__ import annotations

from pathlib import Path

import click

from cotejar.cli.decode_option import decode_option
from cotejar.cli.token_ids import ids


@click.command("diagnose", short_help="Name the operation, the side and the cause.")
@click.argument("reference")
@click.argument("candidate")
@click.option("-p", "--prompt", help='The text to run.  [default: "What is 2+2?"]')
@click.option("--tokens", type=ids, default=(), help="Token ids instead: 1,2,3.")
@click.option(
    "--fault", metavar="ID[@LAYER][*STRENGTH]", help="Inject a fault into the candidate."
)
@decode_option
@click.option("--layer", metavar="N|A..B", help="Replay these layers alone.")
@click.option(
    "--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Threads."
)
@click.option("--model", metavar="PATH", help="The model that a recorded side ran.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder for a reproduction."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def diagnose(
    reference: str,
    candidate: str,
    prompt: str | None,
    tokens: tuple[int, ...],
    fault: str | None,
    decode: int | None,
    layer: str | None,
    jobs: int,
    model: str | None,
    output: Path | None,
    *,
    as_json: bool,
) -> None:
    """Say where REFERENCE and CANDIDATE part, which of them is wrong, and why.

    Each is [ENGINE[+numerics][@device]:]PATH, or recorded:PATH for a trace made before.
    Every operation is computed again in float64 from the input that its own side recorded,
    so that its own error stands apart from what it inherited. The first operation whose
    error no declared rounding explains is the finding; known ways to be wrong are tried on
    it until one reproduces what was recorded.

    \b
    apr diagnose oracle:model.gguf native:model.gguf
    apr diagnose model.gguf recorded:run.trace
    apr diagnose a.gguf b.apr --fault rope-theta -o repro/
    apr diagnose oracle:m.gguf llamacpp:m.gguf --decode

    What is wrong behind the KV cache alone shows only with --decode.

    Exits 0 when nothing is wrong, 1 when something is, 2 on bad input, 3 when the two
    cannot be compared.
    """  # noqa: D301 - click wants the control character
    from cotejar.diagnosis.diagnose import diagnose as run_diagnosis
    from cotejar.diagnosis.request import Request
    from cotejar.report.diagnosis import diagnosis_lines
    from cotejar.report.json_output import print_json
    from cotejar.report.progress import progress
    from cotejar.report.tables import print_lines

    request = Request(
        reference=reference,
        candidate=candidate,
        prompt=prompt,
        token_ids=tokens,
        fault=fault,
        decode=decode,
        layers=layer,
        jobs=jobs,
        model=model,
        output=output,
    )
    with progress() as show:
        result = run_diagnosis(request, show)
    if as_json:
        print_json(result.as_json())
    else:
        print_lines(diagnosis_lines(result))
    raise SystemExit(result.verdict.exit_code)
