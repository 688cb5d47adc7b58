"""What a comparison over one or several prompts found, as one object.

`as_json` is what `apr parity --json` prints and what other tools rely on. It holds numbers as
they are; `cotejar.report.json_output` writes those that are not finite, which JSON lacks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cotejar.parity.metrics import distance_from_1
from cotejar.verdict import Verdict, worst

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cotejar.parity.arbiter import Arbitration
    from cotejar.parity.compare import Comparison, SiteComparison
    from cotejar.parity.gates import Judged
    from cotejar.parity.noise import NoiseProfile
    from cotejar.parity.preconditions import NaiveRatio, Precondition
    from cotejar.trace.forward_trace import ForwardTrace, Scope


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteSummary:
    """One site in one scope over all prompts: the worst of each measure."""

    site: str
    scope: Scope
    num_compared: int
    rel_l2_max: float | None
    rel_l2_median: float | None
    max_abs: float | None
    cosine_min: float | None
    nmse: float | None
    """None for the five where no elements were captured."""
    std_ratio: float
    """The ratio furthest from 1."""
    gate: Judged | None
    """The gate that decides, with its value."""
    verdict: Verdict | None
    bit_identical: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitsSummary:
    """The next-token distributions over all prompts and positions."""

    kl_max: float
    top1_agreement: float
    """Share of positions with the same most likely token."""
    top5_overlap: float
    """Mean share of the reference's five most likely tokens found again."""
    min_margin: float
    """Smallest gap between the reference's two largest logits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityReport:
    """All prompts of one pair, judged."""

    comparisons: tuple[Comparison, ...]
    fault: str | None = None
    """What was injected into the candidate on purpose."""
    noise: NoiseProfile | None = None
    """Where the gates were to come from."""
    arbitration: Arbitration | None = None
    """What the oracle says, if it was asked and there was something to say."""
    num_steps: tuple[int, ...] = ()
    """Of each prompt, how many tokens, the last ones and fed one at a time, were alone
    compared; 0 where all were. Empty: 0 of each."""

    @property
    def verdict(self) -> Verdict:
        """FAIL if a fair comparison failed, else INCOMPARABLE if any was unfair, else PASS."""
        return worst(c.verdict for c in self.comparisons)

    @property
    def bit_identical(self) -> bool:
        """At every site of every prompt."""
        return bool(self.comparisons) and all(c.bit_identical for c in self.comparisons)

    @property
    def num_compared(self) -> int:
        """Numbers that a gate judged, over all prompts; each counts once."""
        return sum(c.num_compared for c in self.comparisons)

    @property
    def first_divergence(self) -> SiteComparison | None:
        """The earliest failing site of the first prompt that fails."""
        found = (c.first_divergence for c in self.comparisons)
        return next((f for f in found if f is not None), None)

    @property
    def naive_ratio(self) -> NaiveRatio | None:
        """Of the first prompt that has one."""
        found = (c.naive_ratio for c in self.comparisons)
        return next((f for f in found if f is not None), None)

    @property
    def broken(self) -> list[Precondition]:
        """Every broken precondition that nobody waived, once an id."""
        by_id = {p.id: p for c in reversed(self.comparisons) for p in c.broken}
        return list(by_id.values())

    @property
    def sites(self) -> list[SiteSummary]:
        """In forward order."""
        grouped: dict[tuple[str, Scope], list[SiteComparison]] = {}
        for comparison in self.comparisons:
            for site in comparison.sites:
                grouped.setdefault((site.site, site.scope), []).append(site)
        return [_summarize(group) for group in grouped.values()]

    @property
    def not_judged(self) -> list[str]:
        """Sites that were compared and have no gate, in forward order."""
        judged = {s.site for c in self.comparisons for s in c.sites if s.judged}
        names = dict.fromkeys(s.site for c in self.comparisons for s in c.sites)
        return [name for name in names if name not in judged]

    @property
    def no_gates(self) -> str | None:
        """Why the noise profile has no gate for this pair; None where it has one."""
        if self.noise is None:
            return None
        return self.noise.refusal(self.comparisons[0].reference, self.comparisons[0].candidate)

    @property
    def logits(self) -> LogitsSummary | None:
        """None where a side did not capture logits, or nothing was comparable."""
        found = [c.logits for c in self.comparisons if c.logits is not None]
        if not found:
            return None
        positions = sum(len(d.kl) for d in found)
        return LogitsSummary(
            kl_max=_worst_of(float(d.kl.max()) for d in found),
            top1_agreement=sum(float(d.top1_equal.sum()) for d in found) / positions,
            top5_overlap=sum(float(d.top5_overlap.sum()) for d in found) / positions,
            min_margin=min(float(d.margin.min()) for d in found),
        )

    def as_json(self) -> dict[str, object]:
        """The object that `--json` prints."""
        first, divergence = self.comparisons[0], self.first_divergence
        naive = self.naive_ratio
        return {
            "verdict": self.verdict.value,
            "exit_code": self.verdict.exit_code,
            "reference": _side_json(first.reference),
            "candidate": _side_json(first.candidate),
            "fault": self.fault,
            "tokens": [i for c in self.comparisons for i in c.reference.token_ids],
            "prompts": [
                {
                    "prompt": c.reference.prompt,
                    "token_ids": list(c.reference.token_ids),
                    "verdict": c.verdict.value,
                    "first_divergence": c.first_divergence and c.first_divergence.site,
                    "num_steps": self.num_steps[i] if self.num_steps else 0,
                }
                for i, c in enumerate(self.comparisons)
            ],
            "preconditions": [_precondition_json(p) for p in self._merged_preconditions()],
            "waived": sorted(first.waived),
            "naive_ratio": None
            if naive is None
            else {
                "site": naive.site,
                "reference_scope": naive.reference_scope,
                "candidate_scope": naive.candidate_scope,
                "reference_count": naive.reference_count,
                "candidate_count": naive.candidate_count,
                "std_ratio": naive.std_ratio,
            },
            "sites": [_site_json(s) for s in self.sites],
            "unjudged_gates": [
                {"metric": gate.metric, "sites": gate.sites}
                for gate in dict.fromkeys(g for c in self.comparisons for g in c.unjudged_gates)
            ],
            "not_judged": self.not_judged,
            "noise": self._noise_json(),
            "arbiter": self.arbitration and self.arbitration.as_json(divergence),
            "only_in_reference": list(first.only_in_reference),
            "only_in_candidate": list(first.only_in_candidate),
            "bit_identical": self.bit_identical,
            "first_divergence": divergence.site if divergence else None,
            "logits": self._logits_json(),
            "num_compared": self.num_compared,
        }

    def _noise_json(self) -> dict[str, object] | None:
        noise = self.noise
        if noise is None:
            return None
        first = self.comparisons[0]
        return {
            "profile": noise.name,
            "model": noise.model.name,
            "fingerprint": noise.model.fingerprint,
            "num_tokens": noise.num_tokens,
            "date": noise.date,
            "no_gates": self.no_gates,
            "other_builds": [
                {"engine": engine, "measured": measured, "run": run}
                for engine, measured, run in noise.other_builds(
                    (first.reference, first.candidate)
                )
            ],
        }

    def _logits_json(self) -> dict[str, object] | None:
        logits = self.logits
        if logits is None:
            return None
        return {
            "kl_max": logits.kl_max,
            "top1_agreement": logits.top1_agreement,
            "top5_overlap": logits.top5_overlap,
            "min_margin": logits.min_margin,
        }

    def _merged_preconditions(self) -> list[Precondition]:
        """One an id: counts of all prompts, and the message of the first that is broken."""
        merged: dict[str, Precondition] = {}
        for found in (p for c in self.comparisons for p in c.preconditions):
            held = merged.setdefault(found.id, replace(found, num_checked=0, num_broken=0))
            merged[found.id] = replace(
                held if held.num_broken or found.holds else found,
                num_checked=held.num_checked + found.num_checked,
                num_broken=held.num_broken + found.num_broken,
            )
        return list(merged.values())


def _summarize(group: Sequence[SiteComparison]) -> SiteSummary:
    distances = [s.distance for s in group if s.distance is not None]
    judged = [j for s in group for j in s.judged]
    verdicts = [s.verdict for s in group if s.verdict is not None]
    return SiteSummary(
        site=group[0].site,
        scope=group[0].scope,
        num_compared=sum(s.num_compared for s in group),
        rel_l2_max=_worst_of(d.rel_l2_max for d in distances) if distances else None,
        rel_l2_median=_worst_of(d.rel_l2_median for d in distances) if distances else None,
        max_abs=_worst_of(d.max_abs for d in distances) if distances else None,
        cosine_min=-_worst_of(-d.cosine_min for d in distances) if distances else None,
        nmse=_worst_of(d.nmse for d in distances) if distances else None,
        std_ratio=max((s.std_ratio for s in group), key=distance_from_1),
        gate=max(judged, key=lambda j: j.badness, default=None),
        verdict=worst(verdicts) if verdicts else None,
        bit_identical=len(distances) == len(group) and all(d.bit_identical for d in distances),
    )


def _worst_of(values: Iterable[float]) -> float:
    """The largest; NaN is larger than all."""
    return max(values, key=lambda v: math.inf if math.isnan(v) else v)


def _side_json(trace: ForwardTrace) -> dict[str, object]:
    return {
        "engine": trace.engine.name,
        "build": trace.engine.build,
        "numerics": trace.engine.numerics,
        "products": trace.products,
        "device": trace.engine.device,
        "model": trace.model.name,
        "format": trace.model.format,
        "fingerprint": trace.model.fingerprint,
    }


def _precondition_json(precondition: Precondition) -> dict[str, object]:
    return {
        "id": precondition.id,
        "holds": precondition.holds,
        "is_undecided": precondition.is_undecided,
        "num_checked": precondition.num_checked,
        "num_broken": precondition.num_broken,
        "message": precondition.message,
    }


def _site_json(site: SiteSummary) -> dict[str, object]:
    gate = site.gate
    return {
        "site": site.site,
        "scope": site.scope.value,
        "num_compared": site.num_compared,
        "rel_l2_max": site.rel_l2_max,
        "rel_l2_median": site.rel_l2_median,
        "max_abs": site.max_abs,
        "cosine_min": site.cosine_min,
        "nmse": site.nmse,
        "std_ratio": site.std_ratio,
        "bit_identical": site.bit_identical,
        "gate": None
        if gate is None
        else {
            "metric": gate.gate.metric,
            "limit": gate.gate.limit,
            "value": gate.value,
            "origin": gate.gate.origin,
        },
        "verdict": None if site.verdict is None else site.verdict.value,
    }
