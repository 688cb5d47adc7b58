"""What a replay did not see: nothing passes on what nobody looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotejar.trace.site import CONTRACT_SLOTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.diagnosis.observed import Observed, SideName
    from cotejar.diagnosis.replay import LocalError

REQUIRED = (*CONTRACT_SLOTS, "embed", "q", "k", "v", "final_norm", "logits")
"""Slots of which nothing may be called right unseen; q, k and v are the `qkv` of contracts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unseen:
    """Operations of one side that no replay reached, alone or on the way to another."""

    side: SideName
    sites: tuple[str, ...]
    """In forward order."""
    total: int
    """Operations that were asked for."""
    is_required: bool
    """Is a slot of `REQUIRED` among them, and could the side have recorded it?"""

    @property
    def sentence(self) -> str:
        """For people."""
        ends = self.sites[0] if len(self.sites) == 1 else f"{self.sites[0]} to {self.sites[-1]}"
        return f"{len(self.sites)} of {self.total} of the {self.side} were not seen: {ends}"


def find_unseen(
    observed: Sequence[Observed],
    errors: Sequence[LocalError],
    layers: frozenset[int] | None = None,
) -> list[Unseen]:
    """Each side of which something was not seen; `layers` are those asked for, None all."""
    found = []
    for side in observed:
        own = [error for error in errors if error.side == side.side]
        seen = {error.site for error in own} | {site for e in own for site in e.derived}
        wanted = {
            name: operation.site.slot
            for name, operation in side.truth.operations.items()
            if layers is None or operation.site.layer is None or operation.site.layer in layers
        }
        missing = {name: slot for name, slot in wanted.items() if name not in seen}
        slots = set(missing.values()) - side.trace.not_observed
        if missing:
            found.append(
                Unseen(
                    side=side.side,
                    sites=tuple(missing),
                    total=len(wanted),
                    is_required=bool(slots & set(REQUIRED)),
                )
            )
    return found
