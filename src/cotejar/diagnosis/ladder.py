"""The arithmetic ladder: how much of a distance from float64 each known rounding explains.

    float64 -> rounding of activations -> rounding of weights -> KV cache -> sums

A rung repeats one more rounding that the numerics declares. Its share is the part of the
squared distance that goes away with it; sums are what is left within the limit, and what is
left beyond it is explained by no rung.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cotejar.diagnosis.arithmetic import GROUPS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Float64

    from cotejar.diagnosis.arithmetic import Arithmetic
    from cotejar.diagnosis.replay import LocalError


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """One rounding, and what it explains."""

    name: str
    share: float
    """Of the squared distance from float64, 0..1; negative where it leads away."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ladder:
    """The rungs of one site, or of all sites of a side together."""

    side: str
    site: str | None
    """None for all sites together."""
    rungs: tuple[Rung, ...]
    unexplained: float
    """What no rung explains."""

    def as_json(self) -> dict[str, object]:
        """One entry of `ladder`."""
        return {
            "side": self.side,
            "site": self.site,
            "rungs": [{"name": rung.name, "share": rung.share} for rung in self.rungs],
            "unexplained": self.unexplained,
        }


def climb(errors: Iterable[LocalError], arithmetic: Arithmetic, site: str | None) -> Ladder:
    """The ladder of one side's local errors: relative squares, each token counting the same."""
    errors = list(errors)
    start = _squares(e.exact for e in errors)
    beyond = _squares(e.left[~(e.left <= e.limits)] for e in errors)
    side = errors[0].side if errors else ""
    if not start > 0 or not np.isfinite(start):
        unexplained = 0.0 if start == 0 else 1.0
        return Ladder(side=side, site=site, rungs=(), unexplained=unexplained)
    rungs = []
    for name, is_attention in declared_roundings(arithmetic):
        own = [e for e in errors if e.site.endswith("attn_context") == is_attention]
        gone = _squares(e.exact for e in own) - _squares(e.left for e in own)
        if own:
            rungs.append(Rung(name=name, share=gone / start))
    left = _squares(e.left for e in errors)
    sums = f"{arithmetic.sums} sums, in the engine's order"
    rungs.append(Rung(name=sums, share=(left - beyond) / start))
    return Ladder(side=side, site=site, rungs=tuple(rungs), unexplained=beyond / start)


def _squares(parts: Iterable[Float64[np.ndarray, "T"]]) -> float:
    return sum(float((part * part).sum()) for part in parts)


_IN_8_BITS = {"blocks": "8-bit", "simd blocks": "8-bit", GROUPS: "8-bit"}


def declared_roundings(arithmetic: Arithmetic) -> list[tuple[str, bool]]:
    """What a numerics rounds on purpose, and whether that is in attention."""
    found = []
    factors = (("activations", arithmetic.activations), ("weights", arithmetic.weights))
    products = [f"{_IN_8_BITS.get(how, how)} {what}" for what, how in factors if how != "exact"]
    if products:
        found.append((" and ".join(products), False))
    if arithmetic.cache != "exact":
        found.append((f"{arithmetic.cache} KV cache", True))
    return found
