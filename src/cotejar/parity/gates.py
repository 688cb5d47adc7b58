"""Gates: a metric with a limit, and where the limit comes from.

A gate is passed when `value <= limit`, so that NaN fails. A band on a ratio is judged as
max(ratio, 1/ratio) <= limit, which is the same whichever side is called the reference.

The default limits follow from the two numerics. Their origin is measured noise: how far
honest arithmetics lay apart on two real models, times `FACTORS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.errors import UsageError

if TYPE_CHECKING:
    from cotejar.trace.forward_trace import ForwardTrace

SITE_METRICS = (
    "rel_l2_max",
    "rel_l2_median",
    "max_abs",
    "cosine_distance",
    "nmse",
    "std_ratio",
)
LOGITS_METRICS = ("kl_max", "top1_flip_margin", "top1_disagreement", "top5_disagreement")
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
    def badness(self) -> tuple[bool, float]:
        """The gate with the largest decides what a report shows: failed before passed."""
        return (not self.passed, self.severity)

    @property
    def severity(self) -> float:
        """Value over limit."""
        if self.value != self.value:
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
MEASURED = "benchmarks/results/gate-noise.md"

FACTORS = {"rel_l2_max": 3.0, "rel_l2_median": 1.5, "kl_max": 2.0, "top1_flip_margin": 2.0}
"""Limit over measured noise. A site's median token hardly varies from prompt to prompt, and
a fault moves it; its worst token varies more."""

_NOISE: dict[str, tuple[float, float, float, float]] = {
    "embed": (0, 0, 0, 0),
    "attn_norm": (8.67e-06, 4.52e-12, 0.106, 0.00197),
    "q": (5.88e-06, 3.35e-12, 0.0798, 0.00172),
    "k": (9.69e-06, 2.08e-12, 0.123, 0.00985),
    "v": (1.35e-05, 6.74e-12, 0.198, 0.0334),
    "qkv": (6e-06, 2.98e-12, 0.0733, 0.000983),
    "q_rope": (5.88e-06, 3.35e-12, 0.0798, 0.00172),
    "k_rope": (9.68e-06, 2.08e-12, 0.123, 0.00985),
    "attn_context": (1.54e-05, 2.22e-11, 0.231, 0.0334),
    "attn_out": (1.95e-05, 1.87e-11, 0.234, 0.0444),
    "attn_residual": (9.42e-06, 3.43e-11, 0.0868, 0.000953),
    "ffn_norm": (8.13e-06, 5.27e-12, 0.108, 0.00232),
    "ffn_gate": (7.87e-06, 3.8e-12, 0.109, 0.00175),
    "ffn_up": (9.63e-06, 5.17e-12, 0.13, 0.00269),
    "ffn_silu_gate": (8.24e-06, 4.72e-12, 0.108, 0.00198),
    "ffn_swiglu_inner": (3.48e-05, 2.02e-11, 0.302, 0.00521),
    "ffn_out": (4.08e-05, 2.56e-11, 0.348, 0.00557),
    "output": (9.87e-06, 4.21e-11, 0.0866, 0.00116),
    "final_norm": (6.04e-06, 4.35e-12, 0.106, 0.00219),
    "logits": (1.51e-05, 9.04e-12, 0.141, 0.00237),
}
"""Per slot: relative L2 of the worst token and of the median token, worst over layers, prompts
and models; of `f32`, then of `q8`, against the float64 oracle on the same bytes.
`benchmarks/gate_noise.py` measures them."""

_FIRST_NORM_NOISE = (1e-7, 1e-7)
"""The same at `layer.0.attn_norm`, whose input is exact in both: no product comes before it."""

_LOGITS_NOISE = {"kl_max": (1.6e-10, 0.118), "top1_flip_margin": (0.0, 0.1)}
"""Largest KL of a position's next-token distribution, in nats, and largest margin of a flipped
top-1, in logits, for the same two."""

_KNOWN_NUMERICS = {"f64": 0, "f32": 0, "q8": 1}
"""Which column of noise a numerics has."""


def default_gates(reference: ForwardTrace, candidate: ForwardTrace) -> tuple[Gate, ...]:
    """The gates for two traces when neither a contract nor the caller gives any.

    None where nobody has measured what to expect: for other numerics, or for other weights
    than the reference's. Such a pair needs a contract.
    """
    if reference.model.fingerprint != candidate.model.fingerprint:
        return ()
    if reference.engine == candidate.engine and reference.host == candidate.host:
        return SAME_ARITHMETIC
    numerics = reference.engine.numerics, candidate.engine.numerics
    if not all(n in _KNOWN_NUMERICS for n in numerics):
        return ()
    return _noise_gates(max(_KNOWN_NUMERICS[n] for n in numerics))


def _noise_gates(column: int) -> tuple[Gate, ...]:
    gates = []
    for slot, noise in _NOISE.items():
        worst, median = noise[2 * column : 2 * column + 2]
        gates.append(_noise_gate("rel_l2_max", slot, worst, column))
        gates.append(_noise_gate("rel_l2_median", slot, median, column))
    first = _FIRST_NORM_NOISE[column]
    gates.append(_noise_gate("rel_l2_max", "layer.0.attn_norm", first, column))
    for metric, values in _LOGITS_NOISE.items():
        gates.append(_noise_gate(metric, "logits", values[column], column))
    return tuple(gates)


def _noise_gate(metric: str, sites: str, noise: float, column: int) -> Gate:
    name = ("f32", "q8")[column]
    return Gate(
        metric=metric,
        sites=sites,
        limit=FACTORS[metric] * noise,
        origin=f"{FACTORS[metric]:g} x {noise:.3g}, the noise of {name} measured in {MEASURED}",
    )
