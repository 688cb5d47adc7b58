"""Parity that survives generation: both sides decode, step by step, over their caches.

Teacher-forced first: the reference chooses greedily, the candidate is given the same tokens,
and the distributions of every step are compared. Then the candidate runs freely. Logits are
measured as they come and never kept, so memory does not grow with the number of steps.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cotejar.engines.generating import require_generating
from cotejar.engines.run_trace import DEFAULT_PROMPT, require_text
from cotejar.errors import ContextLengthError, UsageError
from cotejar.parity.compare import Comparison, Plan, compare_traces
from cotejar.parity.gates import Gate
from cotejar.parity.metrics import measure_logits
from cotejar.parity.preconditions import Precondition, Question, check_preconditions
from cotejar.parity.side import open_side
from cotejar.tokenizer.chat import apply_chat
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture
from cotejar.verdict import Verdict, worst

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cotejar.engines.protocol import Session
    from cotejar.parity.side import Side
    from cotejar.trace.forward_trace import ForwardTrace


class Outcome(enum.Enum):
    """What became of one prompt."""

    MATCH = "MATCH"
    """Every token, and every distribution within its gate."""
    TIE_FLIP = "TIE-FLIP"
    """Another token at a near tie, its margin within measured noise: harmless."""
    DRIFT = "DRIFT"
    """No choice against a clear lead, but a distribution beyond its gate."""
    WRONG = "WRONG"
    """Another token against a clear lead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One position, teacher-forced."""

    index: int
    """From 0: the first token after the prompt."""
    reference_token: int
    candidate_token: int
    """What the candidate would have chosen there."""
    kl: float
    """KL(reference || candidate), nats."""
    margin: float
    """The reference's lead: its largest logit less its second."""
    rank: int
    """Of the reference's token among the candidate's logits, from 0."""

    @property
    def is_equal(self) -> bool:
        """The same choice."""
        return self.reference_token == self.candidate_token


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptGeneration:
    """One prompt, generated from by both sides."""

    prompt: str | None
    prompt_ids: tuple[int, ...]
    preconditions: tuple[Precondition, ...]
    """Judged on traces of the prompt."""
    gates: tuple[Gate, ...]
    """Of `kl_max` and `top1_flip_margin`, with their origins."""
    steps: tuple[Step, ...]
    free_ids: tuple[int, ...]
    """What the candidate says when it runs freely."""
    reference_text: str
    candidate_text: str
    waived: frozenset[str] = frozenset()

    @property
    def broken(self) -> list[Precondition]:
        """Preconditions that forbid a comparison."""
        return [p for p in self.preconditions if not p.holds and p.id not in self.waived]

    @property
    def first_difference(self) -> Step | None:
        """The first step at which the two choose differently."""
        return next((step for step in self.steps if not step.is_equal), None)

    @property
    def parted_early(self) -> int | None:
        """A step at which the free run says something else than when it was forced.

        Up to the first difference both saw the same tokens: an engine that answers them
        differently the second time does not even agree with itself.
        """
        first = self.first_difference
        last = len(self.steps) if first is None else first.index + 1
        for step, token in zip(self.steps[:last], self.free_ids, strict=False):
            if step.candidate_token != token:
                return step.index
        return None

    @property
    def worst_kl(self) -> Step | None:
        """The step whose distributions lie furthest apart; a NaN counts as furthest."""
        key = [math.inf if math.isnan(step.kl) else step.kl for step in self.steps]
        return self.steps[int(np.argmax(key))] if key else None

    @property
    def outcome(self) -> Outcome | None:
        """None where nothing may be compared, or nobody has measured what to expect."""
        limits = {gate.metric: gate.limit for gate in self.gates}
        if self.broken or not self.steps or len(limits) < 2:  # noqa: PLR2004 - KL and margin
            return None
        first, furthest = self.first_difference, self.worst_kl
        assert furthest is not None, "there are steps"
        against_lead = first is not None and not first.margin <= limits["top1_flip_margin"]
        if against_lead or self.parted_early is not None:
            return Outcome.WRONG
        if not furthest.kl <= limits["kl_max"]:
            return Outcome.DRIFT
        return Outcome.MATCH if first is None else Outcome.TIE_FLIP

    @property
    def verdict(self) -> Verdict:
        """A tie that falls the other way passes."""
        match self.outcome:
            case None:
                return Verdict.INCOMPARABLE
            case Outcome.MATCH | Outcome.TIE_FLIP:
                return Verdict.PASS
        return Verdict.FAIL


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationReport:
    """Every prompt."""

    reference: str
    candidate: str
    max_tokens: int
    prompts: tuple[PromptGeneration, ...]
    explained: Comparison | None
    """The sites of the first step that is no match, if that was asked for."""
    explained_at: tuple[int, int] | None
    """Prompt and step of it, from 0."""

    @property
    def verdict(self) -> Verdict:
        """The worst prompt's; of none, INCOMPARABLE."""
        return worst([prompt.verdict for prompt in self.prompts])


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest:
    """What is asked of `apr parity --generate`."""

    reference: str
    candidate: str
    """`[ENGINE[+numerics][@device]:]PATH`; both must be able to continue a text."""
    max_tokens: int
    prompts: tuple[str, ...] = ()
    default_prompts: tuple[str, ...] = (DEFAULT_PROMPT,)
    token_ids: tuple[int, ...] = ()
    chat: bool = False
    """Put each prompt through each side's own chat template."""
    plan: Plan
    """Gates, and what is waived; scopes and slots do not matter here."""
    explain: bool = False
    fault: str | None = None


