"""Which changes alter what a gate means, and whether the changelog explains them.

A gate's meaning changed where a gate that was there judges otherwise than before:

    a gate of `parity` loosened, tightened, or dropped
    a precondition, required site or scope of `parity` added or dropped
    an equation changed or dropped
    an obligation dropped, or its tolerance changed
    the bound of a harness changed

A gate, an equation or an obligation that is new alters none that was there. What is
explained is a version: its changelog entry must carry `five_whys` that the old version's
changelog does not have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.contracts.changelog import read_changelog
from cotejar.contracts.diff_parity import parity_changes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.schema import Contract, Equation

EQUATION_FIELDS = ("formula", "domain", "codomain", "invariants")
"""What an equation says; upstream asks for a major version where one of them changes."""


def meaning_changes(old: Contract, new: Contract) -> tuple[str, ...]:
    """Every change after which a gate that was there judges otherwise, in a few words."""
    return (
        *_parity(old, new),
        *_equations(old, new),
        *_obligations(old, new),
        *_bounds(old, new),
    )


def is_explained(old: Contract, new: Contract) -> bool:
    """Does the changelog of `new` have five whys that the one of `old` has not?

    Those of an earlier version do not count, and neither do those that were there before:
    an old explanation explains no new change.
    """
    before = [entry.five_whys for entry in read_changelog(old)]
    known = {entry.version for entry in read_changelog(old)} - {new.metadata.version}
    return any(
        entry.five_whys and entry.five_whys not in before and entry.version not in known
        for entry in read_changelog(new)
    )


def _parity(old: Contract, new: Contract) -> Iterator[str]:
    before, after = old.source.value_of("parity"), new.source.value_of("parity")
    for change in parity_changes(before, after):
        if change.changes_meaning:
            yield f"parity: {change.sign} {change.text} ({change.effect.value})"


def _equations(old: Contract, new: Contract) -> Iterator[str]:
    later: dict[str, Equation] = {equation.name: equation for equation in new.equations}
    for equation in old.equations:
        if equation.name not in later:
            yield f"equations: - {equation.name}"
            continue
        changed = [
            name
            for name in EQUATION_FIELDS
            if getattr(equation, name) != getattr(later[equation.name], name)
        ]
        if changed:
            yield f"equations: ~ {equation.name}: {', '.join(changed)}"


def _obligations(old: Contract, new: Contract) -> Iterator[str]:
    later = {(o.type, o.property): o.tolerance for o in new.obligations}
    for obligation in old.obligations:
        key = obligation.type, obligation.property
        label = obligation.id or obligation.property
        if key not in later:
            yield f"proof_obligations: - {label}: {obligation.type} {obligation.property!r}"
        elif later[key] != obligation.tolerance:
            words = f"tolerance {obligation.tolerance} -> {later[key]}"
            yield f"proof_obligations: ~ {label}: {words}"


def _bounds(old: Contract, new: Contract) -> Iterator[str]:
    later = {harness.id: harness.bound for harness in new.harnesses}
    for harness in old.harnesses:
        if harness.id in later and later[harness.id] != harness.bound:
            words = f"bound {harness.bound} -> {later[harness.id]}"
            yield f"kani_harnesses: ~ {harness.id}: {words}"
