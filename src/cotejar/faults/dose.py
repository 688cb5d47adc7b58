"""Where in a model a fault acts, and how strongly."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Dose:
    """Where in the model a fault acts, and how strongly."""

    layer: int | None = None
    """None for every layer, and for a fault outside the layers."""
    strength: float = 1.0
    """In the unit that the fault's `Strength` names; 1 and of no effect where it has none."""

    def covers(self, layer: int | None) -> bool:
        """Does the fault act in that layer? None stands for what follows the layers."""
        return self.layer is None or self.layer == layer
