"""Preconditions, parity, replay, ladder, hypotheses, reproduction: what `apr diagnose` does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cotejar.diagnosis.arithmetic import F32, declared_arithmetic
from cotejar.diagnosis.corroboration import corroborated
from cotejar.diagnosis.coverage import find_unseen
from cotejar.diagnosis.fairness import (
    arrays_hint,
    broken_preconditions,
    first_nonfinite,
    is_half_precision,
    judge_preconditions,
    naive_ratio,
    without_last_rows,
    wrong_fingerprint,
    wrong_shape,
)
from cotejar.diagnosis.file_findings import find_nonfinite_tensor, judge_files
from cotejar.diagnosis.finding import advise, look_into, make_case, summarize
from cotejar.diagnosis.hypotheses.tokens import explain_tokens
from cotejar.diagnosis.ladder import climb
from cotejar.diagnosis.observed import Observed, Truth, declared_truth
from cotejar.diagnosis.replay import Replayed, replay_sides
from cotejar.diagnosis.reproduction import (
    first_wrong_token,
    require_free_folder,
    write_reproduction,
)
from cotejar.diagnosis.request import Request, Traced, trace_sides
from cotejar.diagnosis.result import Diagnosis, OtherFinding, Reproduction
from cotejar.diagnosis.search import Cause, Found, find_causes
from cotejar.diagnosis.unseen_part import find_parting
from cotejar.errors import UsageError
from cotejar.parity.compare import Plan, compare_traces
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture, parse_layers
from cotejar.trace.site import parse_site
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cotejar.diagnosis.case import Case
    from cotejar.diagnosis.coverage import Unseen
    from cotejar.diagnosis.ladder import Ladder
    from cotejar.diagnosis.observed import SideName
    from cotejar.diagnosis.replay import LocalError
    from cotejar.diagnosis.result import WrongSide
    from cotejar.diagnosis.unseen_part import Parting
    from cotejar.model.language_model import LanguageModel
    from cotejar.parity.compare import Comparison
    from cotejar.parity.preconditions import Precondition
    from cotejar.trace.forward_trace import ForwardTrace


def diagnose(
    request: Request, on_progress: Callable[[str], None] = lambda _: None
) -> Diagnosis:
    """Name the operation, the side and the cause; or say why that is not possible.

    Raises:
        CotejarError: a side cannot be opened or run, or an option is wrong.
    """
    if request.output is not None:
        require_free_folder(request.output)
    traced = trace_sides(request, on_progress)
    return _diagnose(traced, request, (), on_progress)


def diagnose_traces(
    reference: ForwardTrace,
    candidate: ForwardTrace,
    model: LanguageModel,
    *,
    known: Sequence[Replayed] = (),
) -> Diagnosis:
    """Diagnose two traces of one model that are in memory, or open.

    Args:
        reference: what is trusted, though it may turn out to be wrong.
        candidate: what is in doubt.
        model: what both ought to have run.
        known: what `replay_trace` gave of this model. Where a side has the same bits around
            an operation, that is not computed again; nothing else is made of them.
    """
    request = Request(reference=reference.engine.name, candidate=candidate.engine.name)
    sides = [_recorded(trace, model) for trace in (reference, candidate)]
    return _diagnose((sides[0], sides[1]), request, known, lambda _: None)


def replay_trace(trace: ForwardTrace, model: LanguageModel) -> Replayed:
    """Replay every operation of one trace, for `diagnose_traces` of others beside it.

    Raises:
        UsageError: the trace is not of that model.
    """
    side = _recorded(trace, model)
    observed = _observe((side, side))
    if isinstance(observed, str):
        raise UsageError(
            "the trace cannot be replayed",
            where=trace.model.name,
            expected=f"a trace of {model.name} from position 0",
            found=observed,
            hint="replay it with the model that it was recorded of",
        )
    errors = replay_sides(observed[:1])
    return Replayed(observed=observed[0], errors={error.site: error for error in errors})


def _recorded(trace: ForwardTrace, model: LanguageModel) -> Traced:
    return Traced(side=None, trace=trace, model=model, asked=None)


def _diagnose(
    traced: tuple[Traced, Traced],
    request: Request,
    known: Sequence[Replayed],
    on_progress: Callable[[str], None],
) -> Diagnosis:
    start = _start(request, traced)
    if broken := broken_preconditions(start.preconditions):
        return _incomparable(start, broken, traced)
    observed = _observe(traced)
    if isinstance(observed, str):
        return replace(
            start,
            summary=observed,
            next_step="name the model that the trace was recorded of with --model",
        )
    return _examine(start, observed, traced, request, known, on_progress)


def _examine(
    start: Diagnosis,
    observed: Sequence[Observed],
    traced: tuple[Traced, Traced],
    request: Request,
    known: Sequence[Replayed],
    on_progress: Callable[[str], None],
) -> Diagnosis:
    """What may be compared: local errors, and what they say."""
    on_progress("comparing")
    reference, candidate = (side.trace for side in observed)
    comparison = _compare(*without_last_rows(reference, candidate))
    on_progress("replaying every operation")
    layers = None
    if request.layers is not None:
        layers = parse_layers(request.layers, observed[0].truth.config.num_layers)
    errors = replay_sides(observed, layers=layers, jobs=request.jobs, known=known)
    result = replace(start, comparison=comparison, errors=tuple(errors))
    found = first_nonfinite(reference, candidate)
    if found is not None and not _is_behind(found[1], errors):
        return _not_finite(result, observed, found, request.output)
    silent = [one for one in observed if one.side not in {error.side for error in errors}]
    if all(error.explained for error in errors):
        return _nothing_unexplained(result, observed, layers, on_progress, request.output)
    judged = _judge(
        result,
        observed,
        lambda case, found: _shrink(case, found, traced),
        on_progress,
        request.output,
    )
    if silent:
        words = f"; no operation of the {silent[0].side} can be replayed"
        return replace(judged, summary=f"{judged.summary}{words}")
    return judged


def _nothing_unexplained(
    result: Diagnosis,
    observed: Sequence[Observed],
    layers: frozenset[int] | None,
    on_progress: Callable[[str], None],
    output: Path | None,
) -> Diagnosis:
    """Every operation that was replayed is right about its own side's file."""
    errors = result.errors
    silent = [one for one in observed if one.side not in {error.side for error in errors}]
    unseen = find_unseen(observed, errors, layers)
    if layers is None and unseen:
        on_progress("looking for what one side alone was seen to do")
        parting = find_parting(observed, result.comparison, unseen)
        if parting is not None:
            return _wrong_unseen(result, observed, parting, output)
    if silent:
        return replace(
            result,
            summary=f"no operation of the {silent[0].side} can be replayed: its inputs or "
            "its output were not captured",
            next_step=arrays_hint(silent[0].side, silent[0].trace),
        )
    result = replace(result, ladder=_ladders(errors, observed, None))
    if observed[0].truth is observed[1].truth:
        return _nothing_wrong(result, observed, unseen)
    on_progress("comparing the two files")
    judged = judge_files(result, observed)
    if judged.verdict is Verdict.PASS and unseen:
        return _nothing_wrong(result, observed, unseen)
    return judged


