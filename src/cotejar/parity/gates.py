"""Gates: a metric with a limit, and where the limit comes from.

A gate is passed when `value <= limit`, so that NaN fails. A band on a ratio is judged as
max(ratio, 1/ratio) <= limit, which is the same whichever side is called the reference.

The default limits follow from the two numerics. Their origin is measured noise: how far
honest arithmetics lay apart on two real models, times `FACTORS`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING

from cotejar.errors import UsageError
from cotejar.parity import cache_noise, float_noise, group_noise

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

FACTORS = {
    "rel_l2_max": 3.0,
    "rel_l2_median": 1.5,
    "std_ratio": 3.0,
    "kl_max": 2.0,
    "top1_flip_margin": 2.0,
}
"""Limit over measured noise. A site's median token hardly varies from prompt to prompt, and
a fault moves it; its worst token varies more. Of `std_ratio` the factor is a power: it is
the spread's logarithm that noise makes larger."""

_NOISE: dict[str, tuple[float, ...]] = {
    "embed": (0, 0, 0, 0, 0, 0, 0, 0),
    "attn_norm": (6.72e-06, 5.27e-06, 0.162, 0.0381, 0.226, 0.0432, 4.92e-05, 9.79e-06),
    "q": (1.22e-05, 4.28e-06, 0.204, 0.0476, 0.166, 0.0542, 3.21e-05, 4.35e-06),
    "k": (8.11e-06, 4.68e-06, 0.155, 0.112, 0.165, 0.112, 3.71e-05, 7.2e-06),
    "v": (8.4e-06, 7.72e-06, 0.217, 0.183, 0.238, 0.183, 5.65e-05, 1.08e-05),
    "qkv": (1.02e-05, 3.26e-06, 0.169, 0.031, 0.149, 0.0358, 3.21e-05, 4.55e-06),
    "q_rope": (1.22e-05, 4.28e-06, 0.204, 0.0476, 0.166, 0.0542, 3.21e-05, 4.35e-06),
    "k_rope": (8.12e-06, 4.68e-06, 0.155, 0.112, 0.165, 0.112, 3.71e-05, 7.21e-06),
    "attn_context": (8.41e-06, 7.72e-06, 0.253, 0.183, 0.243, 0.183, 7.4e-05, 2e-05),
    "attn_out": (9.75e-06, 8.32e-06, 0.261, 0.211, 0.261, 0.211, 6.22e-05, 2.14e-05),
    "attn_residual": (1.14e-05, 1.14e-05, 0.217, 0.135, 0.29, 0.121, 4.6e-05, 1.57e-05),
    "ffn_norm": (1.12e-05, 2.99e-06, 0.189, 0.0408, 0.182, 0.0443, 5.22e-05, 1.08e-05),
    "ffn_gate": (1.89e-05, 2.17e-06, 0.311, 0.037, 0.254, 0.0403, 3.94e-05, 6.41e-06),
    "ffn_up": (1.29e-05, 2.21e-06, 0.22, 0.0468, 0.179, 0.0527, 5.35e-05, 9.78e-06),
    "ffn_silu_gate": (1.8e-05, 2.76e-06, 0.304, 0.0428, nan, nan, 4.91e-05, 7.87e-06),
    "ffn_swiglu_inner": (2.51e-05, 6.47e-06, 0.441, 0.0648, 0.722, 0.0803, 6.74e-05, 1.23e-05),
    "ffn_out": (2.56e-05, 5.72e-06, 0.453, 0.0613, 0.815, 0.0843, 8.58e-05, 1.27e-05),
    "output": (1.14e-05, 1.14e-05, 0.217, 0.135, 0.29, 0.121, 4.64e-05, 1.57e-05),
    "final_norm": (7.06e-06, 5.62e-06, 0.106, 0.0435, 0.137, 0.0574, 5.45e-05, 1.04e-05),
    "logits": (2.16e-05, 6.45e-06, 0.209, 0.0498, 0.262, 0.0545, 3.85e-05, 6.83e-06),
}
"""Per slot: relative L2 of the worst token and of the median token, worst over layers, prompts
and models; of `f32`, of `q8`, of llama.cpp, the worst of its numerics, and of transformers in
float32, against the float64 oracle on the same bytes; `benchmarks/gate_noise.py` measures."""

