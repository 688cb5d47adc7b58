"""`apr parity`: do two implementations of one model agree?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from cotejar.cli.decode_option import decode_option
from cotejar.cli.token_ids import ids
from cotejar.errors import MissingFileError

if TYPE_CHECKING:
    from cotejar.contracts.parity_block import ParityBlock
    from cotejar.parity.compare import Plan
    from cotejar.parity.generation import GenerationRequest
    from cotejar.parity.run import Request
    from cotejar.report.parity import Detail

SCOPES = click.Choice(["all", "last", "both"])


@click.command("parity", short_help="Compare two models or engines, and judge.")
@click.argument("reference", required=False)
@click.argument("candidate", required=False)
@click.option(
    "-p", "--prompt", "prompts", multiple=True, help="Compare over this text; may be repeated."
)
@click.option("--tokens", type=ids, default=(), help="Token ids instead: 1,2,3.")
@click.option(
    "--contract",
    type=click.Path(path_type=Path),
    help="Take gates, preconditions and, where not given, the pair from its parity: block.",
)
@click.option(
    "--noise",
    type=click.Path(path_type=Path),
    metavar="PROFILE",
    help="Take the gates from what `apr noise` measured on this model.",
)
@click.option("--scope", type=SCOPES, default=None, help="Scopes to compare.  [default: both]")
@click.option("--reference-scope", type=SCOPES, default="both", help="Scopes it records.")
@click.option("--candidate-scope", type=SCOPES, default="both", help="Scopes it records.")
@click.option(
    "--waive",
    multiple=True,
    metavar="ID",
    help="Do not insist on a precondition; may be repeated.",
)
@click.option(
    "--fault",
    metavar="ID[@LAYER][*STRENGTH]",
    help="Inject a fault into the candidate; `apr faults` lists them.",
)
@click.option(
    "--arbiter", is_flag=True, help="Run the exact oracle, too: which side is further from it?"
)
@decode_option
@click.option(
    "--generate", type=int, metavar="N", help="Decode N tokens on both sides, step by step."
)
@click.option("--chat", is_flag=True, help="With --generate: through each chat template.")
@click.option(
    "--explain-step", is_flag=True, help="With --generate: the sites of the first bad step."
)
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
    noise: Path | None,
    scope: str | None,
    reference_scope: str,
    candidate_scope: str,
    waive: tuple[str, ...],
    fault: str | None,
    decode: int | None,
    generate: int | None,
    output: Path | None,
    *,
    arbiter: bool,
    chat: bool,
    explain_step: bool,
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
    apr parity oracle:model.gguf native+f32:model.gguf
    apr parity --contract contract.yaml model.gguf model.apr
    apr parity recorded:a.trace recorded:b.trace --brief
    apr parity llamacpp:m.gguf m.gguf --generate 200 --chat
    apr parity oracle:m.gguf m.gguf --noise m.noise.json
    apr parity llamacpp:m.gguf m.gguf --arbiter
    apr parity oracle:m.gguf llamacpp:m.gguf --decode

    With --decode the tokens that were fed one at a time are compared, and no others.

    \b
    --waive takes
      config weights-fingerprint capture-points ddof

    Exits 0 on PASS, 1 on FAIL, 2 on bad input, 3 when the two cannot be compared.
    """  # noqa: D301 - click wants the control character
    # The ids are spelled out because `--help` loads no numpy; a test compares them.
    from cotejar.engines.run_trace import DEFAULT_PROMPT
    from cotejar.parity.compare import Plan
    from cotejar.parity.run import Request
    from cotejar.trace.forward_trace import parse_scopes

    block = _read_contract(contract)
    plan = _with_noise(block.plan if block else Plan(), noise)
    request = Request(
        reference=reference or (block and block.reference) or _no_side(),
        candidate=candidate or (block and block.candidate) or _no_side(),
        prompts=prompts,
        default_prompts=(block and block.prompts) or (DEFAULT_PROMPT,),
        token_ids=tokens,
        plan=plan.with_options(parse_scopes(scope) if scope else None, _waived(waive)),
        reference_scopes=parse_scopes(reference_scope),
        candidate_scopes=parse_scopes(candidate_scope),
        fault=fault,
        arbiter=arbiter,
        decode=decode,
    )
    read = [path for path in (contract, noise) if path is not None]
    if generate is not None and decode is not None:
        raise click.UsageError("--generate decodes on its own; leave --decode out")
    if generate is not None and arbiter:
        raise click.UsageError("--arbiter compares sites; --generate has none")
    if generate is not None:
        from cotejar.parity.generation import GenerationRequest

        _compare_generation(
            GenerationRequest(
                reference=request.reference,
                candidate=request.candidate,
                max_tokens=generate,
                prompts=prompts,
                default_prompts=request.default_prompts,
                token_ids=tokens,
                chat=chat,
                plan=request.plan,
                explain=explain_step,
                fault=fault,
            ),
            output,
            read,
            force=force,
            as_json=as_json,
        )
    if chat or explain_step:
        raise click.UsageError("--chat and --explain-step go with --generate")
    detail: Detail = "none" if brief else "sites" if all_sites else "slots"
    try:
        _compare(request, output, read, force=force, detail=detail, as_json=as_json)
    except MissingFileError as error:
        raise _missing_side(error, block) from None


