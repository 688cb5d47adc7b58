"""How well a code base keeps its contracts: upstream's formula over a binding registry.

    composite = 0.25 resolution + 0.20 critical_path + 0.20 contracts
              + 0.15 proof_depth + 0.20 drift

    resolution      contracts that the registry names and that are here, over those it names
    critical_path   entries of `critical_path` that are part of a bound function's name, over
                    all; without any, the mean of the entries' weights (implemented 1,
                    partial 0.5)
    contracts       mean score of the contracts that are bound
    proof_depth     over their obligations: 0.1, and 0.3 if the contract has tests, 0.4 if it
                    has harnesses, 0.2 if the obligation is proved in Lean
    drift           1 - stale over bound; a contract is stale if it changed after the registry

A part that cannot be measured is left out, with its weight, and said to be: upstream counts
an unknown drift as none. Upstream's `pvscore` is not offered: five of its ten dimensions have
no measurement behind them, there or here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotejar.contracts.previous import run_git
from cotejar.contracts.schema import LeanStatus
from cotejar.contracts.score import BINDING_WEIGHTS, grade_of, score_contract
from cotejar.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cotejar.contracts.binding import BindingRegistry
    from cotejar.contracts.schema import Contract

CODEBASE_WEIGHTS = {
    "resolution": 0.25,
    "critical_path": 0.20,
    "contracts": 0.20,
    "proof_depth": 0.15,
    "drift": 0.20,
}
_NOT_COMMITTED = 2**63
"""A time after every commit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """Bound contracts that changed after the registry did."""

    stale: tuple[str, ...]
    """Their stems."""
    num_bound: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CodebaseScore:
    """The parts that could be measured, in [0, 1], and why the others could not."""

    parts: Mapping[str, float]
    not_measured: Mapping[str, str]
    unresolved: tuple[str, ...]
    """Contracts that the registry names and that are not here."""
    stale: tuple[str, ...]

    @property
    def composite(self) -> float | None:
        """The mean of the measured parts by weight; None if none is measured."""
        total = sum(CODEBASE_WEIGHTS[name] for name in self.parts)
        if not total:
            return None
        return sum(CODEBASE_WEIGHTS[name] * v for name, v in self.parts.items()) / total

    @property
    def grade(self) -> str | None:
        """A to F; None if nothing is measured."""
        composite = self.composite
        return None if composite is None else grade_of(composite)

    def as_json(self) -> dict[str, Any]:
        """The same facts, for `--json`."""
        return {
            "composite": self.composite,
            "grade": self.grade,
            "parts": dict(self.parts),
            "not_measured": dict(self.not_measured),
            "unresolved": list(self.unresolved),
            "stale": list(self.stale),
        }

    def as_text(self) -> str:
        """A line for the whole, and one a part."""
        whole = "not measured"
        if self.composite is not None:
            whole = f"{self.composite:.3f} {self.grade}"
        lines = [f"Codebase: {whole}"]
        lines += [f"  {name} {value:.2f}" for name, value in self.parts.items()]
        lines += [f"  {name} not measured: {why}" for name, why in self.not_measured.items()]
        for what, stems in (("not here", self.unresolved), ("stale", self.stale)):
            lines += [f"  {what}: {stem}" for stem in stems]
        return "\n".join(lines)


def score_codebase(
    contracts: Sequence[Contract], bindings: BindingRegistry, drift: Drift | None
) -> CodebaseScore:
    """Score what is bound; `drift` None: it could not be measured."""
    here = {contract.stem for contract in contracts}
    bound = [contract for contract in contracts if contract.stem in bindings.stems]
    unresolved = tuple(sorted(bindings.stems - here))
    parts: dict[str, float] = {}
    not_measured: dict[str, str] = {}
    if bindings.stems:
        parts["resolution"] = 1 - len(unresolved) / len(bindings.stems)
        parts["critical_path"] = _critical_path(bindings)
    else:
        why = "the registry binds nothing"
        not_measured |= dict.fromkeys(("resolution", "critical_path"), why)
    if bound:
        scores = [score_contract(contract, bindings).composite for contract in bound]
        parts["contracts"] = sum(scores) / len(scores)
    else:
        not_measured["contracts"] = "no contract here is bound"
    if any(contract.obligations for contract in bound):
        parts["proof_depth"] = _proof_depth(bound)
    else:
        not_measured["proof_depth"] = "no bound contract has an obligation"
    if drift is not None and drift.num_bound:
        parts["drift"] = 1 - len(drift.stale) / drift.num_bound
    else:
        not_measured["drift"] = "needs git, and a registry that is committed"
    return CodebaseScore(
        parts=parts,
        not_measured=not_measured,
        unresolved=unresolved,
        stale=() if drift is None else drift.stale,
    )


def measure_drift(contracts: Sequence[Contract], bindings: BindingRegistry) -> Drift | None:
    """Ask git when each bound contract and the registry last changed.

    Returns:
        None where git does not know the registry. A contract with changes that are not
        committed changed last of all; so did a registry.
    """
    try:
        registry = _changed_at(bindings.file)
        if registry is None:
            return None
        bound = [contract for contract in contracts if contract.stem in bindings.stems]
        times = [(contract.stem, _changed_at(contract.source.file)) for contract in bound]
    except UsageError:  # no git here
        return None
    stale = [stem for stem, time in times if (time or _NOT_COMMITTED) > registry]
    return Drift(stale=tuple(stale), num_bound=len(bound))


def _changed_at(file: str) -> int | None:
    """Seconds since 1970 of the last commit of a file; None if there is none."""
    path = Path(file)
    committed = run_git(path.parent, "log", "-1", "--format=%ct", "--", path.name)
    if not committed:
        return None
    if run_git(path.parent, "status", "--porcelain", "--", path.name):
        return _NOT_COMMITTED
    return int(committed)


def _critical_path(bindings: BindingRegistry) -> float:
    wanted = [name for name in bindings.critical_path if name.strip()]
    if not wanted:
        weights = [BINDING_WEIGHTS[entry.status] for entry in bindings.bindings]
        return sum(weights) / len(weights)
    functions = [entry.dotted or "" for entry in bindings.bindings]
    return sum(any(name in function for function in functions) for name in wanted) / len(wanted)


def _proof_depth(contracts: Sequence[Contract]) -> float:
    depths = [
        0.1
        + 0.3 * bool(contract.tests)
        + 0.4 * bool(contract.harnesses)
        + 0.2 * (obligation.lean is not None and obligation.lean.status is LeanStatus.PROVED)
        for contract in contracts
        for obligation in contract.obligations
    ]
    return sum(depths) / len(depths)
