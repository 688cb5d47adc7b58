"""One task in a process of its own, with limits on its memory: `python -m ...worker`.

A solver can take all of a machine's memory whatever time it was given, and cannot be stopped
from within Python. So each claim is decided in a child that the system limits and the parent
ends. The task comes as JSON on stdin, the result goes as JSON to stdout.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import TYPE_CHECKING, Any

from cotejar.contracts.prove.concrete import prove_by_enumeration, sample
from cotejar.contracts.prove.conformance import check_conformance
from cotejar.contracts.prove.counterexample import drawn_as_json
from cotejar.contracts.prove.crosshair import prove_by_crosshair
from cotejar.contracts.prove.harness import Strategy
from cotejar.contracts.prove.mutants import score_mutants
from cotejar.contracts.prove.outcome import Outcome, ProofVerdict
from cotejar.contracts.prove.resolve import load_harness_file, load_own_harnesses
from cotejar.contracts.prove.symbolic import SymbolicProof
from cotejar.errors import CotejarError

if TYPE_CHECKING:
    from cotejar.contracts.prove.harness import Claim


def prove_claim(claim: Claim, bound: int, seconds: float) -> Outcome:
    """Decide one claim by its strategy, in this process."""
    deadline = time.monotonic() + seconds
    if claim.strategy is Strategy.EXHAUSTIVE:
        return prove_by_enumeration(claim.body, bound, deadline)
    if claim.strategy is Strategy.SAMPLED:
        return sample(claim.body, bound, deadline)
    if claim.strategy is Strategy.CROSSHAIR:
        return prove_by_crosshair(claim.body, bound, deadline)
    return SymbolicProof(claim.body, bound, deadline).prove()


def run_task(task: dict[str, Any]) -> dict[str, Any]:
    """What the child does: conformance, one claim, or the mutants of one harness."""
    if task["kind"] == "conformance":
        checked = check_conformance()
        return {"compared": checked.num_compared, "difference": checked.difference}
    registry = load_own_harnesses()
    for file in task["files"]:
        load_harness_file(file)
    claims = registry.claims_of(task["id"])
    if task["kind"] == "mutants":
        return score_mutants(claims, time.monotonic() + task["seconds"]).as_json()
    claim = next(c for c in claims if c.name == task["claim"])
    try:
        outcome = prove_claim(claim, task["bound"], task["seconds"])
    except MemoryError:
        outcome = Outcome(verdict=ProofVerdict.UNKNOWN, why="out of memory")
    drawn = outcome.counterexample
    return {
        "verdict": outcome.verdict.value,
        "why": outcome.why,
        "solver": outcome.solver,
        "counterexample": None if drawn is None else drawn_as_json(drawn),
        "facts": outcome.facts,
    }


def main() -> None:
    """Read a task, limit this process, write the result."""
    task = json.load(sys.stdin)
    # Data, not address space: mapping a large file is no use of memory.
    resource.setrlimit(resource.RLIMIT_DATA, (task["memory_bytes"],) * 2)
    output = sys.stdout
    sys.stdout = sys.stderr  # what a harness prints is no result
    try:
        result = run_task(task)
    except CotejarError as error:
        result = {
            "error": {"class": type(error).__name__, "problem": error.problem} | error.parts
        }
    json.dump(result, output)


if __name__ == "__main__":
    main()