def _wrong_unseen(
    result: Diagnosis, observed: Sequence[Observed], parting: Parting, output: Path | None
) -> Diagnosis:
    """The side of which little was recorded parts from one that is right."""
    if output is not None:
        write_reproduction(output, parting.case, parting.found)
    wrong = next(one for one in observed if one.side == parting.side)
    return replace(
        result,
        verdict=Verdict.FAIL,
        site=parting.site,
        wrong_side=parting.side,
        summary=parting.sentence,
        next_step=arrays_hint(wrong.side, wrong.trace),
        causes=parting.found.causes,
        nearest=parting.found.nearest,
        num_tried=parting.found.num_tried,
        ladder=_ladders(result.errors, observed, None),
        reproduction=_reproduction(parting.case, output),
    )


def _not_finite(
    result: Diagnosis,
    observed: Sequence[Observed],
    found: tuple[WrongSide, str, str],
    output: Path | None,
) -> Diagnosis:
    """The first NaN or infinity is the finding; what went in shows it, where it is known."""
    side, site, message = found
    next_step = f"look at what makes {site} there: everything behind it is lost"
    error = next((e for e in result.errors if e.site == site and not e.explained), None)
    cause = find_nonfinite_tensor(site, "candidate" if side == "both" else side, observed)
    reproduction = None
    if error is not None:
        case = make_case(error, observed)
        reproduction = _reproduction(case, output)
        if output is not None:
            write_reproduction(output, case, Found(causes=(), nearest=None, num_tried=0))
            next_step = f"run {output}/show.py: {next_step}"
    elif output is not None:
        next_step += f"; nothing was written to {output}, for what went in was not captured"
    return replace(
        result,
        verdict=Verdict.FAIL,
        site=site,
        wrong_side=side,
        causes=() if cause is None else (cause,),
        summary=message if cause is None else f"{message}: {cause.title}",
        next_step=next_step,
        reproduction=reproduction,
    )


