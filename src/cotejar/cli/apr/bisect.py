"""`apr bisect`: which difference makes it bad?"""

from __future__ import annotations

from pathlib import Path

import click

from cotejar.cli.finite_range import FiniteRange


@click.command("bisect", short_help="Find the difference that makes it bad.")
@click.option("--good", required=True, help="A model, a commit, or KEY=VALUE words.")
@click.option("--bad", required=True, help="The same, that is bad.")
@click.option("--check", required=True, metavar="CMD", help="Run on each state; {} names it.")
@click.option(
    "--over",
    type=click.Choice(["layers", "tensors", "commits", "options"]),
    default="layers",
    show_default=True,
    help="What is searched.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=Path("apr-bisect.json"),
    show_default=True,
    help="Keeps outcomes; an interrupted search goes on.",
)
@click.option(
    "--timeout",
    type=FiniteRange(0, 1e7, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds for one run.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def bisect(
    good: str,
    bad: str,
    check: str,
    over: str,
    state: Path,
    timeout: float,
    *,
    as_json: bool,
) -> None:
    """Search between a good and a bad side with any command.

    The command's exit code decides each state: 0 is good, 1 bad, anything else undecided,
    which is passed over. Of two models, states are mixed from the tensors of both; of
    commits, each is a working tree of its own; options are set in the environment.

    \b
    apr bisect --good q8.gguf --bad q4.gguf \\
        --check "apr parity f16.gguf {} --brief"
    apr bisect --over commits --good v1.2 --bad HEAD \\
        --check "make test"
    apr bisect --over options --good "COTEJAR_ISA=avx2" \\
        --bad "COTEJAR_ISA=avx512vnni" \\
        --check "apr check model.gguf"

    Exits 0 when one difference is named, 2 on bad input, 3 when none can be.
    """  # noqa: D301 - click wants the control character
    from cotejar.diagnosis.bisection.run import BisectRequest, run_bisect
    from cotejar.report.bisection import bisection_json, bisection_lines
    from cotejar.report.json_output import print_json
    from cotejar.report.progress import progress
    from cotejar.report.tables import print_lines

    request = BisectRequest(
        good=good, bad=bad, check=check, over=over, saved=state, timeout_s=timeout
    )
    with progress() as show:
        found = run_bisect(request, show)
    if as_json:
        print_json(bisection_json(found))
    else:
        print_lines(bisection_lines(found))
    raise SystemExit(found.verdict.exit_code)
