"""The largest distances between two engines' traces, prompt after prompt.

Shape letters: T tokens, W width, V vocabulary.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cotejar.errors import NothingMeasuredError
from cotejar.parity.metrics import measure_distance, measure_logits
from cotejar.parity.noise import MAX_NOISE, Noise, SiteNoise, engine_label
from cotejar.parity.sample_gate import std_spread
from cotejar.trace.forward_trace import Scope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float

    from cotejar.trace.forward_trace import ForwardTrace

    Pair = tuple[Float[np.ndarray, "T W"], Float[np.ndarray, "T W"]]


class NoiseTally:
    """Takes pairs of traces; keeps one number a site, scope and metric."""

    def __init__(self) -> None:
        self._largest: dict[str, dict[Scope, dict[str, float]]] = {}
        self.num_tokens = 0
        """Of all pairs that were added."""

    def add(self, reference: ForwardTrace, candidate: ForwardTrace) -> None:
        """Measure the sites that both captured, in scope `all` and token by token.

        Raises:
            NothingMeasuredError: a value that is not finite, or no site in common. What
                came before stays.
        """
        names = [name for name in reference.arrays if name in candidate.arrays]
        if not names or not len(reference.arrays[names[0]]):
            raise _no_noise(
                candidate, "arrays of the same sites, of at least one token", "none"
            )
        for name in names:
            pair = (reference.arrays[name], candidate.arrays[name])
            if pair[0].shape != pair[1].shape:
                shapes = " and ".join(str(array.shape) for array in pair)
                raise _no_noise(candidate, f"one shape at {name}", shapes)
            if not all(np.isfinite(array).all() for array in pair):
                raise _no_noise(candidate, "finite values", f"NaN or infinity at {name}")
            site = self._largest.setdefault(name, {Scope.ALL: {}, Scope.LAST: {}})
            with np.errstate(all="ignore"):  # what overflows is left out, and said to be
                measured = list(_measure(name, pair))
            for scope, metric, value in measured:
                # A NaN, of squares that overflow, would lose every comparison.
                value = math.inf if math.isnan(value) else value  # noqa: PLW2901
                site[scope][metric] = max(site[scope].get(metric, 0.0), value)
        self.num_tokens += len(reference.arrays[names[0]])

    @property
    def sites(self) -> dict[str, SiteNoise]:
        """By name, in the order of the first trace.

        An infinite measure, against a token of zeros or of squares that overflow, is no noise
        to judge by: left out.
        """
        return {
            name: {
                scope: {
                    metric: Noise(value=value, num_tokens=self.num_tokens)
                    for metric, value in metrics.items()
                    if value <= MAX_NOISE
                }
                for scope, metrics in scopes.items()
            }
            for name, scopes in self._largest.items()
        }


def _measure(name: str, pair: Pair) -> Iterator[tuple[Scope, str, float]]:
    """Any token may be a prompt's last: the worst of them counts in that scope."""
    distance = measure_distance(*pair)
    yield Scope.ALL, "rel_l2_max", distance.rel_l2_max
    yield Scope.LAST, "rel_l2_max", distance.rel_l2_max
    yield Scope.ALL, "rel_l2_median", distance.rel_l2_median
    yield Scope.ALL, "std_ratio", std_spread(*(_std(array) for array in pair))
    yield Scope.LAST, "std_ratio", max(map(std_spread, *(_row_stds(array) for array in pair)))
    if name == "logits":
        logits = measure_logits(*pair)
        lead = max(logits.flip_margin, change_of_lead(*pair))
        for scope in (Scope.ALL, Scope.LAST):
            yield scope, "kl_max", float(logits.kl.max())
            yield scope, "top1_flip_margin", lead


def change_of_lead(
    reference_TV: Float[np.ndarray, "T V"], candidate_TV: Float[np.ndarray, "T V"]
) -> float:
    """Largest change of a token's lead: the first of its logits less the second.

    First and second are the reference's, in both. A choice between the two falls the other
    way only where the change is as large as the lead; unlike the lead of flipped choices, of
    which a short text has none, the change can be measured at every token. In logits.
    """
    if reference_TV.shape[1] < 2:  # noqa: PLR2004 - one token id leads nothing
        return 0.0
    reference, candidate = (a.astype(np.float64) for a in (reference_TV, candidate_TV))
    top_T2 = np.argpartition(-reference, 1, axis=1)[:, :2]
    leads = [np.take_along_axis(a, top_T2, axis=1) for a in (reference, candidate)]
    changes_T = np.diff(leads[1], axis=1) - np.diff(leads[0], axis=1)
    return float(np.abs(changes_T).max())


def _std(array_TW: Float[np.ndarray, "T W"]) -> float:
    return float(array_TW.astype(np.float64).std(ddof=1)) if array_TW.size > 1 else 0.0


def _row_stds(array_TW: Float[np.ndarray, "T W"]) -> list[float]:
    if array_TW.shape[1] == 1:
        return [0.0] * len(array_TW)
    stds: list[float] = array_TW.astype(np.float64).std(axis=1, ddof=1).tolist()
    return stds


def _no_noise(trace: ForwardTrace, expected: str, found: str) -> NothingMeasuredError:
    return NothingMeasuredError(
        "the noise of an engine cannot be measured",
        where=engine_label(trace.engine),
        expected=expected,
        found=found,
        hint=f"look at a trace of it: apr trace {engine_label(trace.engine)}:MODEL --payload",
    )
