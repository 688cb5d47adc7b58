"""The `changelog` block: ours, ignored upstream.

    changelog:
      - version: 1.1.0
        date: 2026-11-26
        changes: [what changed]
        changes_gate_meaning: true
        five_whys:
          - {why: Why did it fail?, because: The last answer is the root cause}

An entry that changes what a gate means owes its five whys; `pv audit` asks for them. Other
people's contracts have changelogs of other shapes: what is not of this one is passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cotejar.contracts.schema import Contract


@dataclass(frozen=True, kw_only=True, slots=True)
class Why:
    """A question and its answer, which the next question is about."""

    why: str
    because: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangelogEntry:
    """What one version changed."""

    index: int
    """In the block, from 0."""
    version: str
    date: str | None
    changes: tuple[str, ...]
    changes_gate_meaning: bool
    five_whys: tuple[Why, ...]

    def as_json(self) -> dict[str, Any]:
        """The same facts, for `--json`."""
        return {
            "version": self.version,
            "date": self.date,
            "changes": list(self.changes),
            "changes_gate_meaning": self.changes_gate_meaning,
            "five_whys": [{"why": w.why, "because": w.because} for w in self.five_whys],
        }


def read_changelog(contract: Contract) -> tuple[ChangelogEntry, ...]:
    """The entries that have a version, as written; empty if there is none."""
    found = []
    for index, values in enumerate(_items(contract.source.value_of("changelog"))):
        version = contract.source.text_at(("changelog", index, "version"))
        if isinstance(values, dict) and version:
            found.append(_entry(index, version, values))
    return tuple(found)


def _entry(index: int, version: str, values: dict[Any, Any]) -> ChangelogEntry:
    date = values.get("date")
    return ChangelogEntry(
        index=index,
        version=version,
        date=None if date is None else str(date),
        changes=tuple(str(change) for change in _items(values.get("changes"))),
        changes_gate_meaning=values.get("changes_gate_meaning") is True,
        five_whys=tuple(
            Why(why=str(step["why"]), because=str(step["because"]))
            for step in _items(values.get("five_whys"))
            if isinstance(step, dict) and {"why", "because"} <= step.keys()
        ),
    )


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
