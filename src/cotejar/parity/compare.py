"""Compare two traces: preconditions, then distances site by site, then gates."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cotejar.parity.gates import Gate, Judged, default_gates
from cotejar.parity.metrics import (
    ArrayDistance,
    LogitsDistance,
    measure_distance,
    measure_logits,
    std_ratio,
)
from cotejar.parity.preconditions import (
    NaiveRatio,
    Precondition,
    Question,
    check_preconditions,
    find_naive_ratio,
)
from cotejar.parity.sample_gate import judge_samples, std_spread
from cotejar.trace.forward_trace import BOTH_SCOPES, ForwardTrace, Scope
from cotejar.verdict import Verdict, worst

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from cotejar.parity.noise import NoiseProfile
    from cotejar.trace.forward_trace import SiteRecord
    from cotejar.trace.stats import ActivationStats

    Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to compare, and by which rules."""

    gates: tuple[Gate, ...] = ()
    """Empty: those of `noise`, or else the defaults for the two numerics."""
    noise: NoiseProfile | None = None
    """What was measured on this model: where no gates are given, theirs come from it."""
    scopes: tuple[Scope, ...] = BOTH_SCOPES
    required_slots: tuple[str, ...] | None = None
    """None: the ten of contracts, less what a side says it cannot observe."""
    preconditions: tuple[str, ...] = ()
    """Ids to judge, beside those that are always judged; empty: all."""
    waived: frozenset[str] = frozenset()
    """Ids that are judged and reported but do not decide."""

    def gates_for(self, reference: ForwardTrace, candidate: ForwardTrace) -> tuple[Gate, ...]:
        """The gates that two traces are judged by; none where nothing is known."""
        if self.gates or self.noise is None:
            return self.gates or default_gates(reference, candidate)
        return self.noise.gates(reference, candidate)

    def with_options(self, scopes: tuple[Scope, ...] | None, waived: frozenset[str]) -> Plan:
        """The same plan with other scopes, if given, and more waived."""
        return replace(self, scopes=scopes or self.scopes, waived=self.waived | waived)


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteComparison:
    """One site in one scope."""

    site: str
    scope: Scope
    num_compared: int
    std_ratio: float
    distance: ArrayDistance | None
    """None where a side recorded statistics only, or (waived) the shapes differ."""
    judged: tuple[Judged, ...]

    @property
    def deciding(self) -> Judged | None:
        """The gate nearest to failing, or furthest beyond; None where no gate applies."""
        return max(self.judged, key=lambda j: j.badness, default=None)

    @property
    def verdict(self) -> Verdict | None:
        """None where no gate applies: such a site is shown, and not counted."""
        if not self.judged:
            return None
        return Verdict.PASS if all(j.passed for j in self.judged) else Verdict.FAIL


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two traces of one prompt, judged."""

    reference: ForwardTrace
    candidate: ForwardTrace
    preconditions: tuple[Precondition, ...]
    waived: frozenset[str]
    naive_ratio: NaiveRatio | None
    sites: tuple[SiteComparison, ...]
    """In forward order; empty when a precondition is broken."""
    unjudged_gates: tuple[Gate, ...]
    """Gates that were asked for and judged nowhere: a contract may name a site that is not
    there, and must not pass for that."""
    samples: Verdict
    """Of the sample-size gate over every required cell; nothing passes without it."""
    logits: LogitsDistance | None
    only_in_reference: tuple[str, ...]
    only_in_candidate: tuple[str, ...]

    @property
    def broken(self) -> list[Precondition]:
        """Broken preconditions that nobody waived."""
        return [p for p in self.preconditions if not p.holds and p.id not in self.waived]

    @property
    def verdict(self) -> Verdict:
        """INCOMPARABLE if a precondition is broken, or a gate or everything was not judged."""
        verdicts = [s.verdict for s in self.sites if s.verdict is not None]
        if self.broken or not verdicts:
            return Verdict.INCOMPARABLE
        if Verdict.FAIL in verdicts:
            return Verdict.FAIL
        return Verdict.INCOMPARABLE if self.unjudged_gates else self.samples

    @property
    def bit_identical(self) -> bool:
        """Every element of every site has the same bits, and no site is on one side alone."""
        unpaired = self.only_in_reference or self.only_in_candidate
        return (
            bool(self.sites)
            and not unpaired
            and all(s.distance is not None and s.distance.bit_identical for s in self.sites)
        )

    @property
    def first_divergence(self) -> SiteComparison | None:
        """The first site, in forward order, that fails its gate."""
        return next((s for s in self.sites if s.verdict is Verdict.FAIL), None)

    @property
    def num_compared(self) -> int:
        """Elements (or, where there are only statistics, sampled values) that a gate judged.

        Each counts once, however many scopes cover it.
        """
        judged: dict[str, int] = {}
        for site in self.sites:
            if site.judged:
                judged[site.site] = max(judged.get(site.site, 0), site.num_compared)
        return sum(judged.values())


def compare_traces(
    reference: ForwardTrace,
    candidate: ForwardTrace,
    plan: Plan | None = None,
    *,
    explain_tokens: Callable[[], str | None] | None = None,
) -> Comparison:
    """Judge two traces; of no fair measurement the verdict is INCOMPARABLE.

    `explain_tokens` is called where the token ids differ, and names the first that does.
    """
    plan = plan or Plan()
    gates = plan.gates_for(reference, candidate)
    question = Question(
        reference=reference,
        candidate=candidate,
        scopes=plan.scopes,
        required_slots=plan.required_slots,
        gates=gates,
        explain_tokens=explain_tokens,
    )
    preconditions = tuple(check_preconditions(question, plan.preconditions))
    fair = all(p.holds or p.id in plan.waived for p in preconditions)
    sites: list[SiteComparison] = []
    logits = None
    if fair:
        logits = _compare_logits(question)
        for record, other in question.common:
            sites += _compare_site(question, record, other, gates, logits)
    return Comparison(
        # The arrays are done with; a report over many prompts must not hold them all.
        reference=replace(reference, arrays={}),
        candidate=replace(candidate, arrays={}),
        preconditions=preconditions,
        waived=plan.waived,
        naive_ratio=None if fair else find_naive_ratio(question),
        sites=tuple(sites),
        unjudged_gates=_unjudged(plan.gates, sites) if fair else (),
        samples=_judge_samples(question, sites, plan.waived),
        logits=logits,
        only_in_reference=tuple(n for n in reference.sites if n not in candidate.sites),
        only_in_candidate=tuple(n for n in candidate.sites if n not in reference.sites),
    )


def _unjudged(gates: Sequence[Gate], sites: Sequence[SiteComparison]) -> tuple[Gate, ...]:
    judged = {judged.gate for site in sites for judged in site.judged}
    return tuple(gate for gate in gates if gate not in judged)


def _judge_samples(
    question: Question, sites: Sequence[SiteComparison], waived: frozenset[str]
) -> Verdict:
    """The sample-size gate, scope by scope, on what the preconditions and gates looked at.

    `pv prove` proves this gate, so its word is asked for before any PASS.
    """
    if "sample-count" in waived:
        return Verdict.PASS  # somebody let the counts differ
    verdicts = []
    for scope in question.scopes:
        shared = [(a, b) for a, b in question.common if scope in question.shared_scopes(a, b)]
        judged = [
            (question.reference.sites[s.site], question.candidate.sites[s.site], j.gate.limit)
            for s in sites
            for j in s.judged
            if s.scope is scope and j.gate.metric == "std_ratio"
        ]
        if shared:
            verdict = judge_samples(
                [a.stats[scope].count for a, _ in shared],
                [b.stats[scope].count for _, b in shared],
                [a.stats[scope].std for a, _, _ in judged],
                [b.stats[scope].std for _, b, _ in judged],
                [limit for _, _, limit in judged],
            )
            verdicts.append(verdict)
    return worst(verdicts)


def _compare_site(
    question: Question,
    record: SiteRecord,
    other: SiteRecord,
    gates: Sequence[Gate],
    logits: LogitsDistance | None,
) -> list[SiteComparison]:
    """One comparison a scope that both recorded; `logits` is for the site of that name."""
    name = str(record.site)
    arrays = _arrays(question, name)
    here = [gate for gate in gates if gate.applies_to(name)]
    compared = []
    for scope in question.shared_scopes(record, other):
        a, b = record.stats[scope], other.stats[scope]
        rows = _rows(arrays, scope)
        distance = None if rows is None else measure_distance(*rows)
        next_token = None
        if name == "logits" and logits is not None:
            next_token = logits if scope is Scope.ALL else logits.last
        values = _gate_values(a, b, distance, next_token)
        if scope is Scope.LAST:
            values.pop("rel_l2_median", None)  # of one token there is no median
        judged = [
            Judged(gate=gate, value=values[gate.metric])
            for gate in here
            if gate.metric in values
        ]
        compared.append(
            SiteComparison(
                site=name,
                scope=scope,
                num_compared=min(a.count, b.count),
                std_ratio=std_ratio(a, b),
                distance=distance,
                judged=tuple(judged),
            )
        )
    return compared


def _arrays(question: Question, name: str) -> Pair | None:
    """A site's elements; None where a side did not capture them."""
    a, b = question.reference.arrays, question.candidate.arrays
    return (a[name], b[name]) if name in a and name in b else None