_BF16_NOISE: dict[str, tuple[float, ...]] = {
    "embed": (0, 0),
    "attn_norm": (0.0424, 0.0202),
    "q": (0.0852, 0.0162),
    "k": (0.054, 0.032),
    "v": (0.0554, 0.0408),
    "qkv": (0.0704, 0.0178),
    "q_rope": (0.0852, 0.0162),
    "k_rope": (0.054, 0.032),
    "attn_context": (0.065, 0.0273),
    "attn_out": (0.0641, 0.0288),
    "attn_residual": (0.0727, 0.0667),
    "ffn_norm": (0.0778, 0.0184),
    "ffn_gate": (0.129, 0.0131),
    "ffn_up": (0.0895, 0.0149),
    "ffn_silu_gate": (0.124, 0.0206),
    "ffn_swiglu_inner": (0.173, 0.0467),
    "ffn_out": (0.175, 0.0429),
    "output": (0.0717, 0.0667),
    "final_norm": (0.0513, 0.0163),
    "logits": (0.173, 0.0267),
}
"""The same of `native` in `bf16`, the last column."""

_ALIKE = {"attn_post_norm": "attn_out", "ffn_post_norm": "ffn_out"}
"""Norms that the measured models have not, each with the slot that is its input: a norm scales
a token's values by one number, and keeps their relative error but for its weight's spread."""

_SCALED_EMBEDDING = Gate(
    metric="rel_l2_max",
    sites="embed",
    limit=2.0**-23,
    origin="two roundings of float32, of the embeddings' scale and of the product, 2^-24 each",
)

_FIRST_NORM_NOISE = (8.44e-08, 8.44e-08, 1.18e-07, 1.56e-07, 8.44e-08)
"""The same at `layer.0.attn_norm`, whose input is exact in all: no product comes before it."""

_LOGITS_NOISE = {
    "kl_max": (3.55e-10, 0.0916, 0.1, 8.74e-09, 0.0259),
    "top1_flip_margin": (1.2e-4, 0.295, 0.575, 5.59e-05, 0.198),
}
"""Largest KL of a position's next-token distribution, in nats, and largest margin of a flipped
top-1, in logits, for the same five. `f32` flipped none: its figure is twice the largest error
of a logit, 6e-5, since a flip takes the errors of two. transformers flipped none and `bf16`
few: theirs is the largest change of a lead, which no flip's margin can exceed."""

_KNOWN_NUMERICS = {"f64": 0, "f32": 0, "q8": 1}
"""Which column of noise a numerics of ours has."""
_LLAMACPP = 2
_OF_AN_ENGINE = {("transformers", "f32"): 3, ("native", "bf16"): 4}
"""Where the word alone does not say enough: `bf16` of torch rounds every value, not factors."""
_COLUMN_NAMES = (
    *("f32", "q8", "llama.cpp", "transformers f32", "bf16"),
    *float_noise.COLUMNS,
    cache_noise.COLUMN,
    *group_noise.COLUMNS,
)
_OVER_FLOATS = {*float_noise.COLUMNS, group_noise.COLUMNS[1]}


def _noise_column(trace: ForwardTrace) -> int | None:
    engine, numerics = trace.engine.name, trace.engine.numerics
    if engine == "llamacpp":
        over_floats = float_noise.OF_LLAMACPP.get(trace.products)
        return _COLUMN_NAMES.index(over_floats) if over_floats else _LLAMACPP
    if (engine, numerics) == cache_noise.ENGINE and trace.products == "q8":
        return _COLUMN_NAMES.index(cache_noise.COLUMN)
    if (engine, numerics) == group_noise.ENGINE:
        return _COLUMN_NAMES.index(group_noise.COLUMNS[0])
    if numerics == "q8" and trace.products in float_noise.OF_Q8:
        return _COLUMN_NAMES.index(float_noise.OF_Q8[trace.products])
    return _OF_AN_ENGINE.get((engine, numerics), _KNOWN_NUMERICS.get(numerics))