def _read_contract(path: Path | None) -> ParityBlock | None:
    from cotejar.contracts.parity_block import read_parity_block

    return None if path is None else read_parity_block(path)


def _with_noise(plan: Plan, path: Path | None) -> Plan:
    """The plan with a noise profile to take its gates from."""
    from dataclasses import replace

    from cotejar.parity.noise_file import read_noise

    if path is None:
        return plan
    if plan.gates:
        raise click.UsageError("gates come from --contract or from --noise, not from both")
    return replace(plan, noise=read_noise(path))


def _no_side() -> NoReturn:
    raise click.UsageError("name two sides: apr parity REFERENCE CANDIDATE")


def _missing_side(error: MissingFileError, block: ParityBlock | None) -> MissingFileError:
    """The same error, or one that says how a file that only the contract names is made."""
    where = error.parts["where"]
    sides = (block.reference, block.candidate) if block else ()
    if not any(f":{side}".endswith(f":{where}") for side in sides if side):
        return error
    made = "run `make demo`, which makes it" if where.startswith("demo-out/") else "make it"
    return MissingFileError(
        "a file that the contract names is not there",
        where=where,
        expected=error.parts["expected"],
        found=error.parts["found"],
        hint=f"{made}, or name two sides: apr parity --contract FILE REFERENCE CANDIDATE",
    )


def _waived(ids: tuple[str, ...]) -> frozenset[str]:
    from cotejar.parity.preconditions import WAIVABLE

    for name in ids:
        if name not in WAIVABLE:
            raise click.UsageError(
                f"{name!r} cannot be waived; these can: {', '.join(WAIVABLE)}"
            )
    return frozenset(ids)


def _compare(
    request: Request,
    output: Path | None,
    read: list[Path],
    *,
    force: bool,
    detail: Detail,
    as_json: bool,
) -> None:
    """Run it, write it, show it, and exit as the verdict says."""
    from cotejar.engines.registry import parse_engine_name
    from cotejar.formats.atomic import atomic_write_text, require_writable
    from cotejar.formats.open_model import input_files
    from cotejar.parity.run import run_parity
    from cotejar.report.json_output import encode_json, print_json
    from cotejar.report.parity import parity_lines
    from cotejar.report.progress import progress
    from cotejar.report.tables import print_lines

    if output is not None:
        sides = (
            parse_engine_name(side).path for side in (request.reference, request.candidate)
        )
        inputs = [path for side in sides for path in input_files(side)] + read
        require_writable(output, overwrite=force, inputs=inputs)
    with progress() as show:
        report = run_parity(request, show)
    facts = report.as_json()
    if output is not None:
        atomic_write_text(output, encode_json(facts) + "\n", overwrite=force)
    if as_json:
        print_json(facts)
    else:
        print_lines(parity_lines(report, detail=detail))
    raise SystemExit(report.verdict.exit_code)


def _compare_generation(
    request: GenerationRequest,
    output: Path | None,
    read: list[Path],
    *,
    force: bool,
    as_json: bool,
) -> NoReturn:
    """The same for `--generate`."""
    from cotejar.engines.registry import parse_engine_name
    from cotejar.formats.atomic import atomic_write_text, require_writable
    from cotejar.formats.open_model import input_files
    from cotejar.parity.generation import run_generation
    from cotejar.report.generation import generation_json, generation_lines
    from cotejar.report.json_output import encode_json, print_json
    from cotejar.report.progress import progress
    from cotejar.report.tables import print_lines

    if request.prompts and request.token_ids:
        raise click.UsageError("give one of --prompt and --tokens")
    if output is not None:
        sides = (parse_engine_name(s).path for s in (request.reference, request.candidate))
        inputs = [path for side in sides for path in input_files(side)] + read
        require_writable(output, overwrite=force, inputs=inputs)
    with progress() as show:
        report = run_generation(request, show)
    facts = generation_json(report)
    if output is not None:
        atomic_write_text(output, encode_json(facts) + "\n", overwrite=force)
    if as_json:
        print_json(facts)
    else:
        print_lines(generation_lines(report))
    raise SystemExit(report.verdict.exit_code)
