"""A binding registry: which function implements which equation of which contract."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING

from cotejar.contracts.coerce import Fields, fail
from cotejar.contracts.read import read_source

if TYPE_CHECKING:
    import os

    from cotejar.contracts.source import Path, Source
    from cotejar.contracts.yaml_nodes import Node


class BindingStatus(enum.StrEnum):
    """How far an implementation is."""

    IMPLEMENTED = "implemented"
    PARTIAL = "partial"
    NOT_IMPLEMENTED = "not_implemented"
    PENDING = "pending"


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """One equation's implementation."""

    contract: str
    """The contract's file name."""
    equation: str
    module_path: str | None
    function: str | None
    signature: str | None
    status: BindingStatus
    notes: str | None

    @property
    def dotted(self) -> str | None:
        """Where the function is: `package.module.function`; None if no function is named."""
        parts = [part for part in (self.module_path, self.function) if part]
        return ".".join(parts) if self.function else None


@dataclass(frozen=True, kw_only=True, slots=True)
class BindingRegistry:
    """All bindings of one code base."""

    version: str
    target_crate: str
    bindings: tuple[Binding, ...]
    critical_path: tuple[str, ...]
    file: str
    """As the user named it."""
    _by_stem: dict[str, dict[str, list[Binding]]] = field(default_factory=dict, repr=False)
    """The same entries by contract, then by equation."""

    def __post_init__(self) -> None:
        for entry in self.bindings:
            by_equation = self._by_stem.setdefault(PurePath(entry.contract).stem, {})
            by_equation.setdefault(entry.equation, []).append(entry)

    @property
    def stems(self) -> frozenset[str]:
        """The contracts that have an entry."""
        return frozenset(self._by_stem)

    def entries_of(self, stem: str) -> list[Binding]:
        """The entries of one contract."""
        return [e for entries in self._by_stem.get(stem, {}).values() for e in entries]

    def find(self, stem: str, equation: str) -> Binding | None:
        """The first entry of one equation; None if there is none."""
        entries = self._by_stem.get(stem, {}).get(equation)
        return entries[0] if entries else None


def read_bindings(path: str | os.PathLike[str]) -> BindingRegistry:
    """Read one registry file.

    Raises:
        FileError: there is no such file, or it cannot be read.
        ContractError: it is no YAML, or no binding registry.
    """
    return build_bindings(read_source(path))


def build_bindings(source: Source) -> BindingRegistry:
    """Type the document of `source`."""
    known = ("version", "target_crate", "bindings", "critical_path")
    fields = Fields(source.root, source, (), known)
    if fields.node("bindings") is None:
        fail(source.root, source, (), "a key `bindings`", "none", "missing field `bindings`")
    return BindingRegistry(
        version=fields.text("version"),
        target_crate=fields.text("target_crate"),
        bindings=fields.structs("bindings", _binding),
        critical_path=fields.texts("critical_path"),
        file=source.file,
    )


def _binding(node: Node, source: Source, path: Path) -> Binding:
    fields = Fields(node, source, path, tuple(Binding.__dataclass_fields__))
    status = fields.word("status", BindingStatus, null_is_absent=False)
    if status is None:
        fail(node, source, path, "a key `status`", "none", "missing field `status`")
    return Binding(
        contract=fields.text("contract"),
        equation=fields.text("equation"),
        module_path=fields.optional_text("module_path"),
        function=fields.optional_text("function"),
        signature=fields.optional_text("signature"),
        status=status,
        notes=fields.optional_text("notes"),
    )
