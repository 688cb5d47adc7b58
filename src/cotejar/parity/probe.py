"""Which faults of the catalogue can a prompt show on a model? What `apr probe` does.

Most of it follows from what the prompt and the model have: over one key the softmax is 1,
whatever the score; a text within the window shows none; a model without biases cannot miss
one. Where the values decide, the fault is run and compared with the exact oracle: it shows
if the default gates fail it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from cotejar.engines.native.engine import NativeEngine
from cotejar.engines.oracle import OracleEngine
from cotejar.engines.protocol import check_token_ids
from cotejar.engines.registry import EngineName
from cotejar.errors import NoTokenizerError, UnsupportedTokenizerError
from cotejar.faults.catalogue import FAULTS, find_place, parse_fault
from cotejar.faults.engine import faulty_engine
from cotejar.parity.compare import compare_traces
from cotejar.parity.probe_text import longer_prompt
from cotejar.trace.forward_trace import EVERY_ARRAY, Capture, Scope
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cotejar.faults.catalogue import FaultName
    from cotejar.model.language_model import LanguageModel
    from cotejar.trace.forward_trace import ForwardTrace

Outcome = Literal["shown", "hidden", "needs decoding", "nothing to break"]
Measure = Literal["none", "doubt", "all"]
"""Which faults are run: none, those whose showing depends on values, or all."""

CAPTURE = Capture(scopes=(Scope.ALL,), array_slots=EVERY_ARRAY)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prospect:
    """What becomes of one fault on this model with this prompt."""

    fault: str
    title: str
    outcome: Outcome
    reason: str
    """Why; of a fault that was run, what was measured."""
    measured: bool = False
    """Was the fault run?"""
    tokens_needed: int | None = None
    """Of a hidden one: how long a prompt would have to be; None if no length helps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """A prompt that shows more."""

    prompt: str
    num_tokens: int
    shows: tuple[str, ...]
    """Faults that were hidden and are so no longer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeReport:
    """What a prompt can show on a model."""

    model: str
    prompt: str | None
    num_tokens: int
    numerics: str
    prospects: tuple[Prospect, ...]
    proposal: Proposal | None

    def having(self, outcome: Outcome) -> tuple[Prospect, ...]:
        """The faults with this outcome."""
        return tuple(p for p in self.prospects if p.outcome == outcome)

    @property
    def verdict(self) -> Verdict:
        """PASS where no fault that this model can have stays hidden; of none, INCOMPARABLE."""
        if self.having("hidden"):
            return Verdict.FAIL
        return Verdict.PASS if self.having("shown") else Verdict.INCOMPARABLE

    def as_json(self) -> dict[str, object]:
        """The same facts for `--json`."""
        proposal = self.proposal
        return {
            "verdict": self.verdict.name,
            "model": self.model,
            "prompt": self.prompt,
            "num_tokens": self.num_tokens,
            "numerics": self.numerics,
            "shown": len(self.having("shown")),
            "hidden": len(self.having("hidden")),
            "faults": [
                {
                    "id": p.fault,
                    "title": p.title,
                    "outcome": p.outcome,
                    "reason": p.reason,
                    "measured": p.measured,
                    "tokens_needed": p.tokens_needed,
                }
                for p in self.prospects
            ],
            "proposal": None
            if proposal is None
            else {
                "prompt": proposal.prompt,
                "num_tokens": proposal.num_tokens,
                "shows": list(proposal.shows),
            },
        }


def probe_prompt(
    model: LanguageModel,
    *,
    token_ids: Sequence[int],
    prompt: str | None = None,
    faults: Sequence[str] = (),
    numerics: str = "f32",
    measure: Measure = "doubt",
    on_progress: Callable[[str], None] = lambda _: None,
) -> ProbeReport:
    """Say of each fault whether the tokens can show it, and propose a better prompt.

    Args:
        model: what would be compared.
        token_ids: the prompt's.
        prompt: its text, where it has one.
        faults: `ID[@LAYER][*STRENGTH]`; empty for the whole catalogue, each fault in the
            first layer that has something to break.
        numerics: of the native engine that runs the faults in doubt.
        measure: which faults are run.
        on_progress: is told what is done.

    Raises:
        UsageError: no such fault.
        EmptyPromptError, TokenIdError, ContextLengthError: ids that cannot be run.
    """
    config = model.declared.config
    check_token_ids(
        token_ids, vocab_size=config.vocab_size, context_length=config.context_length
    )
    names = [parse_fault(text) for text in faults]
    if not faults:
        usual = [parse_fault(text) for text in FAULTS]
        names = [find_place(model, name) or name for name in usual]
    runs = _Runs(model, token_ids, numerics, on_progress)
    prospects = []
    for name in names:
        prospect = _foresee(model, name, token_ids)
        # What shows in every layer at its usual strength may not, in one or weaker.
        in_doubt = name.fault.in_doubt or not name.is_usual
        doubtful = measure == "all" or (measure == "doubt" and in_doubt)
        if prospect.outcome == "shown" and doubtful:
            prospect = runs.measure(name)
        prospects.append(prospect)
    return ProbeReport(
        model=model.name,
        prompt=prompt,
        num_tokens=len(token_ids),
        numerics=numerics,
        prospects=tuple(prospects),
        proposal=_propose(model, names, prospects, prompt),
    )


def _foresee(model: LanguageModel, name: FaultName, token_ids: Sequence[int]) -> Prospect:
    """What follows from the model and the tokens alone."""
    fault, dose = name.fault, name.dose
    known = Prospect(
        fault=str(name),
        title=fault.title,
        outcome="shown",
        reason=f"at {fault.slot}",
    )
    if dose.layer is not None and dose.layer >= model.config.num_layers:
        last = model.config.num_layers - 1
        return replace(
            known, outcome="nothing to break", reason=f"needs layer {dose.layer} of 0..{last}"
        )
    for need in fault.needs:
        lacking = need.lacks(model, dose)
        if lacking is not None:
            reason = f"needs {need.text}; found {lacking}"
            return replace(known, outcome="nothing to break", reason=reason)
    if fault.only_decoding:
        reason = "acts only behind a KV cache: `apr diagnose --decode`"
        return replace(known, outcome="needs decoding", reason=reason)
    known = replace(known, reason=f"at {fault.site(model, dose)}")
    for prompt_need in fault.prompt_needs:
        needed = prompt_need.min_tokens(model, dose)
        if len(token_ids) < needed:
            fits = needed <= model.config.context_length
            return replace(
                known,
                outcome="hidden",
                reason=f"{prompt_need.why}: needs {needed} tokens, found {len(token_ids)}",
                tokens_needed=needed if fits else None,
            )
        lacking = prompt_need.lacks(model, token_ids)
        if lacking is not None:
            return replace(known, outcome="hidden", reason=f"{prompt_need.why}: {lacking}")
    return known


class _Runs:
    """Runs faults; the oracle runs once, and only if a fault is run at all."""

    def __init__(
        self,
        model: LanguageModel,
        token_ids: Sequence[int],
        numerics: str,
        on_progress: Callable[[str], None],
    ) -> None:
        self._model, self._ids, self._numerics = model, token_ids, numerics
        self._on_progress = on_progress
        self._exact: ForwardTrace | None = None
        self._sound_passes = False

    def measure(self, name: FaultName) -> Prospect:
        """Run the fault and judge it by the default gates."""
        exact = self._exact or self._run_sound()
        self._on_progress(f"running {name}")
        engine = faulty_engine(
            EngineName(engine="native", numerics=self._numerics, device="cpu", path=""),
            self._model,
            str(name),
        )
        comparison = compare_traces(exact, engine.trace(self._ids, capture=CAPTURE))
        prospect = Prospect(
            fault=str(name), title=name.fault.title, outcome="shown", reason="", measured=True
        )
        if not self._sound_passes:
            reason = "the sound run fails the gates here, so that a fault's run says nothing"
            return replace(prospect, outcome="hidden", reason=reason)
        if comparison.verdict is Verdict.INCOMPARABLE:
            return replace(prospect, reason="the two are INCOMPARABLE")
        site = comparison.first_divergence
        if site is not None and site.deciding is not None:
            judged = site.deciding
            reason = (
                f"at {site.site}: {judged.gate.metric} {judged.value:.3g}, "
                f"limit {judged.gate.limit:.3g}"
            )
            return replace(prospect, reason=reason)
        worst = max((s.deciding.severity for s in comparison.sites if s.deciding), default=0.0)
        reason = f"drowns in the noise of {self._numerics}: {worst:.2g} of the nearest limit"
        return replace(prospect, outcome="hidden", reason=reason)

    def _run_sound(self) -> ForwardTrace:
        self._on_progress("running the oracle")
        exact = OracleEngine(self._model).trace(self._ids, capture=CAPTURE)
        self._on_progress(f"running native+{self._numerics}")
        sound = NativeEngine(self._model, numerics=self._numerics)
        comparison = compare_traces(exact, sound.trace(self._ids, capture=CAPTURE))
        self._sound_passes = comparison.verdict is Verdict.PASS
        self._exact = exact
        return exact


def _propose(
    model: LanguageModel,
    names: Sequence[FaultName],
    prospects: Sequence[Prospect],
    prompt: str | None,
) -> Proposal | None:
    """A prompt long enough for every fault that length can help; None if none is needed."""
    needed = max((p.tokens_needed or 0 for p in prospects), default=0)
    if needed == 0:
        return None
    try:
        text, ids = longer_prompt(model.tokenizer, prompt or "", needed)
    except (NoTokenizerError, UnsupportedTokenizerError):
        return None
    shows = [
        str(name)
        for name, before in zip(names, prospects, strict=True)
        if before.outcome == "hidden"
        and before.tokens_needed is not None
        and _foresee(model, name, ids).outcome == "shown"
    ]
    if len(ids) > model.config.context_length or not shows:
        return None
    return Proposal(prompt=text, num_tokens=len(ids), shows=tuple(shows))
