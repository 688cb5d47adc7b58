"""Rules on the metadata and on the names of the top-level blocks: SCHEMA-001, 002, 018-020."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.contracts.findings import Finding
from cotejar.contracts.rules.rule import Rule
from cotejar.contracts.schema import TOP_LEVEL_BLOCKS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.schema import Contract


class NoReferences(Rule):
    """SCHEMA-001: no reference is cited.

    Why:
        A contract that cites nothing cannot be checked against what it claims to follow.
    Bad:
        metadata:
          version: 1.0.0
          description: An example
          references: []
    Good:
        metadata:
          version: 1.0.0
          description: An example
          references: ["Zhang, Sennrich (2019), section 4"]
    """

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Look at `metadata.references`."""
        if not contract.metadata.references:
            message = "metadata.references is empty; cite at least one source"
            yield self.finding(contract, message, "metadata", "references")


class NoVersion(Rule):
    """SCHEMA-002: the version is empty.

    Why:
        Evidence and dependants name a contract by its version.
    Bad:
        metadata:
          version: ""
          description: An example
          references: [A source]
    Good:
        metadata:
          version: 1.0.0
          description: An example
          references: [A source]
    """

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Look at `metadata.version`."""
        if not contract.metadata.version:
            yield self.finding(contract, "metadata.version is empty", "metadata", "version")


class DuplicateKeys(Rule):
    """SCHEMA-020: a mapping holds the same key twice.

    Why:
        Every reader keeps one of the two values and drops the other without a word, and
        readers differ in which. One finding a document, at the first repeated key.
    Bad:
        commands:
          - name: run
            options: [quiet]
            options: [quiet, json]
    Good:
        commands:
          - name: run
            options: [quiet, json]
    """

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Look at every mapping of the document."""
        repeated = list(contract.source.duplicate_keys())
        if not repeated:
            return
        key = repeated[0]
        message = (
            f"the key `{key.key}` is there twice in one mapping, first on line "
            f"{key.first.line}: one of the two values is dropped; merge them"
        )
        if len(repeated) > 1:
            lines = ", ".join(f"`{more.key}` line {more.again.line}" for more in repeated[1:9])
            message += f" (and {len(repeated) - 1} more: {lines})"
        yield Finding(
            rule=self.id,
            severity=self.severity,
            message=message,
            file=contract.source.file,
            line=key.again.line,
            column=key.again.column,
            path=key.key,
        )


class TopLevelKind(Rule):
    """SCHEMA-018: `kind` stands at the top level.

    Why:
        The kind is read from `metadata.kind`; one at the top is ignored, so the contract
        is judged as something other than what its file says.
    Bad:
        kind: pattern
    Good:
        metadata:
          version: 1.0.0
          description: An example
          kind: pattern
          references: [A source]
    """

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Look for a top-level `kind`."""
        if "kind" in contract.source.top_level_keys():
            message = (
                "the top-level `kind` is ignored: the kind is metadata.kind, here "
                f"{contract.kind.value}; move it there or delete it"
            )
            yield self.finding(contract, message, "kind")


class NearMissKey(Rule):
    """SCHEMA-019: a top-level key is nearly the name of a block.

    Why:
        Unknown keys are allowed and ignored; a misspelt block would vanish silently, with
        every test in it.
    Bad:
        qa_gates:
          id: F-EX-001
    Good:
        gates:
          id: F-EX-001
    """

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Compare every unknown top-level key with the known ones."""
        for key in contract.source.top_level_keys():
            block = None if key == "kind" else near_miss(key)
            if block is not None:
                message = (
                    f"the top-level key `{key}` is no block of a contract and is ignored "
                    f"with all that it holds; did you mean `{block}`?"
                )
                yield self.finding(contract, message, key)


def near_miss(key: str) -> str | None:
    """The block that an unknown key is a case, separator or plural variant of, if any."""
    if key in TOP_LEVEL_BLOCKS:
        return None
    forms = _forms(key)
    return next((block for block in TOP_LEVEL_BLOCKS if forms & _FORMS[block]), None)


def _forms(key: str) -> frozenset[str]:
    """The key in lower case without separators, and without a plural ending."""
    word = "".join(c for c in key.lower() if c.isascii() and c.isalnum())
    forms = {word, word.removesuffix("es"), word.removesuffix("s")}
    return frozenset(forms - {""})


_FORMS = {block: _forms(block) for block in TOP_LEVEL_BLOCKS}
