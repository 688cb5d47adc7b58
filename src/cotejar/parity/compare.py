"""Compare two traces: preconditions, then distances site by site, then gates."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cotejar.parity.gates import LOGITS_METRICS, Gate, Judged, default_gates
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
from cotejar.trace.forward_trace import BOTH_SCOPES, ForwardTrace, Scope
from cotejar.trace.site import CONTRACT_SLOTS
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.trace.forward_trace import SiteRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to compare, and by which rules."""

    gates: tuple[Gate, ...] = ()
    """Empty: the defaults for the two numerics."""
    scopes: tuple[Scope, ...] = BOTH_SCOPES
    required_slots: tuple[str, ...] = CONTRACT_SLOTS
    preconditions: tuple[str, ...] = ()
    """Ids to judge; empty: all."""
    waived: frozenset[str] = frozenset()
    """Ids that are judged and reported but do not decide."""

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
    """None where a side recorded statistics only."""
    judged: tuple[Judged, ...]

    @property
    def deciding(self) -> Judged | None:
        """The gate nearest to failing, or furthest beyond; None where no gate applies."""
        return max(self.judged, key=lambda j: j.severity, default=None)

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
    logits: LogitsDistance | None
    only_in_reference: tuple[str, ...]
    only_in_candidate: tuple[str, ...]

    @property
    def broken(self) -> list[Precondition]:
        """Broken preconditions that nobody waived."""
        return [p for p in self.preconditions if not p.holds and p.id not in self.waived]

    @property
    def verdict(self) -> Verdict:
        """INCOMPARABLE if a precondition is broken or nothing was judged."""
        verdicts = [s.verdict for s in self.sites if s.verdict is not None]
        if self.broken or not verdicts:
            return Verdict.INCOMPARABLE
        return Verdict.FAIL if Verdict.FAIL in verdicts else Verdict.PASS

    @property
    def bit_identical(self) -> bool:
        """Every element compared, at every shared site, has the same bits."""
        return bool(self.sites) and all(
            s.distance is not None and s.distance.bit_identical for s in self.sites
        )

    @property
    def first_divergence(self) -> SiteComparison | None:
        """The first site, in forward order, that fails its gate."""
        return next((s for s in self.sites if s.verdict is Verdict.FAIL), None)

    @property
    def num_compared(self) -> int:
        """Elements (or, where there are only statistics, sampled values) compared."""
        return sum(s.num_compared for s in self.sites)


def compare_traces(
    reference: ForwardTrace, candidate: ForwardTrace, plan: Plan | None = None
) -> Comparison:
    """Judge two traces; of no fair measurement the verdict is INCOMPARABLE."""
    plan = plan or Plan()
    gates = plan.gates or tuple(default_gates(reference, candidate))
    question = Question(
        reference=reference,
        candidate=candidate,
        scopes=plan.scopes,
        required_slots=plan.required_slots,
        needs_arrays=any(gate.needs_arrays for gate in gates),
    )
    preconditions = tuple(check_preconditions(question, plan.preconditions))
    fair = all(p.holds or p.id in plan.waived for p in preconditions)
    sites: list[SiteComparison] = []
    logits = None
    if fair:
        for record, other in question.common:
            sites += _compare_site(question, record, other, gates)
        logits = _compare_logits(question)
    return Comparison(
        # The arrays are done with; a report over many prompts must not hold them all.
        reference=replace(reference, arrays={}),
        candidate=replace(candidate, arrays={}),
        preconditions=preconditions,
        waived=plan.waived,
        naive_ratio=None if fair else find_naive_ratio(question),
        sites=tuple(sites),
        logits=logits,
        only_in_reference=tuple(n for n in reference.sites if n not in candidate.sites),
        only_in_candidate=tuple(n for n in candidate.sites if n not in reference.sites),
    )


def _compare_site(
    question: Question, record: SiteRecord, other: SiteRecord, gates: Sequence[Gate]
) -> list[SiteComparison]:
    """One comparison a scope that both sides recorded."""
    name = str(record.site)
    arrays = question.reference.arrays, question.candidate.arrays
    pair = tuple(a[name] for a in arrays) if all(name in a for a in arrays) else None
    compared = []
    for scope in question.shared_scopes(record, other):
        a, b = record.stats[scope], other.stats[scope]
        distance = None
        if pair is not None:
            rows = [array if scope is Scope.ALL else array[-1:] for array in pair]
            distance = measure_distance(rows[0], rows[1])
        ratio = std_ratio(a, b)
        logits = _measure_logits(question, scope) if name == "logits" else None
        judged = [
            Judged(gate=gate, value=_value(gate.metric, ratio, distance, logits))
            for gate in gates
            if gate.applies_to(name)
        ]
        compared.append(
            SiteComparison(
                site=name,
                scope=scope,
                num_compared=a.count,
                std_ratio=ratio,
                distance=distance,
                judged=tuple(judged),
            )
        )
    return compared


def _measure_logits(question: Question, scope: Scope) -> LogitsDistance | None:
    """The logits' distance in one scope; None where a side did not capture them."""
    arrays = question.reference.arrays, question.candidate.arrays
    if not all("logits" in a for a in arrays):
        return None
    rows = [a["logits"] if scope is Scope.ALL else a["logits"][-1:] for a in arrays]
    return measure_logits(rows[0], rows[1])


def _compare_logits(question: Question) -> LogitsDistance | None:
    pair = [t.sites.get("logits") for t in (question.reference, question.candidate)]
    if pair[0] is None or pair[1] is None:
        return None
    shared = question.shared_scopes(pair[0], pair[1])
    return _measure_logits(question, shared[0]) if shared else None


def _value(
    metric: str,
    ratio: float,
    distance: ArrayDistance | None,
    logits: LogitsDistance | None,
) -> float:
    """The metric as gates judge it; NaN, which fails, where it could not be measured."""
    if metric == "std_ratio":
        if math.isnan(ratio):
            return math.nan
        return max(ratio, 1 / ratio) if ratio > 0 else math.inf
    if metric in LOGITS_METRICS:
        if logits is None:
            return math.nan
        return {
            "kl_max": float(logits.kl.max()),
            "top1_disagreement": 1 - float(logits.top1_equal.mean()),
            "top5_disagreement": 1 - float(logits.top5_overlap.mean()),
        }[metric]
    if distance is None:
        return math.nan
    return {
        "rel_l2_max": distance.rel_l2_max,
        "max_abs": distance.max_abs,
        "cosine_distance": 1 - distance.cosine_min,
        "nmse": distance.nmse,
    }[metric]
