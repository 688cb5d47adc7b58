"""A noise profile: how far honest arithmetics lie from exact on one model, and its gates.

Every figure is a distance from the float64 oracle on the same bytes, the largest over the
prompts: what an engine without a fault may show. A gate's limit is that noise times the
factor of its metric, `cotejar.parity.gates.FACTORS`.

Two sides that both have noise can lie as far apart as both distances from exact together:

    rel_l2, margin  |c - r| <= |c - e| + |r - e|                  noises add
    std_ratio       log c/r = log c/e + log e/r                   spreads multiply
    kl_max          near equality KL is half a squared norm of    square roots add
                    the difference of the logits (Fisher's)

For a worst token that is a bound, but for the reference's norm in the denominator, which is
not the exact one's; a sum of medians need not bound the median of sums. The factors cover
both. A metric whose noise is known for one side only has no gate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.parity.gates import FACTORS, Gate
from cotejar.trace.forward_trace import Scope

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cotejar.trace.forward_trace import EngineInfo, ForwardTrace, ModelInfo

NOISE_METRICS = tuple(FACTORS)
"""What a profile holds: the metrics that have a factor."""
MIN_MEDIAN_TOKENS = 3
"""Of fewer the worst token moves the median, which has the smaller factor because none does."""
RESOLUTION = {"std_ratio": 1 + 1e-12, "kl_max": 1e-14}
"""Noise below it is the measure's own rounding, of sums of up to 1e6 numbers in float64, and
of logarithms near 50: it is no limit to judge by, and the elements are judged anyway."""
MAX_NOISE = 1e30
"""Far beyond any; sums, products and powers of such are still finite."""
EXACT = "oracle"
"""The engine whose noise is 0, since every noise is a distance from it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """One metric at one site in one scope."""

    value: float
    """The largest; of `std_ratio` the spread, at least 1."""
    num_tokens: int
    """Tokens that it was taken over."""


