"""The oracle as arbiter: which of two sides is further from exact than it may be?

Each side's trace is compared with the float64 oracle's on the same tokens, by the gates that
the side's own arithmetic has: coarse numerics lie far from exact without a fault, and a fault
in fine ones is smaller than that. At a site in a scope the side is further that is beyond its
own gates where the other is within; where both are beyond, the one that is more than `CLEARLY`
times as far beyond. Anything else is undecided: the two within noise of each other, both within
what their arithmetic explains, both beyond it alike, or no noise known.

Engines are not known here: three traces come in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cotejar.parity.compare import Plan, compare_traces
from cotejar.verdict import Verdict, worst

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cotejar.parity.compare import Comparison, SiteComparison
    from cotejar.trace.forward_trace import EngineInfo, ForwardTrace, Scope

    Ruling = tuple[Comparison, Comparison, Comparison]
    """The two against each other, the reference against exact, and the candidate."""

Further = Literal["reference", "candidate", "undecided"]

CLEARLY = 2.0
"""Limits are small multiples of noise: beyond them, a smaller lead says little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exactness:
    """How far one side is from exact, over the prompts."""

    rel_l2: float | None
    """Of the worst token; None where the side has no elements there."""
    limit: float | None
    """Of its arithmetic on `rel_l2`; None where nobody has measured it."""
    severity: float
    """Value over limit of the side's worst gate, whichever metric it is on; 0 without one."""
    verdict: Verdict | None
    """Of the side's own gates; None where it has none."""

    @property
    def is_beyond(self) -> bool:
        """Is it further from exact than its arithmetic explains?"""
        return self.verdict is Verdict.FAIL


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteArbitration:
    """One site in one scope."""

    site: str
    scope: Scope
    pair: Verdict | None
    """Of the two sides against each other; None where they have no gate."""
    reference: Exactness
    candidate: Exactness

    @property
    def further(self) -> Further:
        """The side that is further from exact than it may be."""
        if self.pair is Verdict.PASS:
            return "undecided"
        return _further(self.reference, self.candidate)

    def as_json(self) -> dict[str, object]:
        """The facts for `--json`."""
        facts: dict[str, object] = {
            "site": self.site,
            "scope": self.scope.value,
            "pair_verdict": self.pair and self.pair.value,
        }
        for name, side in (("reference", self.reference), ("candidate", self.candidate)):
            facts[f"{name}_rel_l2"] = side.rel_l2
            facts[f"{name}_limit"] = side.limit
            facts[f"{name}_severity"] = side.severity
            facts[f"{name}_verdict"] = side.verdict and side.verdict.value
        return facts | {"further": self.further}


@dataclass(frozen=True, kw_only=True, slots=True)
class Arbitration:
    """What the oracle says of two sides, over all prompts that could be compared."""

    engine: EngineInfo
    """The arbiter."""
    model: str
    """Whose weights it ran on."""
    sites: tuple[SiteArbitration, ...]
    """In forward order; never empty."""

    def at(self, site: str, scope: Scope) -> SiteArbitration | None:
        """One site in one scope; None where a side has no such."""
        return next((s for s in self.sites if (s.site, s.scope) == (site, scope)), None)

    @property
    def parted(self) -> tuple[SiteArbitration, ...]:
        """The sites at which the two are not within noise of each other."""
        return tuple(site for site in self.sites if site.pair is not Verdict.PASS)

    @property
    def reference(self) -> Exactness:
        """The reference at its worst site: of those that parted, if any did."""
        return _worst([s.reference for s in self.parted or self.sites])

    @property
    def candidate(self) -> Exactness:
        """The candidate at its worst site: of those that parted, if any did."""
        return _worst([s.candidate for s in self.parted or self.sites])

    @property
    def further(self) -> Further:
        """The same as at a site, each side at its worst site."""
        return _further(self.reference, self.candidate) if self.parted else "undecided"

    @property
    def num_beyond(self) -> tuple[int, int]:
        """Cells (site x scope) at which the reference, the candidate is beyond its gates."""
        return (
            sum(s.reference.is_beyond for s in self.sites),
            sum(s.candidate.is_beyond for s in self.sites),
        )

    def as_json(self, divergence: SiteComparison | None) -> dict[str, object]:
        """The facts for `--json`; `divergence` is the first site at which the two part."""
        first = divergence and self.at(divergence.site, divergence.scope)
        beyond = self.num_beyond
        return {
            "engine": self.engine.name,
            "numerics": self.engine.numerics,
            "build": self.engine.build,
            "model": self.model,
            "further": self.further,
            "reference_beyond": beyond[0],
            "candidate_beyond": beyond[1],
            "reference_severity": self.reference.severity,
            "candidate_severity": self.candidate.severity,
            "first_divergence": first and first.as_json(),
            "sites": [site.as_json() for site in self.sites],
        }


