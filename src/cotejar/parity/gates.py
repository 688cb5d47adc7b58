"""Gates: a metric with a limit, and where the limit comes from.

A gate is passed when `value <= limit`, so that NaN fails. A band on a ratio is judged as
max(ratio, 1/ratio) <= limit, which is the same whichever side is called the reference.

The default limits follow from the two numerics. Their origin is measured noise: how far
honest arithmetics lay apart on two real models (see `docs/gates.md`, which also has the
command that measures them), times a stated factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.trace.forward_trace import ForwardTrace

SITE_METRICS = ("rel_l2_max", "max_abs", "cosine_distance", "nmse", "std_ratio")
LOGITS_METRICS = ("kl_max", "top1_disagreement", "top5_disagreement")
METRICS = (*SITE_METRICS, *LOGITS_METRICS)
STATISTICS_ONLY = ("std_ratio",)
"""Metrics that need no elements."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """One metric, the sites it is judged at, its limit and the limit's origin."""

    metric: str
    """`cosine_distance` is 1 - cosine; `std_ratio` is judged as max(ratio, 1/ratio)."""
    sites: str
    """`all`, a slot, or one site."""
    limit: float
    origin: str

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise UsageError(
                f"there is no metric {self.metric!r}",
                where="gate",
                expected=", ".join(METRICS),
                found=self.metric,
                hint="cosine is judged as cosine_distance = 1 - cosine",
            )
        if not self.limit >= 0:
            raise UsageError(
                f"a limit of {self.limit} can never be met",
                where=f"gate on {self.metric}",
                expected="a number of at least 0",
                found=str(self.limit),
                hint="0 asks for equality",
            )

    def applies_to(self, site: str) -> bool:
        """Is this gate judged at that site? Metrics of logits are judged there alone."""
        if self.metric in LOGITS_METRICS:
            return site == "logits"
        return self.sites in {"all", site} or site.rpartition(".")[2] == self.sites

    @property
    def needs_arrays(self) -> bool:
        """Does the metric need elements, not only statistics?"""
        return self.metric not in STATISTICS_ONLY


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A gate and the value it met."""

    gate: Gate
    value: float

    @property
    def passed(self) -> bool:
        """NaN does not pass."""
        return self.value <= self.gate.limit

    @property
    def severity(self) -> float:
        """Value over limit; the gate with the largest decides what a report shows."""
        if self.value != self.value:  # noqa: PLR0124 - NaN is the worst of all
            return float("inf")
        if self.gate.limit == 0:
            return float("inf") if self.value > 0 else 0.0
        return self.value / self.gate.limit


SAME_ARITHMETIC = (
    Gate(
        metric="max_abs",
        sites="all",
        limit=0.0,
        origin="the same bytes through the same build on the same machine give the same bits",
    ),
)
FLOAT_NOISE = (
    Gate(
        metric="rel_l2_max",
        sites="all",
        limit=1e-5,
        origin="PLACEHOLDER",
    ),
)


def default_gates(reference: ForwardTrace, candidate: ForwardTrace) -> Sequence[Gate]:
    """The gates for two traces when neither a contract nor the caller gives any."""
    if reference.engine == candidate.engine and reference.host == candidate.host:
        return SAME_ARITHMETIC
    return FLOAT_NOISE
