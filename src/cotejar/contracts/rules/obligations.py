"""Rules on proof obligations: SCHEMA-005, 006, 014-017, 021-023."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from cotejar.contracts.findings import Finding, Severity
from cotejar.contracts.rules.rule import Rule, blank
from cotejar.contracts.schema import ObligationType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.schema import Contract

BLOCK = "proof_obligations"


class EmptyProperty(Rule):
    """SCHEMA-005: an obligation states no property.

    Why:
        There is nothing to prove.
    Bad:
        proof_obligations:
          - {type: invariant, property: ""}
    Good:
        proof_obligations:
          - {type: invariant, property: y is finite}
    """

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Look at every obligation."""
        for index, obligation in enumerate(contract.obligations):
            if not obligation.property:
                message = f"proof_obligations[{index}].property is empty"
                yield self.finding(contract, message, BLOCK, index, "property")


class RepeatedFormal(Rule):
    """SCHEMA-006: two obligations have the same formal text.

    Why:
        The second adds nothing, or it was copied and not adapted.
    Bad:
        proof_obligations:
          - {type: invariant, property: y is finite, formal: isfinite(y)}
          - {type: bound, property: y is bounded, formal: isfinite(y)}
        falsification_tests:
          - {id: F-1, prediction: no NaN, if_fails: overflow}
          - {id: F-2, prediction: below 1, if_fails: scale}
    Good:
        proof_obligations:
          - {type: invariant, property: y is finite, formal: isfinite(y)}
          - {type: bound, property: y is bounded, formal: abs(y) <= 1}
        falsification_tests:
          - {id: F-1, prediction: no NaN, if_fails: overflow}
          - {id: F-2, prediction: below 1, if_fails: scale}
    """

    severity: ClassVar[Severity] = Severity.WARNING

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Compare every formal text with those above it."""
        first_use: dict[str, int] = {}
        for index, obligation in enumerate(contract.obligations):
            if obligation.formal is None:
                continue
            first = first_use.setdefault(obligation.formal, index)
            if first != index:
                message = (
                    f"proof_obligations[{index}].formal repeats that of "
                    f"proof_obligations[{first}]: {obligation.formal}"
                )
                yield self.finding(contract, message, BLOCK, index, "formal")


class _MisplacedField(Rule):
    """A field on an obligation of a type that gives it no meaning."""

    field: ClassVar[str]
    types: ClassVar[tuple[ObligationType, ...]]

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Look at every obligation."""
        allowed = " or ".join(self.types)
        for index, obligation in enumerate(contract.obligations):
            if getattr(obligation, self.field) is None or obligation.type in self.types:
                continue
            message = (
                f"proof_obligations[{index}].{self.field} belongs on {allowed}, "
                f"not on {obligation.type}"
            )
            yield self.finding(contract, message, BLOCK, index, self.field)


class MisplacedRequires(_MisplacedField):
    """SCHEMA-014: `requires` on something other than a postcondition.

    Why:
        Only a postcondition holds under a precondition; elsewhere nothing reads the key.
    Bad:
        proof_obligations:
          - {type: invariant, property: y is finite, requires: PRE-1}
    Good:
        proof_obligations:
          - {type: postcondition, property: y is finite, requires: PRE-1}
    """

    field = "requires"
    types = (ObligationType.POSTCONDITION,)


class MisplacedPhase(_MisplacedField):
    """SCHEMA-015: `applies_to_phase` on something other than a loop obligation.

    Why:
        Only a loop invariant or variant belongs to one phase of a kernel.
    Bad:
        proof_obligations:
          - {type: bound, property: y is finite, applies_to_phase: reduce}
    Good:
        proof_obligations:
          - {type: loop_invariant, property: y is finite, applies_to_phase: reduce}
    """

    field = "applies_to_phase"
    types = (ObligationType.LOOP_INVARIANT, ObligationType.LOOP_VARIANT)


class MisplacedParent(_MisplacedField):
    """SCHEMA-016: `parent_contract` on something other than a subcontract.

    Why:
        Only a subcontract refines another contract.
    Bad:
        proof_obligations:
          - {type: equivalence, property: y is finite, parent_contract: parent-v1}
    Good:
        proof_obligations:
          - {type: equivalence, property: y is finite}
    """

    field = "parent_contract"
    types = (ObligationType.SUBCONTRACT,)


class UndeclaredParent(Rule):
    """SCHEMA-017: a subcontract's parent is not in metadata.depends_on.

    Why:
        The graph of contracts is drawn from depends_on; this edge would be missing.
    Bad:
        proof_obligations:
          - {type: subcontract, property: y is finite, parent_contract: parent-v1}
    Good:
        metadata:
          version: 1.0.0
          description: An example
          references: [A source]
          depends_on: [parent-v1]
        proof_obligations:
          - {type: subcontract, property: y is finite, parent_contract: parent-v1}
    """

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Look at every subcontract."""
        declared = frozenset(contract.metadata.depends_on)
        for index, obligation in enumerate(contract.obligations):
            parent = obligation.parent_contract
            if (
                parent is None
                or obligation.type is not ObligationType.SUBCONTRACT
                or parent in declared
            ):
                continue
            message = (
                f"proof_obligations[{index}].parent_contract names {parent}, which "
                "metadata.depends_on does not list"
            )
            yield self.finding(contract, message, BLOCK, index, "parent_contract")


class _MissingJustification(Rule):
    """A part of the justification that a not-applicable obligation owes."""

    field: ClassVar[str]
    owed: ClassVar[str]

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Look at every obligation that is not applicable; blanks count as nothing."""
        for index, obligation in enumerate(contract.obligations):
            if obligation.is_not_applicable and blank(getattr(obligation, self.field)):
                message = (
                    f"proof_obligations[{index}] is not applicable, but its {self.field} "
                    f"is empty; say {self.owed}"
                )
                yield self.finding(contract, message, BLOCK, index, self.field)


class MissingReason(_MissingJustification):
    """SCHEMA-021: a not-applicable obligation gives no reason.

    Why:
        Not applicable without a reason is a way to drop an obligation unseen.
    Bad:
        proof_obligations:
          - {property: the file is public, applies_to: not_applicable, na_owner: inspect}
    Good:
        proof_obligations:
          - property: the file is public
            applies_to: not_applicable
            na_reason: a fact of the upload, not of code
            na_owner: inspect
    """

    field = "na_reason"
    owed = "why it is no property of code"


class MissingOwner(_MissingJustification):
    """SCHEMA-022: a not-applicable obligation names no owner.

    Why:
        Someone or something else must still check the claim.
    Bad:
        proof_obligations:
          - {property: the file is public, applies_to: N/A, na_reason: a fact of the upload}
    Good:
        proof_obligations:
          - property: the file is public
            applies_to: N/A
            na_reason: a fact of the upload
            na_owner: inspect
    """

    field = "na_owner"
    owed = "which check or command verifies it instead"


class DanglingJustification(Rule):
    """SCHEMA-023: a justification on an obligation that does apply.

    Why:
        It justifies nothing, and hints that `applies_to` was forgotten.
    Bad:
        proof_obligations:
          - {property: y is finite, na_owner: inspect}
    Good:
        proof_obligations:
          - {property: y is finite}
    """

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Look at every obligation that applies; one finding a field."""
        for index, obligation in enumerate(contract.obligations):
            if obligation.is_not_applicable:
                continue
            for field in ("na_reason", "na_owner"):
                if getattr(obligation, field) is not None:
                    message = (
                        f"proof_obligations[{index}].{field} needs applies_to: not_applicable"
                    )
                    yield self.finding(contract, message, BLOCK, index, field)