def _reproduction(case: Case, output: Path | None) -> Reproduction:
    return Reproduction(
        site=case.operation.name,
        side=case.observed.side,
        token_ids=case.observed.trace.token_ids[: first_wrong_token(case) + 1],
        folder=None if output is None else str(output),
    )


def _is_behind(site: str, errors: Sequence[LocalError]) -> bool:
    """Is an operation before it wrong already? What came of that is no finding."""
    order = parse_site(site).order
    return any(not e.explained and parse_site(e.site).order < order for e in errors)


def _start(request: Request, traced: tuple[Traced, Traced]) -> Diagnosis:
    reference, candidate = (side.trace for side in traced)
    return Diagnosis(
        verdict=Verdict.INCOMPARABLE,
        reference=replace(reference, arrays={}),
        candidate=replace(candidate, arrays={}),
        preconditions=tuple(judge_preconditions(reference, candidate)),
        summary="",
        next_step="",
        fault=request.fault,
    )


def _incomparable(
    start: Diagnosis, broken: Sequence[Precondition], traced: tuple[Traced, Traced]
) -> Diagnosis:
    """Nothing is measured; where the tokens differ, they say how."""
    reasons = "; ".join(p.message for p in broken)
    result = replace(
        start,
        summary=f"broken: {', '.join(p.id for p in broken)}; nothing was measured. {reasons}",
        next_step="measure both sides alike, then diagnose again",
        naive_ratio=naive_ratio(start.reference, start.candidate),
    )
    reference, candidate = traced
    # A side that ran other tokens than it was given is the wrong one.
    changed = [t for t in traced if t.asked is not None and t.asked != t.trace.token_ids]
    wrong = changed[0] if len(changed) == 1 else candidate
    right_ids = wrong.asked if wrong in changed else None
    right_ids = right_ids or reference.trace.token_ids
    cause = explain_tokens(right_ids, wrong.trace.token_ids)
    if cause is None or "token-ids" not in {p.id for p in broken}:
        return result
    if cause.id == "tokens" and not changed and all(side.asked for side in traced):
        # Each ran what its own tokenizer made of the text.
        title = f"the two tokenizers differ (vocabulary or merges): {cause.title}"
        cause = replace(cause, id="tokenizer", title=title)
    side: WrongSide = "reference" if wrong is reference else "candidate"
    found = Cause(
        id=cause.id,
        title=cause.title,
        residual_before=1.0,
        residual_after=0.0,
        limit=0.0,
        parameters=0,
    )
    return replace(result, site="tokens", wrong_side=side, causes=(found,))


def _observe(traced: tuple[Traced, Traced]) -> list[Observed] | str:
    """Each side with its model; or why there is none."""
    models = [side.model for side in traced]
    shared: dict[str, Truth] = {}
    observed = []
    for index, side in enumerate(traced):
        name: SideName = "candidate" if index else "reference"
        model = models[index] or models[1 - index]
        if model is None:
            return f"the {name} is a recorded trace, and nothing says which model it ran"
        declared = model.declared
        problem = wrong_fingerprint(name, side.trace, model) or wrong_shape(
            name, side.trace, declared.config
        )
        if problem:
            return problem
        key = f"{model.fingerprint} {declared.config}"
        if key not in shared:
            shared[key] = declared_truth(declared.config, declared.weights)
        truth = shared[key]
        engine = side.trace.engine
        arithmetic = declared_arithmetic(engine, declared.config.architecture)
        arithmetic = arithmetic or replace(F32, name=engine.numerics)
        if is_half_precision(side.trace) and arithmetic.values != "f16":
            arithmetic = replace(arithmetic, recorded="f16")
        observed.append(
            Observed(side=name, trace=side.trace, truth=truth, arithmetic=arithmetic)
        )
    return observed


def _compare(reference: ForwardTrace, candidate: ForwardTrace) -> Comparison:
    plan = Plan(preconditions=("token-ids",), required_slots=())
    return compare_traces(reference, candidate, plan)


