"""Run both sides over every prompt and judge: what `apr parity` does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cotejar.engines.run_trace import DEFAULT_PROMPT, require_text
from cotejar.errors import UsageError
from cotejar.parity.compare import Comparison, Plan, compare_traces
from cotejar.parity.report import ParityReport
from cotejar.parity.side import open_side
from cotejar.trace.forward_trace import BOTH_SCOPES, EVERY_ARRAY, Capture, Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cotejar.parity.side import Side


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is asked of `apr parity`."""

    reference: str
    candidate: str
    """`[ENGINE[+numerics][@device]:]PATH`."""
    prompts: tuple[str, ...] = ()
    default_prompts: tuple[str, ...] = (DEFAULT_PROMPT,)
    """Run where neither a prompt nor ids are given, and no side is recorded."""
    token_ids: tuple[int, ...] = ()
    plan: Plan = field(default_factory=Plan)
    reference_scopes: tuple[Scope, ...] = BOTH_SCOPES
    candidate_scopes: tuple[Scope, ...] = BOTH_SCOPES
    """What each side records; the plan says what is compared."""
    fault: str | None = None
    """`ID[@LAYER]`, injected into the candidate."""


def run_parity(
    request: Request, on_progress: Callable[[str], None] = lambda _: None
) -> ParityReport:
    """Compare two sides over all prompts.

    Raises:
        CotejarError: a side cannot be opened or run.
    """
    on_progress(f"opening {request.reference}")
    reference = open_side(request.reference)
    on_progress(f"opening {request.candidate}")
    candidate = open_side(request.candidate, fault=request.fault)
    comparisons = [
        _compare_prompt(request, reference, candidate, prompt, on_progress)
        for prompt in _prompts(request, reference, candidate)
    ]
    return ParityReport(comparisons=tuple(comparisons), fault=request.fault)


def _prompts(request: Request, reference: Side, candidate: Side) -> Sequence[str | None]:
    """The texts to run; None where ids are given or come from a trace."""
    if request.prompts and request.token_ids:
        raise UsageError(
            "a prompt is given twice",
            where="--prompt and --tokens",
            expected="one of them",
            found="both",
            hint="--tokens runs ids as they are; --prompt is tokenized by each side",
        )
    if reference.recorded or candidate.recorded:
        if request.prompts or request.token_ids:
            raise UsageError(
                "a recorded trace has its prompt already",
                where="--prompt" if request.prompts else "--tokens",
                expected="no prompt and no ids",
                found=f"{len(request.prompts or request.token_ids)}",
                hint="leave them out: the other side runs the trace's own tokens",
            )
        return [None]
    if request.token_ids:
        return [None]
    prompts = request.prompts or request.default_prompts
    for prompt in prompts:
        require_text(prompt)
    return prompts


def _compare_prompt(
    request: Request,
    reference: Side,
    candidate: Side,
    prompt: str | None,
    on_progress: Callable[[str], None],
) -> Comparison:
    traces = []
    sides = ((reference, request.reference_scopes), (candidate, request.candidate_scopes))
    for side, scopes in sides:
        other = candidate if side is reference else reference
        if prompt is not None:
            ids: Sequence[int] = side.tokenize(prompt)
        elif request.token_ids:
            ids = request.token_ids
        else:
            recorded = other.recorded or side.recorded
            ids = recorded.token_ids if recorded else ()
        on_progress(f"running {side.name.engine} over {len(ids)} tokens")
        capture = Capture(scopes=scopes, array_slots=EVERY_ARRAY)
        traces.append(side.trace(ids, capture=capture, prompt=prompt))
    on_progress("comparing")
    return compare_traces(traces[0], traces[1], request.plan)