def arbitrate(
    exact: ForwardTrace,
    reference: ForwardTrace,
    candidate: ForwardTrace,
    plan: Plan,
    pair: Comparison,
) -> Ruling:
    """Hold both sides against exact, on one prompt.

    Args:
        exact: the oracle's trace of the same tokens, with its arrays.
        reference: the one side, with its arrays.
        candidate: the other.
        plan: of the comparison of the two: its noise profile, scopes and what it waives.
        pair: that comparison.
    """
    own = Plan(noise=plan.noise, scopes=plan.scopes, waived=plan.waived)
    sides = compare_traces(exact, reference, own), compare_traces(exact, candidate, own)
    return (pair, *sides)


def join_rulings(rulings: Sequence[Ruling]) -> Arbitration | None:
    """The worst over the prompts; None where no site of both sides could be measured."""
    if not rulings:
        return None
    pairs, references, candidates = (_cells(found) for found in zip(*rulings, strict=True))
    sites = tuple(
        SiteArbitration(
            site=key[0],
            scope=key[1],
            pair=_verdict(found),
            reference=_exactness(references[key]),
            candidate=_exactness(candidates[key]),
        )
        for key, found in pairs.items()
        if key in references and key in candidates
    )
    exact = rulings[0][1].reference
    return (
        Arbitration(engine=exact.engine, model=exact.model.name, sites=sites) if sites else None
    )


def _cells(comparisons: Iterable[Comparison]) -> dict[tuple[str, Scope], list[SiteComparison]]:
    cells: dict[tuple[str, Scope], list[SiteComparison]] = {}
    for comparison in comparisons:
        for site in comparison.sites:
            cells.setdefault((site.site, site.scope), []).append(site)
    return cells


def _exactness(found: Sequence[SiteComparison]) -> Exactness:
    judged = [j for site in found for j in site.judged]
    limits = [j.gate.limit for j in judged if j.gate.metric == "rel_l2_max"]
    distances = [s.distance.rel_l2_max for s in found if s.distance is not None]
    return Exactness(
        rel_l2=max(distances, key=_nan_last) if distances else None,
        limit=min(limits, default=None),
        severity=max((j.severity for j in judged), default=0.0),
        verdict=_verdict(found),
    )


def _verdict(found: Sequence[SiteComparison]) -> Verdict | None:
    verdicts = [s.verdict for s in found if s.verdict is not None]
    return worst(verdicts) if verdicts else None


def _worst(found: Sequence[Exactness]) -> Exactness:
    return max(found, key=lambda e: (e.is_beyond, e.verdict is not None, e.severity))


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _further(reference: Exactness, candidate: Exactness) -> Further:
    if reference.is_beyond and candidate.is_beyond:
        if reference.severity > CLEARLY * candidate.severity:
            return "reference"
        if candidate.severity > CLEARLY * reference.severity:
            return "candidate"
        return "undecided"
    if reference.is_beyond and candidate.verdict is Verdict.PASS:
        return "reference"
    if candidate.is_beyond and reference.verdict is Verdict.PASS:
        return "candidate"
    return "undecided"
