"""One run as data: of a falsification test, or of a harness.

A record is one JSON object. Both kinds carry the same stamp, which says what the run
depended on; `kind` is `falsification` or `proof`.
"""

from __future__ import annotations

import enum
import importlib.metadata
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import cotejar
from cotejar.contracts.evidence.fingerprint import contract_hash
from cotejar.contracts.prove.outcome import ProofVerdict
from cotejar.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cotejar.contracts.evidence.fingerprint import Fingerprints
    from cotejar.contracts.schema import Contract

SCHEMA_VERSION = 1


class FalsificationVerdict(enum.StrEnum):
    """What a run of a falsification test says. Only SURVIVED passes."""

    SURVIVED = "SURVIVED"
    """The command ran and exited 0: the prediction was not contradicted."""
    FALSIFIED = "FALSIFIED"
    """The command ran and contradicted the prediction."""
    STOPPED = "STOPPED"
    """It was broken off, or broke a limit, or could not run as written."""
    NOT_RUN = "NOT-RUN"
    """Nothing was started, or all that was started was skipped. Never recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamp:
    """What a run depended on, and where it was."""

    contract: str
    """Its stem."""
    contract_hash: str
    words: tuple[str, ...]
    """The command's words, or the files of the harness and its targets, from the root."""
    test_hash: str
    """Of `words` and of the files that they name."""
    code_hash: str
    models: Mapping[str, str]
    """Name -> hash, of each model that was there."""
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    started: str
    """UTC, ISO 8601, in seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FalsificationRecord:
    """One run of one falsification test."""

    stamp: Stamp
    id: str
    verdict: FalsificationVerdict
    reason: str
    """In one line; "" where the exit code says it all."""
    command: str
    exit_code: int | None
    """None if it was stopped before it ended, or ended by a signal."""
    signal: str | None
    duration_s: float
    output_bytes: int
    output_sha256: str
    output_tail: tuple[str, ...]
    """The last lines, cut."""
    confinement: str
    """How writes were held back: `landlock-7`, or `snapshot` if they were only noticed."""

    def as_json(self) -> dict[str, Any]:
        """The object that is recorded."""
        return {
            "schema": SCHEMA_VERSION,
            "kind": "falsification",
            "id": self.id,
            "verdict": self.verdict.value,
            "reason": self.reason,
            "command": self.command,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "duration_s": self.duration_s,
            "output_bytes": self.output_bytes,
            "output_sha256": self.output_sha256,
            "output_tail": list(self.output_tail),
            "confinement": self.confinement,
            **_stamp_json(self.stamp),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ProofRecord:
    """One run of one harness."""

    stamp: Stamp
    id: str
    verdict: ProofVerdict
    """Never NOT FOUND: nothing ran then."""
    reason: str
    bound: int | None
    strategy: str
    solver: str | None
    duration_s: float
    assumptions: tuple[str, ...]
    counterexample: str | None
    details: Mapping[str, Any]
    """What else the engine counted, such as mutants killed; JSON values only."""

    def as_json(self) -> dict[str, Any]:
        """The object that is recorded."""
        return {
            "schema": SCHEMA_VERSION,
            "kind": "proof",
            "id": self.id,
            "verdict": self.verdict.value,
            "reason": self.reason,
            "bound": self.bound,
            "strategy": self.strategy,
            "solver": self.solver,
            "duration_s": self.duration_s,
            "assumptions": list(self.assumptions),
            "counterexample": self.counterexample,
            "details": dict(self.details),
            **_stamp_json(self.stamp),
        }


EvidenceRecord = FalsificationRecord | ProofRecord
W = TypeVar("W", bound=enum.StrEnum)

_RECORDED_RUNS = tuple(v for v in FalsificationVerdict if v is not FalsificationVerdict.NOT_RUN)
_RECORDED_PROOFS = tuple(v for v in ProofVerdict if v is not ProofVerdict.NOT_FOUND)


def make_stamp(
    contract: Contract,
    fingerprints: Fingerprints,
    *,
    words: Sequence[str],
    models: Sequence[str] = (),
) -> Stamp:
    """The stamp of a run that starts now.

    Args:
        contract: what the run is for.
        fingerprints: of the contract's project.
        words: the command's words, or the paths, from the root, of the files that hold the
            harness and its targets; the files that they name are hashed.
        models: names of models that the run reads; those that are not there are left out.
    """
    hashes = {name: fingerprints.model(name) for name in models}
    return Stamp(
        contract=contract.stem,
        contract_hash=contract_hash(contract),
        words=tuple(words),
        test_hash=fingerprints.test(words),
        code_hash=fingerprints.code(),
        models={name: found for name, found in hashes.items() if found is not None},
        versions=_versions(),
        machine=_machine(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def parse_record(facts: object, where: str) -> EvidenceRecord:
    """Read a recorded object.

    Raises:
        EvidenceError: it is of another schema, or a key is missing or of the wrong type.
    """
    if not isinstance(facts, dict):
        raise _malformed(where, "a JSON object", type(facts).__name__)
    read = _Reader(facts, where)
    schema = read.of("schema", int)
    if schema != SCHEMA_VERSION:
        raise _malformed(where, f"schema {SCHEMA_VERSION}", f"schema {schema}")
    kind = read.of("kind", str)
    if kind == "falsification":
        return _parse_falsification(read)
    if kind == "proof":
        return _parse_proof(read)
    raise _malformed(where, "kind: falsification or proof", repr(kind))


def _parse_falsification(read: _Reader) -> FalsificationRecord:
    return FalsificationRecord(
        stamp=read.stamp(),
        id=read.of("id", str),
        verdict=read.verdict(_RECORDED_RUNS),
        reason=read.of("reason", str),
        command=read.of("command", str),
        exit_code=read.of("exit_code", int, type(None)),
        signal=read.of("signal", str, type(None)),
        duration_s=read.of("duration_s", float, int),
        output_bytes=read.of("output_bytes", int),
        output_sha256=read.of("output_sha256", str),
        output_tail=tuple(read.texts("output_tail")),
        confinement=read.of("confinement", str),
    )


def _parse_proof(read: _Reader) -> ProofRecord:
    return ProofRecord(
        stamp=read.stamp(),
        id=read.of("id", str),
        verdict=read.verdict(_RECORDED_PROOFS),
        reason=read.of("reason", str),
        bound=read.of("bound", int, type(None)),
        strategy=read.of("strategy", str),
        solver=read.of("solver", str, type(None)),
        duration_s=read.of("duration_s", float, int),
        assumptions=tuple(read.texts("assumptions")),
        counterexample=read.of("counterexample", str, type(None)),
        details=read.of("details", dict),
    )


class _Reader:
    """The keys of one object, each checked as it is read."""

    def __init__(self, facts: dict[str, Any], where: str) -> None:
        self._facts = facts
        self._where = where

    def of(self, key: str, *kinds: type) -> Any:
        expected = f"{key}: " + " or ".join(kind.__name__ for kind in kinds)
        if key not in self._facts:
            raise _malformed(self._where, expected, "no such key")
        value = self._facts[key]
        # True is an int to Python, and no count.
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise _malformed(self._where, expected, type(value).__name__)
        return value

    def verdict(self, allowed: Sequence[W]) -> W:
        text = self.of("verdict", str)
        for word in allowed:
            if word.value == text:
                return word
        expected = f"verdict: one of {', '.join(word.value for word in allowed)}"
        raise _malformed(self._where, expected, repr(text))

    def texts(self, key: str) -> list[str]:
        found = self.of(key, list)
        if not all(isinstance(item, str) for item in found):
            raise _malformed(self._where, f"{key}: a list of str", "other items in it")
        return list(found)

    def stamp(self) -> Stamp:
        models = self.of("models", dict)
        if not all(isinstance(found, str) for found in models.values()):
            raise _malformed(self._where, "models: name -> hash", "other values in it")
        return Stamp(
            contract=self.of("contract", str),
            contract_hash=self.of("contract_hash", str),
            words=tuple(self.texts("words")),
            test_hash=self.of("test_hash", str),
            code_hash=self.of("code_hash", str),
            models=models,
            versions=self.of("versions", dict),
            machine=self.of("machine", dict),
            started=self.of("started", str),
        )


def _malformed(where: str, expected: str, found: str) -> EvidenceError:
    return EvidenceError(
        "a record of evidence is malformed",
        where=where,
        expected=expected,
        found=found,
        hint="take the line out, or bring the file back from version control",
    )


def _stamp_json(stamp: Stamp) -> dict[str, Any]:
    return {
        "contract": stamp.contract,
        "contract_hash": stamp.contract_hash,
        "words": list(stamp.words),
        "test_hash": stamp.test_hash,
        "code_hash": stamp.code_hash,
        "models": dict(stamp.models),
        "versions": dict(stamp.versions),
        "machine": dict(stamp.machine),
        "started": stamp.started,
    }


def _versions() -> dict[str, str]:
    found = {"cotejar": cotejar.__version__, "python": platform.python_version()}
    for package in ("numpy", "safetensors", "tokenizers"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _machine() -> dict[str, Any]:
    """What could change a number; nothing that names the machine or its owner."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 0,
    }


def _cpu_name() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
