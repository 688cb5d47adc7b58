"""Rules of the gate `composition`: what one contract assumes of another's arrays.

COMPOSITION-001 is upstream's; COMPOSITION-002, on dimensions and dtypes, is ours: upstream
compares the names of shapes only.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from cotejar.contracts.findings import Severity
from cotejar.contracts.rules.rule import AnyRule

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cotejar.contracts.findings import Finding
    from cotejar.contracts.schema import Contract, Equation, ShapeContract


@dataclass(frozen=True, kw_only=True, slots=True)
class _Assumption:
    """An equation's `assumes` that names a contract."""

    contract: Contract
    equation: str
    assumes: ShapeContract

    @property
    def path(self) -> tuple[str, ...]:
        return ("equations", self.equation, "assumes")


class CompositionRule(AnyRule["Sequence[Contract]"]):
    """A rule on all contracts of a run."""

    gate: ClassVar[str] = "composition"
    effort_minutes: ClassVar[int] = 15


class BrokenAssumption(CompositionRule):
    """COMPOSITION-001: an equation assumes what nobody guarantees.

    Why:
        Two contracts that each hold do not hold together. A warning where the chain cannot
        be followed: the contract or the equation is not in this run, or two contracts have
        the name.
    Bad:
        equations:
          identity: {formula: y = x, domain: R, preconditions: [x], postconditions: [y],
                     lean_theorem: t,
                     assumes: {from_contract: example-v1, from_equation: identity}}
    Good:
        equations:
          identity: {formula: y = x, domain: R, preconditions: [x], postconditions: [y],
                     lean_theorem: t,
                     assumes: {from_contract: example-v1, from_equation: identity,
                               shapes: {y: {dims: [batch, width]}}},
                     guarantees: {shapes: {y: {dims: [batch, width]}}}}
    """

    def check(self, subject: Sequence[Contract]) -> Iterator[Finding]:
        """Follow every assumption that names a contract."""
        by_stem = _unambiguous(subject)
        stems = {contract.stem for contract in subject}
        for one in _assumptions(subject):
            source = one.contract.source
            for severity, message in _problems(one, by_stem, stems):
                finding = self.at(source, f"{one.equation} assumes {message}", *one.path)
                yield replace(finding, severity=severity)


class OtherShape(CompositionRule):
    """COMPOSITION-002: an assumed shape differs from the guaranteed one of the same name.

    Why:
        Both contracts hold, and the arrays that pass between them do not fit.
    Bad:
        equations:
          identity: {formula: y = x, domain: R, preconditions: [x], postconditions: [y],
                     lean_theorem: t,
                     assumes: {from_contract: example-v1, from_equation: identity,
                               shapes: {y: {dims: [width, batch]}}},
                     guarantees: {shapes: {y: {dims: [batch, width]}}}}
    Good:
        equations:
          identity: {formula: y = x, domain: R, preconditions: [x], postconditions: [y],
                     lean_theorem: t,
                     assumes: {from_contract: example-v1, from_equation: identity,
                               shapes: {y: {dims: [batch, width]}}},
                     guarantees: {shapes: {y: {dims: [batch, width]}}}}
    """

    def check(self, subject: Sequence[Contract]) -> Iterator[Finding]:
        """Compare dimensions, and dtypes where both name one, as text without blanks."""
        by_stem = _unambiguous(subject)
        for one in _assumptions(subject):
            upstream = by_stem.get(one.assumes.from_contract or "")
            equation = None if upstream is None else _equation(upstream, one.assumes)
            granted = None if equation is None else equation.guarantees
            if granted is None:
                continue
            for name, shape in one.assumes.shapes.items():
                other = granted.shapes.get(name)
                if other is None:
                    continue
                dims, granted_dims = _dims(shape.dims), _dims(other.dims)
                dtypes = {dtype for dtype in (shape.dtype, other.dtype) if dtype}
                if dims == granted_dims and len(dtypes) < 2:  # noqa: PLR2004 - two that differ
                    continue
                message = (
                    f"{one.equation} assumes {name} to be {dims} {shape.dtype or ''}".rstrip()
                    + f"; {one.assumes.from_contract} guarantees "
                    + f"{granted_dims} {other.dtype or ''}".rstrip()
                )
                yield self.at(one.contract.source, message, *one.path, "shapes", name)


COMPOSITION_RULES: tuple[CompositionRule, ...] = (BrokenAssumption(), OtherShape())


def _problems(
    one: _Assumption, by_stem: Mapping[str, Contract], stems: set[str]
) -> Iterator[tuple[Severity, str]]:
    """What stands against the assumption: an error where it is known to be broken."""
    stem, wanted = one.assumes.from_contract or "", one.assumes.from_equation
    upstream = by_stem.get(stem)
    if upstream is None:
        why = "more than one contract has that name" if stem in stems else "it is not here"
        yield Severity.WARNING, f"the contract {stem}, and {why}"
        return
    if wanted is None:
        if not any(equation.guarantees for equation in upstream.equations):
            yield Severity.WARNING, f"{stem}, none of whose equations guarantees anything"
        return
    equation = _equation(upstream, one.assumes)
    if equation is None:
        yield Severity.WARNING, f"{stem}.{wanted}, and there is no such equation"
    elif equation.guarantees is None:
        yield Severity.ERROR, f"{stem}.{wanted}, which guarantees nothing"
    else:
        for name in one.assumes.shapes:
            if name not in equation.guarantees.shapes:
                yield (
                    Severity.WARNING,
                    f"{name} of {stem}.{wanted}, which does not guarantee it",
                )


def _assumptions(contracts: Sequence[Contract]) -> Iterator[_Assumption]:
    for contract in contracts:
        for equation in contract.equations:
            if equation.assumes is not None and equation.assumes.from_contract:
                yield _Assumption(
                    contract=contract, equation=equation.name, assumes=equation.assumes
                )


def _unambiguous(contracts: Sequence[Contract]) -> dict[str, Contract]:
    """Contracts by stem; a stem that two have names neither."""
    uses = Counter(contract.stem for contract in contracts)
    return {contract.stem: contract for contract in contracts if uses[contract.stem] == 1}


def _equation(contract: Contract, assumes: ShapeContract) -> Equation | None:
    named = (e for e in contract.equations if e.name == assumes.from_equation)
    return next(named, None)


def _dims(dims: tuple[str, ...]) -> str:
    return f"[{', '.join(''.join(dim.split()) for dim in dims)}]"
