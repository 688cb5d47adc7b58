"""TRACE-008: the way back, from a specification's section to the contracts that it names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cotejar.contracts.findings import Finding
from cotejar.contracts.rules.rule import AnyRule
from cotejar.contracts.traceability import find_upward, read_sections, spec_references

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cotejar.contracts.schema import Contract


class UncitedContract(AnyRule["Sequence[Contract]"]):
    """TRACE-008: a section names a contract that does not cite it, or is not there.

    Why:
        A section that claims to be enforced by a contract, and is not, misleads. Judged
        where a whole folder is audited, in every document that one of its contracts cites.
    Bad:
        metadata:
          {version: 1.0.0, description: d, references: [docs/spec.md §3]}
    Good:
        metadata:
          {version: 1.0.0, description: d, references: [docs/spec.md §1, docs/spec.md §3]}
    """

    def check(self, subject: Sequence[Contract]) -> Iterator[Finding]:
        """Compare every `Contracts:` line with the contracts of the folder."""
        cited = _citations(subject)
        specs = {spec for references in cited.values() for spec, _ in references}
        for spec in sorted(specs):
            for section in read_sections(spec).values():
                for stem, line in section.contracts:
                    if (spec, section.number) not in cited.get(stem, ()):
                        state = "does not cite it" if stem in cited else "is not there"
                        message = (
                            f"§{section.number} names the contract `{stem}`, which {state}"
                        )
                        yield self._in_spec(spec, line, message)

    def _in_spec(self, spec: Path, line: int, message: str) -> Finding:
        return Finding(
            rule=self.id,
            severity=self.severity,
            message=message,
            file=os.path.relpath(spec),
            line=line,
            column=1,
            path="",
        )


def _citations(contracts: Sequence[Contract]) -> dict[str, set[tuple[Path, str]]]:
    """Each contract's stem, and the (document, section) pairs that it cites."""
    cited: dict[str, set[tuple[Path, str]]] = {}
    for contract in contracts:
        folder = Path(contract.source.file).resolve().parent
        references = cited.setdefault(contract.stem, set())
        for reference in contract.metadata.references:
            for file, section in spec_references(reference):
                spec = find_upward(folder, file)
                if spec is not None:
                    references.add((spec, section))
    return cited


SPEC_RULE = UncitedContract()
