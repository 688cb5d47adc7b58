"""Prove the harnesses that contracts name, and record what came of it.

Each claim is decided in a child process, several at a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotejar.contracts.prove.counterexample import (
    counterexample_test,
    drawn_from_json,
    save_counterexample,
)
from cotejar.contracts.prove.crosshair_engine import load_crosshair
from cotejar.contracts.prove.harness import Strategy
from cotejar.contracts.prove.outcome import Outcome, ProofVerdict
from cotejar.contracts.prove.record import ProofRecorder
from cotejar.contracts.prove.report import (
    ClaimResult,
    HarnessResult,
    ProveReport,
    judge_harness,
)
from cotejar.contracts.prove.resolve import (
    find_harness_files,
    load_harness_file,
    load_own_harnesses,
)
from cotejar.contracts.prove.solvers import PACKAGES, load_solver_module
from cotejar.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cotejar.contracts.corpus import Corpus
    from cotejar.contracts.prove.harness import Claim, Registry
    from cotejar.contracts.schema import Contract, Harness

GRACE_SECONDS = 10.0
"""A child may need this long beyond its own deadline; then it is ended."""
DEFAULT_MEMORY_BYTES = 4 * 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class ProveOptions:
    """How to prove."""

    only: tuple[str, ...] = ()
    """Harness ids; empty: all."""
    timeout_seconds: float = 60.0
    """For all claims of one harness together."""
    harness_paths: tuple[str, ...] = ()
    """Files and folders with more harnesses."""
    counterexamples: str | None = None
    """A folder for the tests of counterexamples."""
    try_mutants: bool = True
    jobs: int = 1
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    """Of each child."""
    record: bool = True
    evidence: Path | None = None
    """Instead of the project's folder."""


def prove_corpus(corpus: Corpus, options: ProveOptions) -> ProveReport:
    """Prove every harness of every contract, and record each as soon as it is judged.

    Raises:
        UsageError: an id that no contract has, or a file that cannot be imported.
        MissingExtraError: a solver is not installed.
        ContractError: a project's settings mean nothing.
        FileError: a record cannot be written.
    """
    named = [(c, h) for c in corpus.contracts for h in c.harnesses]
    _require_known_ids(options.only, [h.id for _, h in named])
    wanted = [(c, h) for c, h in named if not options.only or h.id in options.only]
    recorder = ProofRecorder(
        [c for c, _ in wanted], record=options.record, evidence=options.evidence
    )
    registry = load_own_harnesses()
    files = [file for path in options.harness_paths for file in find_harness_files(path)]
    for file in files:
        load_harness_file(file)
    claims = [claim for _, harness in wanted for claim in registry.claims_of(harness.id)]
    if not claims:
        absent = tuple(_not_found(c, h) for c, h in wanted)
        return ProveReport(target=corpus.target, harnesses=absent, conformance={})
    for name in PACKAGES:
        load_solver_module(name)
    if any(claim.strategy is Strategy.CROSSHAIR for claim in claims):
        load_crosshair()
    pool = _Pool(options, files)
    conformance = pool.run([{"kind": "conformance"}], options.timeout_seconds)[0][0]
    results = []
    for contract, harness in wanted:
        stamp = recorder.stamp(contract, registry.claims_of(harness.id))
        result = _prove_harness(contract, harness, registry, pool, conformance["difference"])
        results.append(recorder.append(contract, stamp, result, conformance))
    return ProveReport(target=corpus.target, harnesses=tuple(results), conformance=conformance)


def _require_known_ids(wanted: Sequence[str], known: Sequence[str]) -> None:
    for harness_id in wanted:
        if harness_id not in known:
            raise UsageError(
                f"no contract here has a harness {harness_id}",
                where="--harness",
                expected=f"one of: {', '.join(known) or 'none: there are no harnesses'}",
                found=harness_id,
                hint="ids stand under `kani_harnesses` in the contract",
            )


def _not_found(contract: Contract, harness: Harness) -> HarnessResult:
    return HarnessResult(
        id=harness.id,
        contract=contract.source.file,
        obligation=harness.obligation,
        bound=harness.bound,
        verdict=ProofVerdict.NOT_FOUND,
        why="no function is registered under this id; --harnesses FILE|DIR adds some",
        seconds=0.0,
    )


