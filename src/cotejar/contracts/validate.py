"""Validate one document, one file, or a folder of files.

A file is what its keys say it is: with `metadata` a contract; with `bindings` and
`target_crate` a binding registry; with `model_id` and `provenance` a publish manifest; with
a `schema` of external corpora such a declaration, for which there are no rules here: it is
listed as not checked. Everything else must be a contract, and fails as one.

A file that parses but breaks a rule, and a file that does not parse, are both FAIL. A path
that cannot be read at all, or is over a limit, is an error of the caller.
"""

from __future__ import annotations

import enum
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from cotejar.contracts.binding import build_bindings
from cotejar.contracts.build import build_contract
from cotejar.contracts.corpus import find_yaml_files, is_folder
from cotejar.contracts.findings import Finding, Severity, count
from cotejar.contracts.read import read_source
from cotejar.contracts.rules.catalogue import CONTRACT_RULES
from cotejar.contracts.rules.manifest import MANIFEST_RULES, SCHEMA_FILE, Manifest
from cotejar.contracts.source import plain_value
from cotejar.errors import (
    ContractError,
    ContractLimitError,
    CotejarError,
)
from cotejar.verdict import Verdict, worst

if TYPE_CHECKING:
    from cotejar.contracts.schema import Contract
    from cotejar.contracts.source import Source

KIND_DEFAULT = "no metadata.kind, judged kernel by default"
EXTERNAL_CORPORA_SCHEMA = "ont.paiml.dev/external-corpora/"
_PLACE = re.compile(r":([0-9]+)(?::([0-9]+))?$")
MIN_FILES_A_PROCESS = 100
"""A process costs about as much to start as this many files to validate."""


