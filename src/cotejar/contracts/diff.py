"""What changed between two versions of a contract, and how much that asks of its version.

Upstream's rules:

    equation removed or changed, obligation removed                   major
    equation or obligation added; test or harness added or removed;
    enforcement removed                                               minor
    enforcement added; metadata.version changed                       patch

For our `parity` block (upstream ignores it): what lets more pass is major, what lets less
pass is minor. A precondition or required site dropped, a gate dropped or loosened, or any
other change of a gate's meaning is major; one added, or a gate tightened, is minor; other
values of the block (models, prompts) are patch.

Some of these changes alter what a gate means (`meaning.py`). Such a version owes its readers
five whys in its changelog.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cotejar.contracts.diff_parity import parity_changes
from cotejar.contracts.meaning import EQUATION_FIELDS, is_explained, meaning_changes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cotejar.contracts.schema import Contract, Equation

_VERSION = re.compile(r"v?([0-9]{1,9})(?:\.([0-9]{1,9}))?(?:\.([0-9]{1,9}))?(?:[-+].*)?")


class Bump(enum.IntEnum):
    """A step of a semantic version, from none to major."""

    NONE = 0
    PATCH = 1
    MINOR = 2
    MAJOR = 3


@dataclass(kw_only=True, slots=True)
class SectionDiff:
    """One section's changes, each in a few words."""

    section: str
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Is there no change?"""
        return not (self.added or self.removed or self.changed)


@dataclass(frozen=True, kw_only=True, slots=True)
class ContractDiff:
    """All changes that count, and what they ask of the version."""

    old_version: str
    new_version: str
    sections: tuple[SectionDiff, ...]
    needed: Bump
    """By the content alone: a new version number by itself asks for nothing."""
    meaning_changes: tuple[str, ...]
    """Changes after which a gate that was there judges otherwise."""
    is_explained: bool
    """Does the new changelog explain them by five whys? True where there are none."""

    @property
    def suggested(self) -> Bump:
        """As upstream prints it: a changed version number counts as a patch."""
        return max(self.needed, Bump.PATCH) if self.version_changed else self.needed

    @property
    def version_changed(self) -> bool:
        """Do the two texts differ?"""
        return self.old_version != self.new_version

    @property
    def is_identical(self) -> bool:
        """Did nothing change that counts?"""
        return self.suggested is Bump.NONE and not self.meaning_changes

    @property
    def actual(self) -> Bump | None:
        """The step that the version made; None if it went back or is no version."""
        return version_step(self.old_version, self.new_version)

    @property
    def is_bump_enough(self) -> bool:
        """Was the version raised by at least what the content asks for?"""
        if self.needed is Bump.NONE and not self.version_changed:
            return True
        return self.actual is not None and self.actual >= self.needed

    def as_json(self) -> dict[str, Any]:
        """The same facts, for `--json`."""
        actual = self.actual
        return {
            "old_version": self.old_version,
            "new_version": self.new_version,
            "identical": self.is_identical,
            "suggested_bump": self.suggested.name.lower(),
            "needed_bump": self.needed.name.lower(),
            "actual_bump": None if actual is None else actual.name.lower(),
            "bump_is_enough": self.is_bump_enough,
            "meaning_changes": list(self.meaning_changes),
            "meaning_is_explained": self.is_explained,
            "sections": [
                {
                    "section": section.section,
                    "added": section.added,
                    "removed": section.removed,
                    "changed": section.changed,
                }
                for section in self.sections
                if not section.is_empty
            ],
        }


def diff_contracts(old: Contract, new: Contract) -> ContractDiff:
    """Compare two contracts, section by section."""
    equations = _keys("equations", _names(old.equations), _names(new.equations))
    equations.changed = _changed_equations(old, new)
    obligations = _keys("proof_obligations", _obligation_keys(old), _obligation_keys(new))
    tests = _keys("falsification_tests", (t.id for t in old.tests), (t.id for t in new.tests))
    harnesses = _keys(
        "kani_harnesses", (h.id for h in old.harnesses), (h.id for h in new.harnesses)
    )
    enforcement = _keys("enforcement", _names(old.enforcement), _names(new.enforcement))
    parity, parity_bump = _parity(old, new)
    meaning = meaning_changes(old, new)
    needed = max(
        _bump(equations, added=Bump.MINOR, removed=Bump.MAJOR),
        _bump(obligations, added=Bump.MINOR, removed=Bump.MAJOR),
        _bump(tests, added=Bump.MINOR, removed=Bump.MINOR),
        _bump(harnesses, added=Bump.MINOR, removed=Bump.MINOR),
        _bump(enforcement, added=Bump.PATCH, removed=Bump.MINOR),
        parity_bump,
    )
    return ContractDiff(
        old_version=old.metadata.version,
        new_version=new.metadata.version,
        sections=(equations, obligations, tests, harnesses, enforcement, parity),
        needed=needed,
        meaning_changes=meaning,
        is_explained=not meaning or is_explained(old, new),
    )


def version_step(old: str, new: str) -> Bump | None:
    """The highest part of a semantic version that rose; NONE if equal, None if it fell."""
    before, after = _VERSION.fullmatch(old.strip()), _VERSION.fullmatch(new.strip())
    if before is None or after is None:
        return None
    old_parts = [int(part or 0) for part in before.groups()]
    new_parts = [int(part or 0) for part in after.groups()]
    steps = (Bump.MAJOR, Bump.MINOR, Bump.PATCH)
    for step, first, second in zip(steps, old_parts, new_parts, strict=True):
        if first != second:
            return step if second > first else None
    return Bump.NONE


def diff_text(diff: ContractDiff) -> str:
    """Upstream's lines: the header, the suggested bump, then `+`, `-` and `~` by section."""
    if diff.is_identical:
        return "Contracts are identical."
    lines = [
        f"Contract diff: {diff.old_version} -> {diff.new_version}",
        f"Suggested bump: {diff.suggested.name.lower()}",
    ]
    for section in diff.sections:
        if section.is_empty:
            continue
        lines += ["", f"{section.section}:"]
        lines += [f"  + {item}" for item in section.added]
        lines += [f"  - {item}" for item in section.removed]
        lines += [f"  ~ {item}" for item in section.changed]
    if diff.meaning_changes:
        state = "explained by five whys" if diff.is_explained else "not explained by five whys"
        lines += ["", f"What a gate means ({state}):"]
        lines += [f"  ! {item}" for item in diff.meaning_changes]
    return "\n".join(lines)


