"""Run both sides over every prompt and judge: what `apr parity` does."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from cotejar.engines.oracle import OracleEngine
from cotejar.engines.run_trace import DEFAULT_PROMPT, require_text
from cotejar.engines.steps import choose_steps
from cotejar.engines.tokenizers import spell_out
from cotejar.errors import TokenIdError, UsageError
from cotejar.parity.arbiter import arbitrate, join_rulings
from cotejar.parity.compare import Plan, compare_traces
from cotejar.parity.decoded_steps import count_steps, steps_alone
from cotejar.parity.report import ParityReport
from cotejar.parity.side import open_side, require_stepping
from cotejar.tokenizer.declared import try_declared_tokenizer
from cotejar.tokenizer.difference import find_difference
from cotejar.trace.forward_trace import BOTH_SCOPES, EVERY_ARRAY, Capture, Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cotejar.parity.arbiter import Ruling
    from cotejar.parity.compare import Comparison
    from cotejar.parity.side import Side
    from cotejar.trace.forward_trace import ForwardTrace


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
    """`ID[@LAYER][*STRENGTH]`, injected into the candidate."""
    arbiter: bool = False
    """Run the oracle, too, and say which side is further from exact."""
    decode: int | None = None
    """Tokens, the last ones, that are fed one at a time over the KV cache, by the sides that
    can, and that alone are compared; 0 for all but the first few, None: all in one pass."""


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
    candidate = open_side(request.candidate, fault=request.fault, beside=reference)
    if request.decode is not None:
        require_stepping([reference, candidate])
    oracle = _open_arbiter(reference, candidate) if request.arbiter else None
    comparisons: list[Comparison] = []
    rulings: list[Ruling] = []
    steps: list[int] = []
    for prompt in _prompts(request, reference, candidate):
        traces = _run_sides(request, reference, candidate, prompt, on_progress)
        on_progress("comparing")
        explain = None
        if prompt is not None and reference.model is not None and candidate.model is not None:
            explain = partial(_explain_tokens, prompt, (reference, candidate), traces)
        whole, num_steps = traces, 0
        if request.decode is not None:
            num_steps = count_steps(*whole, request.decode)
            traces = steps_alone(*whole, num_steps)
        steps.append(num_steps)
        comparison = compare_traces(traces[0], traces[1], request.plan, explain_tokens=explain)
        comparisons.append(comparison)
        if oracle is not None and not comparison.broken:
            on_progress("running the oracle")
            exact = _run_arbiter(oracle, reference, whole[0])
            if num_steps:
                exact, _ = steps_alone(exact, exact, num_steps)
            rulings.append(arbitrate(exact, *traces, request.plan, comparison))
    return ParityReport(
        comparisons=tuple(comparisons),
        num_steps=tuple(steps),
        fault=request.fault,
        noise=request.plan.noise,
        arbitration=join_rulings(rulings),
    )


def _open_arbiter(reference: Side, candidate: Side) -> OracleEngine:
    """The oracle on the reference's weights; of a recorded one, on those of a like candidate.

    Raises:
        UsageError: nobody has those weights.
    """
    model = reference.model
    if model is None and reference.recorded is not None and candidate.model is not None:
        same = candidate.model.fingerprint == reference.recorded.model.fingerprint
        model = candidate.model if same else None
    if model is None:
        raise UsageError(
            "the arbiter has no model to run",
            where="--arbiter",
            expected="the reference's weights: a model on either side",
            found=f"recorded:{reference.name.path} alone",
            hint="name the model that the trace is of as the other side",
        )
    return OracleEngine(model)


def _run_arbiter(oracle: OracleEngine, reference: Side, trace: ForwardTrace) -> ForwardTrace:
    """What is exact on a trace's tokens; the trace itself, where the oracle just made it."""
    if reference.recorded is None and trace.engine == oracle.info:
        return trace
    return oracle.trace(trace.token_ids, capture=Capture(array_slots=EVERY_ARRAY))


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
    recorded = [trace for trace in (reference.recorded, candidate.recorded) if trace]
    tokens_are_known = any(trace.token_ids for trace in recorded)
    if tokens_are_known or len(recorded) == 2:  # noqa: PLR2004 - nothing is left to run
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
    # A trace that does not say its tokens may say its prompt; the other side runs something.
    said = tuple(trace.prompt for trace in recorded if trace.prompt)
    prompts = request.prompts or said or request.default_prompts
    for prompt in prompts:
        require_text(prompt)
    return prompts


def _run_sides(
    request: Request,
    reference: Side,
    candidate: Side,
    prompt: str | None,
    on_progress: Callable[[str], None],
) -> tuple[ForwardTrace, ForwardTrace]:
    """The traces of both sides, over one prompt."""
    traces = []
    sides = ((reference, request.reference_scopes), (candidate, request.candidate_scopes))
    for side, scopes in sides:
        other = candidate if side is reference else reference
        if side.recorded:
            ids: Sequence[int] = side.recorded.token_ids
        elif prompt is not None:
            ids = side.tokenize(prompt)
        elif request.token_ids:
            ids = request.token_ids
        else:
            ids = other.recorded.token_ids if other.recorded else ()
        on_progress(f"running {side.name.engine} over {len(ids)} tokens")
        capture = Capture(scopes=scopes, array_slots=EVERY_ARRAY)
        steps = choose_steps(request.decode, len(ids))
        traces.append(side.trace(ids, capture=capture, prompt=prompt, num_steps=steps))
    return traces[0], traces[1]


def _explain_tokens(
    prompt: str, sides: Sequence[Side], traces: Sequence[ForwardTrace]
) -> str | None:
    """The first token that differs, in the words of `apr tokens`; None if it has none."""
    found = []
    for side, trace in zip(sides, traces, strict=True):
        declared = try_declared_tokenizer(side.name.path)
        if declared is None or side.model is None:
            return None
        try:
            found.append(spell_out(side.model.tokenizer, trace.token_ids, declared))
        except TokenIdError:
            return None
    difference = find_difference(prompt, found[0], found[1])
    return None if difference is None else difference.sentence