_ALSO_OVER_FLOATS = {("native", "bf16"): "q8 over BF16", group_noise.ENGINE: "w8a8 over floats"}
"""What counts as well there: `native+bf16` then multiplies as `q8` does over BF16."""


def _more_over_floats(trace: ForwardTrace) -> set[int]:
    types, engine = set(trace.model.product_types), trace.engine
    also = _ALSO_OVER_FLOATS.get((engine.name, engine.numerics))
    if also is None or not types or not types <= float_noise.LABELS:
        return set()
    return {_COLUMN_NAMES.index(also)}


def default_gates(reference: ForwardTrace, candidate: ForwardTrace) -> tuple[Gate, ...]:
    """The gates for two traces when neither a contract nor the caller gives any.

    None where nobody has measured what to expect: for other numerics, or for other weights
    than the reference's. Such a pair needs a contract.
    """
    same = reference.arithmetic is not None and reference.arithmetic == candidate.arithmetic
    if same and _same_weights(reference, candidate):
        return SAME_ARITHMETIC
    return noise_gates(reference, candidate)


def noise_gates(reference: ForwardTrace, candidate: ForwardTrace) -> tuple[Gate, ...]:
    """The gates from measured noise alone; none where nobody has measured it."""
    if not _same_weights(reference, candidate):
        return ()
    columns = _noise_column(reference), _noise_column(candidate)
    if None in columns:
        return ()
    over_floats = _more_over_floats(reference) | _more_over_floats(candidate)
    gates = _noise_gates({c for c in columns if c is not None} | over_floats)
    if "embedding_scale" not in reference.config:
        return gates
    return (*(g for g in gates if g.sites != "embed"), _SCALED_EMBEDDING)


def _same_weights(reference: ForwardTrace, candidate: ForwardTrace) -> bool:
    weights = reference.model.fingerprint
    return bool(weights) and weights == candidate.model.fingerprint


def _noise_gates(columns: set[int]) -> tuple[Gate, ...]:
    """Of the sides' noises the larger counts, slot by slot and metric by metric."""
    gates = []
    for slot, measured in ({slot: slot for slot in _NOISE} | _ALIKE).items():
        known = _NOISE[measured] + _BF16_NOISE[measured]
        noise = known + float_noise.FLOAT_NOISE[measured] + cache_noise.CACHE_NOISE[measured]
        noise += group_noise.GROUP_NOISE[measured]
        gates.append(_noise_gate("rel_l2_max", slot, noise[0::2], columns))
        gates.append(_noise_gate("rel_l2_median", slot, noise[1::2], columns))
    first = (
        *(_FIRST_NORM_NOISE + float_noise.FLOAT_FIRST_NORM),
        cache_noise.CACHE_FIRST_NORM,
        *group_noise.GROUP_FIRST_NORM,
    )
    gates.append(_noise_gate("rel_l2_max", "layer.0.attn_norm", first, columns))
    for metric, known in _LOGITS_NOISE.items():
        values = (
            *(known + float_noise.FLOAT_LOGITS[metric]),
            cache_noise.CACHE_LOGITS[metric],
            *group_noise.GROUP_LOGITS[metric],
        )
        gates.append(_noise_gate(metric, "logits", values, columns))
    return tuple(gate for gate in gates if gate is not None)


def _noise_gate(
    metric: str, sites: str, noises: tuple[float, ...], columns: set[int]
) -> Gate | None:
    """None for a slot that nobody could measure."""
    measured = [c for c in columns if not math.isnan(noises[c])]
    if not measured:
        return None
    column = max(measured, key=lambda c: (noises[c], c))
    noise, factor, name = noises[column], FACTORS[metric], _COLUMN_NAMES[column]
    measured_in = float_noise.MEASURED if name in _OVER_FLOATS else MEASURED
    return Gate(
        metric=metric,
        sites=sites,
        limit=factor * noise,
        origin=f"{factor:g} x {noise:.3g}, the noise of {name} measured in {measured_in}",
    )