def _rows(arrays: Pair | None, scope: Scope) -> Pair | None:
    """What a scope covers of them; None where the shapes differ, which someone waived."""
    if arrays is None:
        return None
    a, b = arrays if scope is Scope.ALL else (arrays[0][-1:], arrays[1][-1:])
    return (a, b) if a.shape == b.shape else None


def _compare_logits(question: Question) -> LogitsDistance | None:
    pair = [t.sites.get("logits") for t in (question.reference, question.candidate)]
    if pair[0] is None or pair[1] is None:
        return None
    shared = question.shared_scopes(pair[0], pair[1])
    widest = Scope.ALL if Scope.ALL in shared else Scope.LAST
    rows = _rows(_arrays(question, "logits"), widest) if shared else None
    return None if rows is None else measure_logits(*rows)


def _gate_values(
    a: ActivationStats,
    b: ActivationStats,
    distance: ArrayDistance | None,
    logits: LogitsDistance | None,
) -> dict[str, float]:
    """Every metric that could be measured, as gates judge it."""
    # Statistics cover finite values only: of others a ratio must not pass.
    finite = a.finite_count == a.count and b.finite_count == b.count
    values = {"std_ratio": std_spread(a.std, b.std) if finite else math.nan}
    if distance is not None:
        values |= {
            "rel_l2_max": distance.rel_l2_max,
            "rel_l2_median": distance.rel_l2_median,
            "max_abs": distance.max_abs,
            "cosine_distance": 1 - distance.cosine_min,
            "nmse": distance.nmse,
        }
    if logits is not None:
        values |= {
            "kl_max": float(logits.kl.max()),
            "top1_flip_margin": logits.flip_margin,
            "top1_disagreement": 1 - float(logits.top1_equal.mean()),
            "top5_disagreement": 1 - float(logits.top5_overlap.mean()),
        }
    return values