def run_generation(
    request: GenerationRequest, on_progress: Callable[[str], None] = lambda _: None
) -> GenerationReport:
    """Generate from every prompt on both sides and judge every step.

    Raises:
        UnknownEngineError: a side that cannot continue a text.
        UsageError: fewer than 1 token.
        CotejarError: as opening and running find.
    """
    if request.max_tokens < 1:
        raise UsageError(
            "there is nothing to generate",
            where="--generate",
            expected="at least 1",
            found=str(request.max_tokens),
            hint="leave it out to compare one forward pass",
        )
    on_progress(f"opening {request.reference}")
    reference = open_side(request.reference)
    on_progress(f"opening {request.candidate}")
    candidate = open_side(request.candidate, fault=request.fault, beside=reference)
    for side in (reference, candidate):
        require_generating(side.name)
    found = []
    for prompt in _prompts(request):
        on_progress(f"generating after {prompt or 'the given ids'}")
        found.append(_generate(request, reference, candidate, prompt))
    report = GenerationReport(
        reference=request.reference,
        candidate=request.candidate,
        max_tokens=request.max_tokens,
        prompts=tuple(found),
        explained=None,
        explained_at=None,
    )
    if not request.explain:
        return report
    on_progress("comparing the sites of that step")
    return _explained(request, report, reference, candidate)


def _prompts(request: GenerationRequest) -> Sequence[str | None]:
    if request.token_ids:
        return [None]
    prompts = request.prompts or request.default_prompts
    for prompt in prompts:
        require_text(prompt)
    return prompts


def _generate(
    request: GenerationRequest, reference: Side, candidate: Side, prompt: str | None
) -> PromptGeneration:
    ids = [_ids(request, side, prompt) for side in (reference, candidate)]
    capture = Capture(array_slots=frozenset({"logits"}))
    traces = [
        side.trace(token_ids, capture=capture, prompt=prompt)
        for side, token_ids in zip((reference, candidate), ids, strict=True)
    ]
    plan = request.plan
    gates = _logits_gates(plan.gates_for(traces[0], traces[1]))
    question = Question(
        reference=traces[0],
        candidate=traces[1],
        scopes=plan.scopes,
        required_slots=plan.required_slots,
        gates=gates,
    )
    preconditions = tuple(check_preconditions(question, plan.preconditions))
    fair = all(p.holds or p.id in plan.waived for p in preconditions)
    steps: list[Step] = []
    free: list[int] = []
    if fair and gates:
        ends = _ends(reference)
        steps = _force(reference.start(), candidate.start(), ids[0], request.max_tokens, ends)
        free = _run_free(candidate.start(), ids[1], len(steps), ends)
    return PromptGeneration(
        prompt=prompt,
        prompt_ids=tuple(ids[0]),
        preconditions=preconditions,
        gates=gates,
        steps=tuple(steps),
        free_ids=tuple(free),
        reference_text=_text(reference, [step.reference_token for step in steps]),
        candidate_text=_text(candidate, free),
        waived=plan.waived,
    )


