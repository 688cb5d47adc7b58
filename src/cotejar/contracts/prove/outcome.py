"""What a claim came to."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class ProofVerdict(enum.StrEnum):
    """Nothing but PROVED counts as proof."""

    PROVED = "PROVED"
    REFUTED = "REFUTED"
    """Values are known on which CPython itself, running the harness, says no."""
    UNKNOWN = "UNKNOWN"
    """Not decided: time, memory, unknown syntax, or a claim about nothing."""
    NOT_FOUND = "NOT FOUND"
    """The contract names a harness that nobody registered."""


_WORST_FIRST = (
    ProofVerdict.REFUTED,
    ProofVerdict.UNKNOWN,
    ProofVerdict.NOT_FOUND,
    ProofVerdict.PROVED,
)


def worst_verdict(verdicts: list[ProofVerdict]) -> ProofVerdict:
    """REFUTED over UNKNOWN over NOT FOUND over PROVED; of none, NOT FOUND."""
    for verdict in _WORST_FIRST:
        if verdict in verdicts:
            return verdict
    return ProofVerdict.NOT_FOUND


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One claim, decided or not."""

    verdict: ProofVerdict
    why: str = ""
    """For UNKNOWN what stood in the way; for REFUTED what CPython did."""
    counterexample: Mapping[str, object] | None = None
    """Name -> value of what the harness drew; what is left out has its plain default."""
    solver: str = ""
    """Names of the solvers that decided; empty where CPython did."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Figures for the record: runs, solver calls, covers, hash of the code."""

    @property
    def is_proved(self) -> bool:
        """Only PROVED is."""
        return self.verdict is ProofVerdict.PROVED