def _judge(
    result: Diagnosis,
    observed: Sequence[Observed],
    shrink: Callable[[Case, Found], tuple[Case, Found]],
    on_progress: Callable[[str], None],
    output: Path | None,
) -> Diagnosis:
    """From local errors, one of them unexplained, to a finding."""
    wrong = [error for error in result.errors if not error.explained]
    first = wrong[0]
    on_progress(f"looking for the cause at {first.site}")
    # The first operation of each side that is wrong.
    by_side = {error.side: error for error in reversed(wrong)}
    findings = [corroborated(look_into(first, observed), result.errors, observed)]
    findings += [look_into(e, observed) for side, e in by_side.items() if side != first.side]
    case, found = findings[0].case, findings[0].found
    shown = case
    if output is not None:
        on_progress("writing the smallest reproduction")
        shown, again = shrink(case, found)
        write_reproduction(output, shown, again)
    return replace(
        result,
        verdict=Verdict.FAIL,
        site=first.site,
        wrong_side="both" if len(findings) > 1 else first.side,
        summary=summarize(findings),
        next_step=advise(findings[0], output),
        causes=found.causes,
        nearest=found.nearest,
        num_tried=found.num_tried,
        looks_like=found.looks_like,
        others=tuple(
            OtherFinding(site=one.error.site, side=one.error.side, causes=one.found.causes)
            for one in findings[1:]
        ),
        ladder=_ladders(result.errors, observed, first),
        reproduction=_reproduction(shown, output),
    )


def _nothing_wrong(
    result: Diagnosis, observed: Sequence[Observed], unseen: Sequence[Unseen]
) -> Diagnosis:
    """PASS, unless something was not seen that had to be, or that a difference may come of."""
    count = len(result.errors)
    right = f"every one of {count} operations is right given its own input"
    if unseen:
        missing = "; ".join(one.sentence for one in unseen)
        right = f"{count} operations could be replayed and are right; {missing}"
    comparison = result.comparison
    parts = comparison is not None and comparison.first_divergence is not None
    if unseen and (parts or any(one.is_required for one in unseen)):
        named = next((one for one in unseen if one.is_required), unseen[0])
        side = next(one for one in observed if one.side == named.side)
        where = ""
        if comparison is not None and comparison.first_divergence is not None:
            where = f"; the two part at {comparison.first_divergence.site}"
        return replace(
            result,
            summary=f"{right}{where}",
            next_step=arrays_hint(side.side, side.trace),
        )
    return replace(
        result,
        verdict=Verdict.PASS,
        summary=f"{right}; what differs is inherited from declared rounding",
        next_step="nothing to mend; `apr parity` says how far the two lie apart",
    )


def _shrink(case: Case, found: Found, traced: Sequence[Traced]) -> tuple[Case, Found]:
    """Run beginnings of the prompt until one shows the same: the shortest comes first.

    A recorded side cannot be run again: what it recorded of the prompt's beginning is all.
    """
    index = 1 if case.observed.side == "candidate" else 0
    side, trace = traced[index].side, case.observed.trace
    site = case.operation.site
    if side is None:
        return case, found
    layers = None if site.layer is None else frozenset({site.layer, max(site.layer - 1, 0)})
    capture = Capture(array_slots=EVERY_ARRAY, layers=layers)
    for length in range(1, first_wrong_token(case) + 1):
        if length & (length - 1) and length != first_wrong_token(case) + 1:
            continue  # 1, 2, 4, ...
        steps = min(trace.num_steps, length - 1)
        short = side.trace(
            trace.token_ids[:length], capture=capture, prompt=None, num_steps=steps
        )
        observed = replace(case.observed, trace=short, _derived={})
        wrong = [e for e in replay_sides([observed], layers=layers) if not e.explained]
        at_site = [e for e in wrong if e.site == case.operation.name]
        if at_site:
            shorter = make_case(at_site[0], [observed])
            again = find_causes(shorter)
            # From too few tokens other causes may look the same.
            if [c.id for c in again.causes[:1]] == [c.id for c in found.causes[:1]]:
                return shorter, again
    return case, found


def _ladders(
    errors: Sequence[LocalError], observed: Sequence[Observed], finding: LocalError | None
) -> tuple[Ladder, ...]:
    ladders = []
    for side in observed:
        own = [error for error in errors if error.side == side.side]
        if own:
            ladders.append(climb(own, side.arithmetic, None))
        if finding is not None and finding.side == side.side:
            ladders.append(climb([finding], side.arithmetic, finding.site))
    return tuple(ladders)
