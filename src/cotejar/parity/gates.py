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
    """`cosine_distance` is 1 - cosine; `std_ratio` is judged as max(ratio, 1/ratio);
    `rel_l2_median` is judged in scope `all` alone, since one token has no median."""
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
    "attn_norm": (6.72e-06, 5.27e-06, 0.162, 0.0381),
    "q": (1.22e-05, 4.28e-06, 0.204, 0.0476),
    "k": (8.11e-06, 4.68e-06, 0.155, 0.112),
    "v": (8.4e-06, 7.72e-06, 0.217, 0.183),
    "qkv": (1.02e-05, 3.26e-06, 0.169, 0.031),
    "q_rope": (1.22e-05, 4.28e-06, 0.204, 0.0476),
    "k_rope": (8.12e-06, 4.68e-06, 0.155, 0.112),
    "attn_context": (8.41e-06, 7.72e-06, 0.253, 0.183),
    "attn_out": (9.75e-06, 8.32e-06, 0.261, 0.211),
    "attn_residual": (1.14e-05, 1.14e-05, 0.217, 0.135),
    "ffn_norm": (1.12e-05, 2.99e-06, 0.189, 0.0408),
    "ffn_gate": (1.89e-05, 2.17e-06, 0.311, 0.037),
    "ffn_up": (1.29e-05, 2.21e-06, 0.22, 0.0468),
    "ffn_silu_gate": (1.8e-05, 2.76e-06, 0.304, 0.0428),
    "ffn_swiglu_inner": (2.51e-05, 6.47e-06, 0.441, 0.0648),
    "ffn_out": (2.56e-05, 5.72e-06, 0.453, 0.0613),
    "output": (1.14e-05, 1.14e-05, 0.217, 0.135),
    "final_norm": (7.06e-06, 5.62e-06, 0.106, 0.0435),
    "logits": (2.16e-05, 6.45e-06, 0.209, 0.0498),
}
"""Per slot: relative L2 of the worst token and of the median token, worst over layers, prompts
and models; of `f32`, then of `q8`, against the float64 oracle on the same bytes.
`benchmarks/gate_noise.py` measures them."""

_FIRST_NORM_NOISE = (8.44e-08, 8.44e-08)
"""The same at `layer.0.attn_norm`, whose input is exact in both: no product comes before it."""

_LOGITS_NOISE = {
    "kl_max": (3.55e-10, 0.0916),
    "top1_flip_margin": (1.2e-4, 0.295),
}
"""Largest KL of a position's next-token distribution, in nats, and largest margin of a flipped
top-1, in logits, for the same two. `f32` flipped none: its figure is twice the largest error
of a logit, 6e-5, since a flip takes the errors of two."""

_KNOWN_NUMERICS = {"f64": 0, "f32": 0, "q8": 1}
"""Which column of noise a numerics has."""


def default_gates(reference: ForwardTrace, candidate: ForwardTrace) -> tuple[Gate, ...]:
    """The gates for two traces when neither a contract nor the caller gives any.

    None where nobody has measured what to expect: for other numerics, or for other weights
    than the reference's. Such a pair needs a contract.
    """
    weights = reference.model.fingerprint
    if not weights or weights != candidate.model.fingerprint:
        return ()
    if reference.arithmetic is not None and reference.arithmetic == candidate.arithmetic:
        return SAME_ARITHMETIC
    numerics = reference.engine.numerics, candidate.engine.numerics
    if not all(n in _KNOWN_NUMERICS for n in numerics):
        return ()
    return _noise_gates(max(_KNOWN_NUMERICS[n] for n in numerics))


def logits_noise(numerics: str) -> float | None:
    """Measured noise of the logits: relative L2 of the worst token against exact.

    None where nobody has measured it; 0 for `f64`, which is exact.
    """
    if numerics == "f64":
        return 0.0
    column = _KNOWN_NUMERICS.get(numerics)
    return None if column is None else _NOISE["logits"][2 * column]


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
