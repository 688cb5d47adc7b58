"""Append what came of a harness to the evidence, with a stamp of what the proof depended on."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotejar.contracts.evidence.fingerprint import Fingerprints
from cotejar.contracts.evidence.ledger import append_record
from cotejar.contracts.evidence.project import Project, find_project
from cotejar.contracts.evidence.record import ProofRecord, Stamp, make_stamp
from cotejar.contracts.falsify.supervise import DEPTH_VARIABLE
from cotejar.contracts.prove.outcome import ProofVerdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cotejar.contracts.prove.harness import Claim
    from cotejar.contracts.prove.report import HarnessResult
    from cotejar.contracts.schema import Contract

MAX_SHOWN = 20_000
"""Characters of a counterexample; the rest is cut."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unrecorded:
    """Why a proof is kept out of the evidence; empty where the user asked for that."""

    why: str


class ProofRecorder:
    """Stamps harnesses before they run and appends their results after."""

    def __init__(
        self, contracts: Iterable[Contract], *, record: bool, evidence: Path | None
    ) -> None:
        """Read the settings of all projects, so that a slip in them costs no proof.

        Args:
            contracts: whose harnesses will run.
            record: False appends nothing, and reads no settings.
            evidence: folder of the records, instead of each project's own.

        Raises:
            SettingsError: a project's settings mean nothing.
            UnreadableFileError: the system refuses to read them.
        """
        self._record = record
        self._evidence = evidence
        self._projects: dict[str, tuple[Project, Fingerprints]] = {}
        by_root: dict[Path, tuple[Project, Fingerprints]] = {}
        for contract in contracts if record else ():
            project = find_project(contract.source.file)
            found = by_root.setdefault(project.root, (project, Fingerprints(project)))
            self._projects[contract.source.file] = found

    def stamp(self, contract: Contract, claims: Sequence[Claim]) -> Stamp | Unrecorded:
        """What a proof that starts now depends on, or why it will not be recorded.

        A change of a file outside the project could not be noticed, so a proof that depends
        on one would never become stale.
        """
        if not self._record:
            return Unrecorded(why="")
        if os.environ.get(DEPTH_VARIABLE):
            return Unrecorded(why="a falsification test runs it, and is recorded itself")
        project, fingerprints = self._projects[contract.source.file]
        files = source_files(claims)
        for file in files:
            if not file.is_relative_to(project.root):
                return Unrecorded(why=f"{file} lies outside the project {project.root}")
        words = [file.relative_to(project.root).as_posix() for file in files]
        return make_stamp(contract, fingerprints, words=words)

    def append(
        self,
        contract: Contract,
        stamp: Stamp | Unrecorded,
        result: HarnessResult,
        conformance: dict[str, Any],
    ) -> HarnessResult:
        """Append a result, unless nothing ran; return it with what became of it.

        Raises:
            WriteError: the system refuses, or the disk is full.
            NotAFileError: something else has the name of the file of evidence.
            EvidenceError: the file of evidence is full.
        """
        if result.verdict is ProofVerdict.NOT_FOUND:
            return result
        if isinstance(stamp, Unrecorded):
            return replace(result, unrecorded_why=stamp.why)
        project, _ = self._projects[contract.source.file]
        append_record(self._evidence or project.evidence, _proof(stamp, result, conformance))
        return replace(result, recorded=True)


def source_files(claims: Sequence[Claim]) -> tuple[Path, ...]:
    """The files of the claims and then of their targets, each once, absolute."""
    names = [claim.body.__code__.co_filename for claim in claims]
    names += [target.__code__.co_filename for claim in claims for target in claim.targets]
    return tuple(dict.fromkeys(Path(name).resolve() for name in names))


def _proof(stamp: Stamp, result: HarnessResult, conformance: dict[str, Any]) -> ProofRecord:
    shown = result.refuted.counterexample_json() if result.refuted else None
    text = None if shown is None else json.dumps(shown, ensure_ascii=False)
    if text is not None and len(text) > MAX_SHOWN:
        text = text[:MAX_SHOWN] + "..."
    return ProofRecord(
        stamp=stamp,
        id=result.id,
        verdict=result.verdict,
        reason=" ".join(result.why.split()),
        bound=result.bound,
        strategy=result.strategy,
        solver=result.solver or None,
        duration_s=round(result.seconds, 3),
        assumptions=tuple(result.assumptions),
        counterexample=text,
        details={
            "obligation": result.obligation,
            "claims": [claim.as_json() for claim in result.claims],
            "mutants": result.mutants,
            "conformance": conformance,
        },
    )
