"""The `changelog` block: ours, ignored upstream.

    changelog:
      - version: 1.1.0
        date: 2026-11-26
        changes: [what changed]
        changes_gate_meaning: true
        five_whys:
          - {why: Why did it fail?, because: The last answer is the root cause}

An entry that changes what a gate means owes its five whys; `pv audit` asks for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotejar.contracts.coerce import Fields

if TYPE_CHECKING:
    from cotejar.contracts.schema import Contract
    from cotejar.contracts.source import Path, Source
    from cotejar.contracts.yaml_nodes import Node


@dataclass(frozen=True, kw_only=True, slots=True)
class Why:
    """A question and its answer, which the next question is about."""

    why: str
    because: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangelogEntry:
    """What one version changed."""

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
    """The entries, as written; empty if there is no such block.

    Raises:
        ContractSchemaError: the block is no list of entries.
    """
    source = contract.source
    return Fields(source.root, source, (), ("changelog",)).structs("changelog", _entry)


def _entry(node: Node, source: Source, path: Path) -> ChangelogEntry:
    fields = Fields(node, source, path, tuple(ChangelogEntry.__dataclass_fields__))
    return ChangelogEntry(
        version=fields.text("version"),
        date=fields.optional_text("date"),
        changes=fields.texts("changes"),
        changes_gate_meaning=fields.boolean("changes_gate_meaning") or False,
        five_whys=fields.structs("five_whys", _why),
    )


def _why(node: Node, source: Source, path: Path) -> Why:
    fields = Fields(node, source, path, ("why", "because"))
    return Why(why=fields.text("why"), because=fields.text("because"))
