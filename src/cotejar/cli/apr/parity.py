"""`apr parity`: do two implementations of one model agree?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from cotejar.cli.token_ids import ids
from cotejar.errors import MissingFileError

if TYPE_CHECKING:
    from cotejar.contracts.parity_block import ParityBlock
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
@click.option("--scope", type=SCOPES, default=None, help="Scopes to compare.  [default: both]")
@click.option("--reference-scope", type=SCOPES, default="both", help="Scopes it records.")
@click.option("--candidate-scope", type=SCOPES, default="both", help="Scopes it records.")
@click.option(
    "--waive",
    multiple=True,
    metavar="ID",
    help="Do not insist on a precondition; may be repeated.",
)
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
    apr parity oracle:model.gguf native+f32:model.gguf
    apr parity --contract contract.yaml model.gguf model.apr
    apr parity recorded:a.trace recorded:b.trace --brief

    \b
    --waive takes
      config weights-fingerprint capture-points ddof
    --fault takes, with @LAYER for another layer than 0,
      rope-theta rope-pairing norm-eps missing-bias
      gate-up-swapped key-value-swapped nibble-order
      block-shift

    Exits 0 on PASS, 1 on FAIL, 2 on bad input, 3 when the two cannot be compared.
    """  # noqa: D301 - click wants the control character
    # The ids are spelled out because `--help` loads no numpy; a test compares them.
    from cotejar.engines.run_trace import DEFAULT_PROMPT
    from cotejar.parity.compare import Plan
    from cotejar.parity.run import Request
    from cotejar.trace.forward_trace import parse_scopes

    block = _read_contract(contract)
    plan = block.plan if block else Plan()
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
    )
    detail: Detail = "none" if brief else "sites" if all_sites else "slots"
    try:
        _compare(request, output, contract, force=force, detail=detail, as_json=as_json)
    except MissingFileError as error:
        raise _missing_side(error, block) from None


def _read_contract(path: Path | None) -> ParityBlock | None:
    from cotejar.contracts.parity_block import read_parity_block

    return None if path is None else read_parity_block(path)


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
    contract: Path | None,
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
        inputs = [path for side in sides for path in input_files(side)]
        inputs += [] if contract is None else [contract]
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