def _force(
    reference: Session,
    candidate: Session,
    prompt_ids: Sequence[int],
    max_tokens: int,
    ends: frozenset[int],
) -> list[Step]:
    """Both sides along the reference's own choices; the last may be an end token."""
    steps: list[Step] = []
    fed = list(prompt_ids)
    while len(steps) < max_tokens:
        try:
            logits_V, other_V = reference.append(fed), candidate.append(fed)
        except ContextLengthError:
            if not steps:
                raise
            break
        distance = measure_logits(logits_V[None], other_V[None])
        token = int(logits_V.argmax())
        steps.append(
            Step(
                index=len(steps),
                reference_token=token,
                candidate_token=int(other_V.argmax()),
                kl=float(distance.kl[0]),
                margin=float(distance.margin[0]),
                rank=int((other_V > other_V[token]).sum()),
            )
        )
        if token in ends:
            break
        fed = [token]
    return steps


def _run_free(
    session: Session, prompt_ids: Sequence[int], num_tokens: int, ends: frozenset[int]
) -> list[int]:
    made: list[int] = []
    fed = list(prompt_ids)
    while len(made) < num_tokens:
        made.append(int(session.append(fed).argmax()))
        if made[-1] in ends:
            break
        fed = made[-1:]
    return made


def _explained(
    request: GenerationRequest, report: GenerationReport, reference: Side, candidate: Side
) -> GenerationReport:
    """The sites of the first prompt's step that is no match, each side in one pass."""
    for index, prompt in enumerate(report.prompts):
        step = prompt.first_difference
        if step is None and prompt.outcome not in {None, Outcome.MATCH}:
            step = prompt.worst_kl
        if step is None:
            continue
        before = [s.reference_token for s in prompt.steps[: step.index]]
        ids, capture = [*prompt.prompt_ids, *before], Capture(array_slots=EVERY_ARRAY)
        traces: list[ForwardTrace] = [
            side.trace(ids, capture=capture, prompt=None) for side in (reference, candidate)
        ]
        explained = compare_traces(traces[0], traces[1], request.plan)
        return replace(report, explained=explained, explained_at=(index, step.index))
    return report


def _logits_gates(gates: Sequence[Gate]) -> tuple[Gate, ...]:
    """What is judged at every step; equal bits have equal distributions."""
    found = {g.metric: g for g in gates if g.metric in {"kl_max", "top1_flip_margin"}}
    exact = next((g for g in gates if g.metric == "max_abs" and g.limit == 0), None)
    if exact is not None:
        for metric in ("kl_max", "top1_flip_margin"):
            found.setdefault(
                metric, Gate(metric=metric, sites="logits", limit=0.0, origin=exact.origin)
            )
    return tuple(found.values())


def _ids(request: GenerationRequest, side: Side, prompt: str | None) -> list[int]:
    if prompt is None:
        return list(request.token_ids)
    if request.chat:
        assert side.model is not None, "a side that generates has a model"
        return apply_chat(side.model.tokenizer, prompt)
    return side.tokenize(prompt)


def _ends(side: Side) -> frozenset[int]:
    """A model without a tokenizer has no end tokens."""
    assert side.model is not None, "a side that generates has a model"
    return side.model.tokenizer.eos_ids if side.has_tokenizer else frozenset()


def _text(side: Side, token_ids: Sequence[int]) -> str:
    assert side.model is not None, "a side that generates has a model"
    return side.model.tokenizer.decode(token_ids) if side.has_tokenizer else ""
