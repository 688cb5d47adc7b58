"""What `pv prove` found: one entry a harness, with its claims below it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotejar.contracts.prove.counterexample import drawn_as_json
from cotejar.contracts.prove.outcome import Outcome, ProofVerdict, worst_verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotejar.contracts.prove.harness import Claim

NOT_PROVED_EXIT_CODE = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimResult:
    """One claim of a harness."""

    claim: Claim
    outcome: Outcome
    seconds: float
    saved_as: str | None = None
    """The counterexample's test, if a folder was named."""

    def as_json(self) -> dict[str, Any]:
        """For `--json` and for records."""
        return {
            "name": self.claim.name,
            "verdict": self.outcome.verdict.value,
            "why": self.outcome.why,
            "side": self.claim.side.value,
            "strategy": self.claim.strategy.value,
            "solver": self.outcome.solver,
            "seconds": round(self.seconds, 3),
            **self.outcome.facts,
        }

    def counterexample_json(self) -> dict[str, Any] | None:
        """The values, and where their test was saved."""
        if self.outcome.counterexample is None:
            return None
        return {
            "claim": self.claim.name,
            "failure": self.outcome.why,
            "inputs": drawn_as_json(self.outcome.counterexample),
            "test": self.saved_as,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessResult:
    """One harness of a contract."""

    id: str
    contract: str
    obligation: str
    bound: int | None
    verdict: ProofVerdict
    why: str
    """What stands against PROVED; empty where it is."""
    seconds: float
    claims: tuple[ClaimResult, ...] = ()
    mutants: dict[str, Any] | None = None
    """Counts of killed, equivalent and surviving mutants; None where none were tried."""
    recorded: bool = False
    """It was appended to the evidence."""
    unrecorded_why: str = ""
    """What kept it out, if it was not the user's wish."""

    @property
    def strategy(self) -> str:
        """Of all claims."""
        return ", ".join(dict.fromkeys(c.claim.strategy.value for c in self.claims))

    @property
    def solver(self) -> str:
        """Of all claims."""
        names = (n for c in self.claims for n in c.outcome.solver.split(", ") if n)
        return ", ".join(dict.fromkeys(names))

    @property
    def assumptions(self) -> list[str]:
        """Of all claims, in words."""
        return list(dict.fromkeys(a for c in self.claims for a in c.claim.assumes))

    @property
    def refuted(self) -> ClaimResult | None:
        """The first claim that is REFUTED."""
        found = (c for c in self.claims if c.outcome.verdict is ProofVerdict.REFUTED)
        return next(found, None)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "id": self.id,
            "verdict": self.verdict.value,
            "bound": self.bound,
            "strategy": self.strategy,
            "solver": self.solver,
            "seconds": round(self.seconds, 3),
            "assumptions": self.assumptions,
            "counterexample": self.refuted.counterexample_json() if self.refuted else None,
            "why": self.why,
            "contract": self.contract,
            "obligation": self.obligation,
            "claims": [c.as_json() for c in self.claims],
            "mutants": self.mutants,
            "recorded": self.recorded,
            "unrecorded_why": self.unrecorded_why,
        }

    def line(self) -> str:
        """For people."""
        if self.verdict is ProofVerdict.NOT_FOUND:
            return f"{self.id}  NOT FOUND  {self.why}"
        facts = [
            f"bound {self.bound}",
            f"{len(self.claims)} claims",
            self.solver,
            self._teeth(),
        ]
        figures = ", ".join(fact for fact in (*facts, f"{self.seconds:.1f} s") if fact)
        saved = self.refuted.saved_as if self.refuted else None
        tail = f"; replay: pytest {saved}" if saved else ""
        why = f"  {self.why}{tail}" if self.why else ""
        return f"{self.id}  {self.verdict.value}  ({figures}){why}"

    def _teeth(self) -> str:
        if not self.mutants or not self.mutants["total"]:
            return ""
        different = self.mutants["total"] - len(self.mutants["equivalent"])
        return f"{self.mutants['killed']} of {different} mutants killed"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProveReport:
    """All harnesses of one path."""

    target: str
    harnesses: tuple[HarnessResult, ...]
    conformance: dict[str, Any]
    """How often the engine was compared with CPython."""

    @property
    def exit_code(self) -> int:
        """0 if all are PROVED, 1 if any is REFUTED, else 3; 3 where there is none."""
        verdict = worst_verdict([h.verdict for h in self.harnesses])
        if verdict is ProofVerdict.REFUTED:
            return 1
        return 0 if verdict is ProofVerdict.PROVED else NOT_PROVED_EXIT_CODE

    def as_json(self) -> dict[str, Any]:
        """One object."""
        return {
            "target": self.target,
            "harnesses": [h.as_json() for h in self.harnesses],
            "conformance": self.conformance,
            "totals": self._totals(),
            "exit_code": self.exit_code,
        }

    def _totals(self) -> dict[str, int]:
        verdicts = [h.verdict for h in self.harnesses]
        return {v.value: verdicts.count(v) for v in ProofVerdict}

    def text(self) -> str:
        """One line a harness, what was kept out of the evidence, and a sum."""
        lines = [h.line() for h in self.harnesses]
        kept_out = [h for h in self.harnesses if h.unrecorded_why]
        lines += [f"{h.id} is not recorded: {h.unrecorded_why}" for h in kept_out]
        counts = [f"{n} {name}" for name, n in self._totals().items() if n]
        return "\n".join([*lines, ", ".join(counts) or "no harness: nothing was proved"])


def judge_harness(claims: Sequence[ClaimResult], difference: str) -> tuple[ProofVerdict, str]:
    """The verdict of one harness, and what stands against PROVED."""
    verdict = worst_verdict([c.outcome.verdict for c in claims])
    if verdict is not ProofVerdict.PROVED:
        worst = next(c for c in claims if c.outcome.verdict is verdict)
        return verdict, f"{worst.claim.name}: {worst.outcome.why}"
    if difference:
        return ProofVerdict.UNKNOWN, f"the engine is not Python here: {difference}"
    sides = {c.claim.side.value for c in claims}
    if "soundness" in sides and "completeness" not in sides:
        return ProofVerdict.UNKNOWN, "soundness alone: code that never says yes would pass"
    return verdict, ""
