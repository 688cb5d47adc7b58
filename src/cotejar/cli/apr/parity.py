"""`apr parity`: do two implementations of one model agree?"""

from __future__ import annotations

from pathlib import Path

import click

from cotejar.cli.token_ids import ids

SCOPES = click.Choice(["all", "last", "both"])


@click.command("parity", short_help="Compare two models or engines, and judge.")
@click.argument("reference", required=False)
@click.argument("candidate", required=False)
@click.option("-p", "--prompt", "prompts", multiple=True, help="Compare over this text; again.")
@click.option("--tokens", type=ids, default=(), help="Token ids instead: 1,2,3.")
@click.option(
    "--contract",
    type=click.Path(path_type=Path),
    help="Take gates, preconditions and, where not given, the pair from its parity: block.",
)
@click.option("--scope", type=SCOPES, default=None, help="Scopes to compare.  [default: both]")
@click.option("--reference-scope", type=SCOPES, default="both", help="What it records.")
@click.option("--candidate-scope", type=SCOPES, default="both", help="What it records.")
@click.option("--waive", multiple=True, metavar="ID", help="Do not insist on a precondition.")
@click.option("--fault", metavar="ID[@LAYER]", help="Inject a fault into the candidate.")
@click.option("--all-sites", is_flag=True, help="Show every site, not each slot's worst.")
@click.option("--brief", is_flag=True, help="The verdict alone, without the table.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the JSON here.")
@click.option("--force", is_flag=True, help="Replace OUTPUT if it is there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def parity(
    reference: str | None,
    candidate: str | None,
    prompts: tuple[str, ...],
    tokens: tuple[int, ...],
    contract: Path | None,
    scope: str | None,
    reference_scope: str,
    candidate_scope: str,
    waive: tuple[str, ...],
    fault: str | None,
    output: Path | None,
    *,
    all_sites: bool,
    brief: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Compare CANDIDATE with REFERENCE, site by site, and judge.

    Each is [ENGINE[+numerics][@device]:]PATH, or recorded:PATH for a trace made before.
    Whether the two may be compared at all is judged first; only then how far they differ.

    \b
    apr parity model.gguf model.apr
    apr parity oracle:model.gguf native+f32:model.gguf --prompt "What is 2+2?"
    apr parity --contract contracts/apr-vs-gguf-forward-parity-v1.yaml model.gguf model.apr

    Exits 0 on PASS, 1 on FAIL, 2 on bad input, 3 when the two cannot be compared.
    """  # noqa: D301 - click wants the control character
    from cotejar.contracts.parity_block import read_parity_block
    from cotejar.engines.run_trace import DEFAULT_PROMPT
    from cotejar.formats.atomic import atomic_write_text, require_writable
    from cotejar.parity.compare import Plan
    from cotejar.parity.preconditions import WAIVABLE
    from cotejar.parity.run import Request, run_parity
    from cotejar.report.json_output import encode_json, print_json
    from cotejar.report.parity import Detail, parity_lines
    from cotejar.report.progress import progress
    from cotejar.report.tables import print_lines
    from cotejar.trace.forward_trace import parse_scopes

    plan = Plan()
    default_prompts: tuple[str, ...] = ()
    if contract is not None:
        block = read_parity_block(contract)
        plan, default_prompts = block.plan, block.prompts
        reference, candidate = reference or block.reference, candidate or block.candidate
    if reference is None or candidate is None:
        raise click.UsageError("name two sides: apr parity REFERENCE CANDIDATE")
    for name in waive:
        if name not in WAIVABLE:
            raise click.UsageError(
                f"{name!r} cannot be waived; these can: {', '.join(WAIVABLE)}"
            )
    request = Request(
        reference=reference,
        candidate=candidate,
        prompts=prompts,
        default_prompts=default_prompts or (DEFAULT_PROMPT,),
        token_ids=tokens,
        plan=plan.with_options(parse_scopes(scope) if scope else None, frozenset(waive)),
        reference_scopes=parse_scopes(reference_scope),
        candidate_scopes=parse_scopes(candidate_scope),
        fault=fault,
    )
    if output is not None:
        require_writable(output, overwrite=force)
    with progress() as show:
        report = run_parity(request, show)
    facts = report.as_json()
    if output is not None:
        atomic_write_text(output, encode_json(facts) + "\n", overwrite=force)
    if as_json:
        print_json(facts)
    else:
        detail: Detail = "none" if brief else "sites" if all_sites else "slots"
        print_lines(parity_lines(report, detail=detail))
    raise SystemExit(report.verdict.exit_code)