SiteNoise = dict[Scope, dict[str, Noise]]
"""By scope and metric. In scope `last` every token counts as if it were the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineNoise:
    """One engine in one arithmetic."""

    engine: EngineInfo
    sites: Mapping[str, SiteNoise]
    """By name; a site that the engine cannot observe is not there."""

    @property
    def name(self) -> str:
        """`native+q8`; with its device where that is not the CPU."""
        return engine_label(self.engine)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredPrompt:
    """One list of token ids that was run."""

    sha256: str
    """Of the ids in decimal, with commas between them."""
    num_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseProfile:
    """What `apr noise` measured on one model."""

    name: str
    """Of the file, without its folder; empty where it is in none."""
    model: ModelInfo
    exact: EngineInfo
    engines: tuple[EngineNoise, ...]
    prompts: tuple[MeasuredPrompt, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    """Engines that were asked for and could not be measured, and why."""
    host: Mapping[str, str]
    date: str
    """ISO 8601, UTC."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(prompt.num_tokens for prompt in self.prompts)

    def gates(self, reference: ForwardTrace, candidate: ForwardTrace) -> tuple[Gate, ...]:
        """The gates for two traces, in forward order; none where `refusal` says why."""
        if self.refusal(reference, candidate) is not None:
            return ()
        sides = [n for n in map(self._find, (reference, candidate)) if n is not None]
        noisy = [side for side in sides if not self._is_exact(side.engine)]
        gates: list[Gate] = []
        for site in noisy[0].sites:
            if all(site in side.sites for side in noisy):
                gates += self._site_gates(site, noisy)
        if len(reference.token_ids) < MIN_MEDIAN_TOKENS:
            gates = [gate for gate in gates if gate.metric != "rel_l2_median"]
        return tuple(gates)

    def refusal(self, reference: ForwardTrace, candidate: ForwardTrace) -> str | None:
        """Why this profile has no gate for two traces; None where it has."""
        for trace in (reference, candidate):
            if not trace.model.fingerprint or trace.model.fingerprint != self.model.fingerprint:
                found = trace.model.fingerprint[:19] or "unknown weights"
                return (
                    f"the noise profile {self.name} is of {self.model.name} "
                    f"({self.model.fingerprint[:19]}), not of {trace.model.name} ({found})"
                )
            if self._find(trace) is None:
                held = ", ".join(side.name for side in self.engines) or "nothing"
                return (
                    f"the noise profile {self.name} holds {held}, "
                    f"not {engine_label(trace.engine)}"
                )
        if self._is_exact(reference.engine) and self._is_exact(candidate.engine):
            return "both sides are the oracle, from which every noise is measured"
        return None

    def other_builds(self, traces: Sequence[ForwardTrace]) -> list[tuple[str, str, str]]:
        """Engine, build in the profile and build in the trace, where the two differ."""
        found = [(side, t.engine) for t in traces if (side := self._find(t)) is not None]
        return [
            (side.name, side.engine.build, engine.build)
            for side, engine in found
            if side.engine.build != engine.build
        ]

    def _is_exact(self, engine: EngineInfo) -> bool:
        return (engine.name, engine.numerics) == (EXACT, self.exact.numerics)

    def _find(self, trace: ForwardTrace) -> EngineNoise | None:
        if self._is_exact(trace.engine):
            return EngineNoise(engine=trace.engine, sites={})
        wanted = _key(trace.engine)
        return next((side for side in self.engines if _key(side.engine) == wanted), None)

    def _site_gates(self, site: str, noisy: Sequence[EngineNoise]) -> list[Gate]:
        """One gate a metric that every side has measured."""
        gates = []
        for metric in NOISE_METRICS:
            known = [n for side in noisy if (n := _of_any_scope(side.sites[site], metric))]
            if len(known) < len(noisy):
                continue
            noise = _together(metric, [n.value for n in known])
            if noise >= RESOLUTION.get(metric, 0.0):
                limit, origin = self._limit(metric, noise, known, noisy)
                gates.append(Gate(metric=metric, sites=site, limit=limit, origin=origin))
        return gates

    def _limit(
        self,
        metric: str,
        noise: float,
        parts_of: Sequence[Noise],
        sides: Sequence[EngineNoise],
    ) -> tuple[float, str]:
        """Limit and origin from the noise of one side, or of two together."""
        factor = FACTORS[metric]
        tokens = min(n.num_tokens for n in parts_of)
        whose = f"the noise of {sides[0].name}"
        if len(sides) > 1:
            parts = " and ".join(
                f"{n.value:.3g} of {side.name}" for n, side in zip(parts_of, sides, strict=True)
            )
            whose = f"the noises {parts}, {_RULES.get(metric, 'added')}"
        where = f"over {tokens} tokens in {self.name or 'this profile'}"
        if metric == "std_ratio":
            return noise**factor, f"{noise:.6g} to the power of {factor:g}, {whose} {where}"
        return factor * noise, f"{factor:g} x {noise:.3g}, {whose} {where}"


def _of_any_scope(site: SiteNoise, metric: str) -> Noise | None:
    """The larger of the scopes': a text that repeats itself errs over all as in one token."""
    found = [n for metrics in site.values() if (n := metrics.get(metric)) and n.num_tokens > 0]
    return max(found, key=lambda noise: noise.value, default=None)


_RULES = {"std_ratio": "multiplied", "kl_max": "their square roots added"}


def _together(metric: str, noises: Sequence[float]) -> float:
    """The noise of a pair from that of its sides: see the module."""
    if metric == "std_ratio":
        return math.prod(noises)
    if metric == "kl_max":
        return noises[0] if len(noises) == 1 else sum(map(math.sqrt, noises)) ** 2
    return sum(noises)


def engine_label(engine: EngineInfo) -> str:
    """`native+q8`; with its device where that is not the CPU."""
    device = "" if engine.device == "cpu" else f"@{engine.device}"
    return f"{engine.name}+{engine.numerics}{device}"


def _key(engine: EngineInfo) -> tuple[str, str, str]:
    return engine.name, engine.numerics, engine.device