def check_problems(diff: ContractDiff) -> list[str]:
    """What is owed for the changes and was not given: a higher version, five whys."""
    problems = []
    if not diff.is_bump_enough:
        made = "no rise" if diff.actual is None else diff.actual.name.lower()
        problems.append(
            f"the changes ask for a {diff.needed.name.lower()} bump, but "
            f"{diff.old_version} -> {diff.new_version} is {made}"
        )
    if not diff.is_explained:
        problems.append(
            f"{len(diff.meaning_changes)} change(s) alter what a gate means, and the "
            f"changelog of {diff.new_version} has no five_whys for them: "
            + "; ".join(diff.meaning_changes)
        )
    return problems


def _names(entries: Iterable[Any]) -> Iterable[str]:
    return (entry.name for entry in entries)


def _obligation_keys(contract: Contract) -> Iterable[str]:
    # Retitling an obligation removes one and adds another, as upstream has it.
    return (f"{o.type}:{o.property}" for o in contract.obligations)


def _keys(section: str, old: Iterable[str], new: Iterable[str]) -> SectionDiff:
    before, after = dict.fromkeys(old), dict.fromkeys(new)
    return SectionDiff(
        section=section,
        added=[key for key in after if key not in before],
        removed=[key for key in before if key not in after],
    )


def _changed_equations(old: Contract, new: Contract) -> list[str]:
    later: dict[str, Equation] = {equation.name: equation for equation in new.equations}
    return [
        f"{equation.name}: {name} changed"
        for equation in old.equations
        if equation.name in later
        for name in EQUATION_FIELDS
        if getattr(equation, name) != getattr(later[equation.name], name)
    ]


def _bump(section: SectionDiff, *, added: Bump, removed: Bump) -> Bump:
    bumps = [Bump.NONE]
    if section.added:
        bumps.append(added)
    if section.removed:
        bumps.append(removed)
    if section.changed:
        bumps.append(Bump.MAJOR)
    return max(bumps)


def _parity(old: Contract, new: Contract) -> tuple[SectionDiff, Bump]:
    """The `parity` block's changes, and the largest step that one of them asks for."""
    section = SectionDiff(section="parity")
    before, after = old.source.value_of("parity"), new.source.value_of("parity")
    needed = Bump.NONE
    for change in parity_changes(before, after):
        {"+": section.added, "-": section.removed, "~": section.changed}[change.sign].append(
            f"{change.text} ({change.effect.value})"
        )
        needed = max(needed, Bump[change.effect.bump_name])
    return section, needed
