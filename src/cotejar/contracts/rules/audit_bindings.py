"""Rules of `pv audit` on the binding registry, where one is given.

BIND-001 to 003 are upstream's. BIND-004 and 005 are ours: they look where the names lead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from cotejar.contracts.binding import BindingStatus
from cotejar.contracts.findings import Severity
from cotejar.contracts.rules.audit_rule import AuditRule, AuditSubject
from cotejar.contracts.traceability import declares, find_module

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.findings import Finding


class _BindingRule(AuditRule):
    """A rule on each equation's entry in the binding registry, where one is given."""

    status: ClassVar[tuple[BindingStatus | None, ...]]
    problem: ClassVar[str]

    def check(self, subject: AuditSubject) -> Iterator[Finding]:
        """Look up every equation."""
        if subject.bindings is None:
            return
        contract = subject.contract
        for equation in contract.equations:
            entry = subject.bindings.find(contract.stem, equation.name)
            if (None if entry is None else entry.status) in self.status:
                message = f"the equation {equation.name} {self.problem}"
                yield self.at(contract.source, message, "equations", equation.name)


class NotBound(_BindingRule):
    """BIND-001: an equation has no entry in the binding registry.

    Why:
        No function claims to compute it.
    Bad:
        bindings: []
    Good:
        bindings:
          - {contract: example-v1.yaml, equation: identity, status: implemented}
    """

    status = (None,)
    problem = "has no entry in the binding registry"


class PartlyImplemented(_BindingRule):
    """BIND-002: an equation is implemented in part.

    Why:
        What holds of the equation may not hold of the function.
    Bad:
        bindings:
          - {contract: example-v1.yaml, equation: identity, status: partial}
    Good:
        bindings:
          - {contract: example-v1.yaml, equation: identity, status: implemented}
    """

    severity: ClassVar[Severity] = Severity.WARNING
    status = (BindingStatus.PARTIAL,)
    problem = "is implemented in part only"


class NotImplementedYet(_BindingRule):
    """BIND-003: an equation is not implemented.

    Why:
        Its tests, if they pass, pass on something else.
    Bad:
        bindings:
          - {contract: example-v1.yaml, equation: identity, status: not_implemented}
    Good:
        bindings:
          - {contract: example-v1.yaml, equation: identity, status: implemented}
    """

    severity: ClassVar[Severity] = Severity.WARNING
    status = (BindingStatus.NOT_IMPLEMENTED, BindingStatus.PENDING)
    problem = "is not implemented"


class MissingFunction(AuditRule):
    """BIND-004: a function that the registry names is not in the code.

    Why:
        A function that was renamed leaves its equation bound to nothing. Modules are looked
        for upward from the contract, and under `src`; a path with `::` is no Python, and is
        not looked for.
    Bad:
        bindings:
          - {contract: example-v1.yaml, equation: identity, status: implemented,
             module_path: package.example, function: gone}
    Good:
        bindings:
          - {contract: example-v1.yaml, equation: identity, status: implemented,
             module_path: package.example, function: identity}
    """

    def check(self, subject: AuditSubject) -> Iterator[Finding]:
        """Look for the module's file, and in it for the function."""
        contract = subject.contract
        entries = [] if subject.bindings is None else subject.bindings.entries_of(contract.stem)
        for entry in entries:
            written = entry.status in {BindingStatus.IMPLEMENTED, BindingStatus.PARTIAL}
            module, function = entry.module_path, entry.function
            if not written or not module or not function or "::" in module + function:
                continue
            file = find_module(subject.folder, module)
            if file is None:
                message = f"{entry.equation} is bound to {module}, and there is no such module"
            elif not declares(file, function):
                message = f"{entry.equation} is bound to {function}, which {module} lacks"
            else:
                continue
            yield self.at(contract.source, message, "equations", entry.equation)


class UnknownEquation(AuditRule):
    """BIND-005: the registry binds an equation that the contract does not have.

    Why:
        An equation that was renamed leaves its function behind.
    Bad:
        bindings:
          - {contract: example-v1.yaml, equation: identity, status: implemented}
          - {contract: example-v1.yaml, equation: old_name, status: implemented}
    Good:
        bindings:
          - {contract: example-v1.yaml, equation: identity, status: implemented}
    """

    severity: ClassVar[Severity] = Severity.WARNING

    def check(self, subject: AuditSubject) -> Iterator[Finding]:
        """Look up every entry of the contract."""
        contract = subject.contract
        names = {equation.name for equation in contract.equations}
        entries = [] if subject.bindings is None else subject.bindings.entries_of(contract.stem)
        for entry in entries:
            if entry.equation not in names:
                message = f"the registry binds {entry.equation}, which is no equation here"
                yield self.at(contract.source, message, "equations")


BINDING_RULES: tuple[AuditRule, ...] = (
    NotBound(),
    PartlyImplemented(),
    NotImplementedYet(),
    MissingFunction(),
    UnknownEquation(),
)