class ArtifactKind(enum.StrEnum):
    """What a file is, by its shape."""

    CONTRACT = "contract"
    BINDING = "binding registry"
    PUBLISH_MANIFEST = "publish manifest"
    EXTERNAL_CORPORA = "external-corpora declaration"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadProblem:
    """Why a file could not be read as what it is: an error's parts, as plain data."""

    text: str
    """The whole message."""
    facts: dict[str, str]
    line: int
    """From 1; 1 where the problem is the file as a whole."""
    column: int

    @classmethod
    def of(cls, error: CotejarError) -> ReadProblem:
        """Take an error apart; its `where` may end in `:line:column`."""
        place = _PLACE.search(error.parts["where"])
        line, column = (int(part or 1) for part in place.groups()) if place else (1, 1)
        return cls(text=str(error), facts=error.as_json(), line=line, column=column)

    def as_finding(self, file: str) -> Finding:
        """The same, for formats that know findings only."""
        facts = self.facts
        message = f"{facts['problem']} (expected {facts['expected']}, found {facts['found']})"
        return Finding(
            rule=facts["code"],
            severity=Severity.ERROR,
            message=message,
            file=file,
            line=self.line,
            column=self.column,
            path="",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FileReport:
    """What validation says of one file."""

    file: str
    kind: ArtifactKind
    findings: tuple[Finding, ...]
    problem: ReadProblem | None
    """Not None if the file did not parse; then there are no findings."""

    @property
    def num_errors(self) -> int:
        """Findings that fail the file; a file that does not parse has none."""
        return count(self.findings, Severity.ERROR)

    @property
    def num_warnings(self) -> int:
        """Findings that do not fail the file."""
        return count(self.findings, Severity.WARNING)

    @property
    def verdict(self) -> Verdict:
        """INCOMPARABLE where there is no rule to judge by."""
        if self.problem is not None or self.num_errors:
            return Verdict.FAIL
        if self.kind is ArtifactKind.EXTERNAL_CORPORA:
            return Verdict.INCOMPARABLE
        return Verdict.PASS

    def as_json(self) -> dict[str, Any]:
        """The same facts, for `--json`."""
        return {
            "file": self.file,
            "kind": self.kind.value,
            "verdict": self.verdict.value,
            "num_errors": self.num_errors,
            "num_warnings": self.num_warnings,
            "parse_error": None if self.problem is None else self.problem.facts,
            "findings": [finding.as_json() for finding in self.findings],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationReport:
    """What validation says of a file or a folder; never of nothing."""

    target: str
    """The path as the user gave it."""
    is_folder: bool
    files: tuple[FileReport, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of all files."""
        return worst(file.verdict for file in self.files)

    @property
    def num_failed(self) -> int:
        """Files that fail."""
        return sum(1 for file in self.files if file.verdict is Verdict.FAIL)

    @property
    def findings(self) -> list[Finding]:
        """The findings of all files, in their order."""
        return [finding for file in self.files for finding in file.findings]

    @property
    def findings_and_problems(self) -> list[Finding]:
        """As `findings`, with each file that did not parse as a finding too."""
        everything: list[Finding] = []
        for file in self.files:
            if file.problem is not None:
                everything.append(file.problem.as_finding(file.file))
            everything += file.findings
        return everything

    def as_json(self) -> dict[str, Any]:
        """The same facts, for `--json`."""
        findings = self.findings
        return {
            "verdict": self.verdict.value,
            "exit_code": self.verdict.exit_code,
            "path": self.target,
            "num_files": len(self.files),
            "num_failed": self.num_failed,
            "num_errors": count(findings, Severity.ERROR),
            "num_warnings": count(findings, Severity.WARNING),
            "files": [file.as_json() for file in self.files],
        }


def validate_contract(contract: Contract) -> tuple[Finding, ...]:
    """Judge a contract by every rule; all violations, in the order of the catalogue."""
    findings: list[Finding] = []
    explain = contract.metadata.kind is None
    for rule in CONTRACT_RULES:
        if rule.kernel_only and not contract.is_kernel:
            continue
        for finding in rule.check(contract):
            if explain and rule.kernel_only and finding.severity is Severity.ERROR:
                explain = False
                findings.append(_with_suffix(finding, f" ({KIND_DEFAULT})"))
            else:
                findings.append(finding)
    return tuple(findings)


def validate_path(path: str | os.PathLike[str], *, jobs: int = 1) -> ValidationReport:
    """Validate a file, or every YAML file under a folder with `jobs` processes.

    Raises:
        FileError: the path is missing or cannot be read.
        ContractLimitError: the file is over a limit; in a folder it fails instead.
        NoContractsError: the folder holds no YAML file.
    """
    target = os.fspath(path)
    if not is_folder(target):
        return ValidationReport(target=target, is_folder=False, files=(validate_file(target),))
    files = find_yaml_files(target)
    return ValidationReport(target=target, is_folder=True, files=_validate_all(files, jobs))


def validate_file(path: str | os.PathLike[str]) -> FileReport:
    """Validate one file, whatever kind of artifact it is.

    Raises:
        FileError: the file is missing or cannot be read.
        ContractLimitError: the file is over a limit.
    """
    name = os.fspath(path)
    kind = ArtifactKind.CONTRACT
    try:
        source = read_source(name)
        kind = classify(source)
        findings = _judge(kind, source)
    except ContractLimitError:
        raise
    except ContractError as error:
        return _failed(name, kind, error)
    return FileReport(file=name, kind=kind, findings=findings, problem=None)


def classify(source: Source) -> ArtifactKind:
    """What the document is, by its top-level keys."""
    keys = set(source.top_level_keys())
    if "metadata" in keys:
        return ArtifactKind.CONTRACT
    if "schema" in keys and str(source.value_of("schema")).startswith(EXTERNAL_CORPORA_SCHEMA):
        return ArtifactKind.EXTERNAL_CORPORA
    if {"bindings", "target_crate"} <= keys:
        return ArtifactKind.BINDING
    if {"model_id", "provenance"} <= keys:
        return ArtifactKind.PUBLISH_MANIFEST
    return ArtifactKind.CONTRACT


def _judge(kind: ArtifactKind, source: Source) -> tuple[Finding, ...]:
    if kind is ArtifactKind.CONTRACT:
        return validate_contract(build_contract(source))
    if kind is ArtifactKind.BINDING:
        build_bindings(source)
        return ()
    if kind is ArtifactKind.PUBLISH_MANIFEST:
        manifest = _manifest(source)
        return tuple(finding for rule in MANIFEST_RULES for finding in rule.check(manifest))
    return ()


def _manifest(source: Source) -> Manifest:
    """The manifest, with the lists of the nearest schema file above it."""
    required: tuple[str, ...] | None = None
    provenance_required: tuple[str, ...] = ()
    for folder in list(PurePath(source.file).parents)[:3]:
        candidate = Path(folder) / SCHEMA_FILE
        if candidate.is_file():
            schema = read_source(candidate).value_of("schema")
            if isinstance(schema, dict):
                required = _texts(schema.get("required_fields")) or None
                provenance_required = _texts(schema.get("provenance_required_fields"))
            break
    return Manifest(
        source=source,
        values=plain_value(source.root),
        required=required,
        provenance_required=provenance_required,
    )


def _texts(value: object) -> tuple[str, ...]:
    return tuple(v for v in value if isinstance(v, str)) if isinstance(value, list) else ()


def _validate_all(files: list[str], jobs: int) -> tuple[FileReport, ...]:
    processes = min(jobs, len(files) // MIN_FILES_A_PROCESS)
    if processes <= 1:
        return tuple(map(_validate_in_folder, files))
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # Spawned: a forked child could inherit a lock that another thread holds.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        chunk = -(-len(files) // (processes * 4))
        return tuple(pool.map(_validate_in_folder, files, chunksize=chunk))


def _validate_in_folder(name: str) -> FileReport:
    """As `validate_file`, but every error is that file's: the others are still judged."""
    try:
        return validate_file(name)
    except CotejarError as error:
        return _failed(name, ArtifactKind.CONTRACT, error)


def _failed(name: str, kind: ArtifactKind, error: CotejarError) -> FileReport:
    problem = ReadProblem.of(error)
    return FileReport(file=name, kind=kind, findings=(), problem=problem)


def _with_suffix(finding: Finding, suffix: str) -> Finding:
    return replace(finding, message=finding.message + suffix)