def _prove_harness(
    contract: Contract, harness: Harness, registry: Registry, pool: _Pool, difference: str
) -> HarnessResult:
    claims = registry.claims_of(harness.id)
    if not claims:
        return _not_found(contract, harness)
    started = time.monotonic()
    bound = harness.bound if harness.bound is not None else claims[0].bound
    tasks: list[dict[str, Any]] = [
        {"kind": "claim", "id": harness.id, "claim": c.name, "bound": bound} for c in claims
    ]
    tries_mutants = pool.options.try_mutants and any(c.targets for c in claims)
    if tries_mutants:
        tasks.append({"kind": "mutants", "id": harness.id})
    answers = pool.run(tasks, pool.options.timeout_seconds)
    results = tuple(
        _claim_result(claim, bound, answer, seconds, pool.options.counterexamples)
        for claim, (answer, seconds) in zip(claims, answers, strict=False)
    )
    symbolic = any(c.strategy is Strategy.SYMBOLIC for c in claims)
    verdict, why = judge_harness(results, difference if symbolic else "")
    other = _other_obligation(contract, harness, claims)
    if verdict is ProofVerdict.PROVED and other:
        verdict, why = ProofVerdict.UNKNOWN, other
    return HarnessResult(
        id=harness.id,
        contract=contract.source.file,
        obligation=harness.obligation,
        bound=bound,
        verdict=verdict,
        why=why,
        seconds=time.monotonic() - started,
        claims=results,
        mutants=answers[-1][0] if tries_mutants else None,
    )


def _other_obligation(contract: Contract, harness: Harness, claims: Sequence[Claim]) -> str:
    """Is the proof about another obligation than the contract says? Text, or empty."""
    ids = {o.id for o in contract.obligations}
    found = {claim.obligation for claim in claims}
    if harness.obligation not in ids or found == {harness.obligation}:
        return ""
    return (
        f"the contract names {harness.obligation}, the registered claims "
        f"{', '.join(sorted(found))}"
    )


def _claim_result(
    claim: Claim, bound: int, answer: dict[str, Any], seconds: float, folder: str | None
) -> ClaimResult:
    shown = answer.get("counterexample")
    drawn = None if shown is None else drawn_from_json(shown)
    outcome = Outcome(
        verdict=ProofVerdict(answer["verdict"]),
        why=answer["why"],
        solver=answer["solver"],
        counterexample=drawn,
        facts=answer["facts"],
    )
    saved = None
    if drawn is not None and folder is not None:
        text = counterexample_test(claim, bound, drawn, outcome.why)
        saved = save_counterexample(folder, claim, text)
    return ClaimResult(claim=claim, outcome=outcome, seconds=seconds, saved_as=saved)


class _Pool:
    """Runs tasks in children, some at a time."""

    def __init__(self, options: ProveOptions, files: list[str]) -> None:
        self.options = options
        self.files = files

    def run(
        self, tasks: Sequence[dict[str, Any]], seconds: float
    ) -> list[tuple[dict[str, Any], float]]:
        """Every task's answer and seconds, in order; all end soon after `seconds`."""
        deadline = time.monotonic() + seconds
        with ThreadPoolExecutor(self.options.jobs) as pool:
            return list(pool.map(lambda task: self._run_one(task, deadline), tasks))

    def _run_one(self, task: dict[str, Any], deadline: float) -> tuple[dict[str, Any], float]:
        started = time.monotonic()
        left = deadline - started
        if left <= 0:
            return _unanswered(task, "the time is up"), 0.0
        whole = {
            **task,
            "files": self.files,
            "seconds": left,
            "memory_bytes": self.options.memory_bytes,
        }
        command = [sys.executable, "-m", "cotejar.contracts.prove.worker"]
        try:
            done = subprocess.run(  # noqa: S603 - our own module
                command,
                input=json.dumps(whole),
                capture_output=True,
                text=True,
                timeout=left + GRACE_SECONDS,
                check=False,
            )
            answer = json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            answer = _unanswered(task, f"ended after {left + GRACE_SECONDS:.0f} s")
        except json.JSONDecodeError:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            answer = _unanswered(task, f"the child ended with {done.returncode}: {last}")
        if "error" in answer:
            answer = _unanswered(task, answer["error"]["problem"])
        return answer, time.monotonic() - started


def _unanswered(task: dict[str, Any], why: str) -> dict[str, Any]:
    """What stands for an answer that did not come."""
    if task["kind"] == "conformance":
        return {"compared": 0, "difference": f"it was not compared with CPython: {why}"}
    if task["kind"] == "mutants":
        nothing: dict[str, Any] = {"total": 0, "killed": 0, "equivalent": [], "survived": []}
        return nothing | {"undecided": [why]}
    return {
        "verdict": ProofVerdict.UNKNOWN.value,
        "why": why,
        "solver": "",
        "counterexample": None,
        "facts": {},
    }
