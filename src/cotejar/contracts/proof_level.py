"""How deep a contract's claims are backed, by what the contract itself lists.

    L1  nothing below holds
    L2  at least one obligation, and no fewer tests than obligations
    L3  L2, and at least one harness
    L4  every counted obligation is proved in Lean or not applicable, and one is proved
    L5  L4, and every known binding is implemented

This is upstream's computed level. It reads a contract's own lists and counts, which nobody
has run: `declared` in its name says so wherever it is shown.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from cotejar.contracts.binding import BindingStatus
from cotejar.contracts.schema import EnforcementLevel

if TYPE_CHECKING:
    from cotejar.contracts.binding import BindingRegistry
    from cotejar.contracts.schema import Contract


class ProofLevel(enum.IntEnum):
    """L1, the lowest, to L5."""

    L1 = 1
    L2 = 2
    L3 = 3
    L4 = 4
    L5 = 5


def declared_proof_level(
    contract: Contract, bindings: BindingRegistry | None = None
) -> ProofLevel:
    """The level that the contract's own lists and counts amount to."""
    if _is_lean_proved(contract):
        return ProofLevel.L5 if _is_bound(contract, bindings) else ProofLevel.L4
    if not contract.obligations or len(contract.tests) < len(contract.obligations):
        return ProofLevel.L1
    return ProofLevel.L3 if contract.harnesses else ProofLevel.L2


def declared_enforcement_level(contract: Contract) -> EnforcementLevel:
    """Proven if Lean proofs are counted and none is left open; standard if there are tests
    and harnesses; else basic.
    """  # noqa: D205 - one list
    summary = contract.verification_summary
    if summary is not None and summary.l4_lean_proved > 0 and summary.l4_sorry_count == 0:
        return EnforcementLevel.PROVEN
    if contract.tests and contract.harnesses:
        return EnforcementLevel.STANDARD
    return EnforcementLevel.BASIC


def level_rank(level: EnforcementLevel) -> int:
    """0 for basic to 3 for proven."""
    return list(EnforcementLevel).index(level)


def _is_lean_proved(contract: Contract) -> bool:
    summary = contract.verification_summary
    if summary is None or summary.total_obligations == 0 or summary.l4_lean_proved == 0:
        return False
    return summary.l4_lean_proved + summary.l4_not_applicable == summary.total_obligations


def _is_bound(contract: Contract, bindings: BindingRegistry | None) -> bool:
    entries = [] if bindings is None else bindings.entries_of(contract.stem)
    return bool(entries) and all(e.status is BindingStatus.IMPLEMENTED for e in entries)
