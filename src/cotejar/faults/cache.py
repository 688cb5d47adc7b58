"""Keys and values kept or read back wrongly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from cotejar.faults.fault import Extent, Fault, FaultyPass, Strength, in_the_pass
from cotejar.faults.needs import EARLIER_TOKEN, SECOND_KEY, SECOND_POSITION

if TYPE_CHECKING:
    from jaxtyping import Float32

    from cotejar.faults.needs import PromptNeed

    Rows = Float32[np.ndarray, "T K E"]


class _OtherRows(FaultyPass):
    """What attention reads is another array than what was kept."""

    def extend_cache(self, layer: int, k_TKE: Rows, v_TKE: Rows) -> tuple[Rows, Rows]:
        """Keep the rows rightly, and read them wrongly where the dose says so."""
        k_SKE, v_SKE = super().extend_cache(layer, k_TKE, v_TKE)
        return self.wrong(k_SKE, v_SKE) if self.dose.covers(layer) else (k_SKE, v_SKE)

    def wrong(self, k_SKE: Rows, v_SKE: Rows) -> tuple[Rows, Rows]:
        """What is read instead."""
        raise NotImplementedError


class _Shifted(_OtherRows):
    """Position s holds the rows of s - STRENGTH; what would lie before 0 are those of 0."""

    def wrong(self, k_SKE: Rows, v_SKE: Rows) -> tuple[Rows, Rows]:
        last = len(k_SKE) - 1
        positions = np.arange(len(k_SKE)) - int(self.dose.strength)
        return k_SKE[np.clip(positions, 0, last)], v_SKE[np.clip(positions, 0, last)]


class _KeysShifted(_Shifted):
    """Keys alone, so that each value is weighed by another's key."""

    def wrong(self, k_SKE: Rows, v_SKE: Rows) -> tuple[Rows, Rows]:
        return super().wrong(k_SKE, v_SKE)[0], v_SKE


class _Stale(_OtherRows):
    """The rows of the last position are not written yet: those before them are read."""

    def wrong(self, k_SKE: Rows, v_SKE: Rows) -> tuple[Rows, Rows]:
        positions = np.arange(len(k_SKE))
        positions[-1] = max(len(k_SKE) - 2, 0)
        return k_SKE[positions], v_SKE[positions]


class _Zeroed(_OtherRows):
    """The rows of position 0 were overwritten with zeros."""

    def wrong(self, k_SKE: Rows, v_SKE: Rows) -> tuple[Rows, Rows]:
        k_SKE, v_SKE = k_SKE.copy(), v_SKE.copy()
        k_SKE[0] = v_SKE[0] = 0
        return k_SKE, v_SKE


class _Swapped(_OtherRows):
    def wrong(self, k_SKE: Rows, v_SKE: Rows) -> tuple[Rows, Rows]:
        return v_SKE, k_SKE


class _KeysBeforeRope(FaultyPass):
    """Keys are kept as they were before RoPE, and never turned."""

    def rotate(
        self,
        layer: int,
        values_THE: Float32[np.ndarray, "T H E"],
        *,
        which: Literal["q", "k"],
    ) -> Float32[np.ndarray, "T H E"]:
        if which == "k":
            self._unturned = values_THE
        return super().rotate(layer, values_THE, which=which)

    def extend_cache(self, layer: int, k_TKE: Rows, v_TKE: Rows) -> tuple[Rows, Rows]:
        kept = self._unturned if self.dose.covers(layer) else k_TKE
        return super().extend_cache(layer, kept, v_TKE)


def _fault(
    id_: str,
    title: str,
    kind: type[FaultyPass],
    *,
    prompt_needs: tuple[PromptNeed, ...] = (EARLIER_TOKEN,),
    strength: Strength | None = None,
) -> Fault:
    return Fault(
        id=id_,
        title=title,
        family="cache",
        slot="attn_context",
        extent=Extent.EVERY_LAYER,
        prompt_needs=prompt_needs,
        strength=strength,
        inject=in_the_pass(kind),
    )


POSITIONS = Strength(text="positions", default=1, least=-1e6, most=1e6, is_whole=True)

CACHE_FAULTS = (
    _fault("cache-shifted", "keys and values are read one late", _Shifted, strength=POSITIONS),
    _fault(
        "cache-keys-shifted",
        "keys are read one late",
        _KeysShifted,
        prompt_needs=(SECOND_KEY,),
        strength=POSITIONS,
    ),
    _fault("cache-stale", "the newest key and value are not written", _Stale),
    _fault("cache-overwritten", "the first key and value are zeros", _Zeroed, prompt_needs=()),
    _fault("cache-swapped", "keys are read as values and back", _Swapped, prompt_needs=()),
    _fault(
        "cache-before-rope",
        "keys are kept unturned",
        _KeysBeforeRope,
        prompt_needs=(SECOND_POSITION, SECOND_KEY),
    ),
)
