"""How complete a contract is, as one number and a grade.

    composite = 0.20 specification + 0.25 falsification + 0.25 harnesses
              + 0.10 lean + 0.20 binding

Upstream's formula, part by part in the functions below. It measures what a contract holds,
not what was run: evidence is another matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotejar.contracts.binding import BindingStatus
from cotejar.contracts.scalars import parse_float
from cotejar.contracts.schema import HarnessStrategy, LeanStatus
from cotejar.errors import UsageError
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cotejar.contracts.binding import BindingRegistry
    from cotejar.contracts.schema import Contract, Harness

WEIGHTS = {
    "specification": 0.20,
    "falsification": 0.25,
    "harnesses": 0.25,
    "lean": 0.10,
    "binding": 0.20,
}
GRADES = ((0.90, "A"), (0.75, "B"), (0.60, "C"), (0.40, "D"), (-math.inf, "F"))
STRATEGY_WEIGHTS = {
    HarnessStrategy.EXHAUSTIVE: 1.0,
    HarnessStrategy.BOUNDED_INT: 0.9,
    HarnessStrategy.STUB_FLOAT: 0.8,
    HarnessStrategy.COMPOSITIONAL: 0.7,
    None: 0.5,
}
BINDING_WEIGHTS = {
    BindingStatus.IMPLEMENTED: 1.0,
    BindingStatus.PARTIAL: 0.5,
    BindingStatus.NOT_IMPLEMENTED: 0.0,
    BindingStatus.PENDING: 0.0,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A contract's parts in [0, 1], their weighted mean, and the grade of it."""

    stem: str
    parts: Mapping[str, float]
    weights: Mapping[str, float]
    """They sum to 1."""

    @property
    def composite(self) -> float:
        """The weighted mean, in [0, 1]."""
        return sum(self.weights[name] * value for name, value in self.parts.items())

    @property
    def grade(self) -> str:
        """A from 0.90, B from 0.75, C from 0.60, D from 0.40, else F."""
        return grade_of(self.composite)

    @property
    def gaps(self) -> list[tuple[str, float]]:
        """Each part and what it costs the composite, the dearest first."""
        costs = [(name, self.weights[name] * (1 - self.parts[name])) for name in self.parts]
        return sorted(costs, key=lambda cost: -cost[1])

    def as_json(self) -> dict[str, Any]:
        """The same facts, for `--json`."""
        return {
            "stem": self.stem,
            "composite": self.composite,
            "grade": self.grade,
            "parts": dict(self.parts),
            "gaps": [{"part": name, "cost": cost} for name, cost in self.gaps if cost > 0],
        }


def grade_of(composite: float) -> str:
    """The grade of a number in [0, 1]."""
    # 0.2 x 0.75 and the like are not exact: a sum that ought to be 0.90 may fall below.
    rounded = round(composite, 9)
    return next(letter for least, letter in GRADES if rounded >= least)


def score_contract(
    contract: Contract,
    bindings: BindingRegistry | None = None,
    weights: Mapping[str, float] = WEIGHTS,
) -> Score:
    """Score one contract; what is no kernel has no code to bind and little to prove."""
    lean, binding = lean_part(contract), binding_part(contract, bindings)
    if not contract.is_kernel:
        lean, binding = max(lean, 0.5), 1.0
    return Score(
        stem=contract.stem,
        parts={
            "specification": specification_part(contract),
            "falsification": falsification_part(contract),
            "harnesses": harness_part(contract),
            "lean": lean,
            "binding": binding,
        },
        weights=weights,
    )


def parse_weights(text: str) -> dict[str, float]:
    """`PART=NUMBER,...` in place of the default weights, all divided by their sum.

    Raises:
        UsageError: an unknown part, no number, a negative one, or a sum of 0.
    """
    weights: dict[str, float] = dict(WEIGHTS)
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = (piece.strip() for piece in pair.partition("="))
        value = parse_float(number)
        if name not in WEIGHTS or value is None or not 0 <= value < math.inf:
            raise _no_weights(pair)
        weights[name] = value
    total = sum(weights.values())
    if not 0 < total < math.inf:
        raise _no_weights(f"a sum of {total:g}")
    return {name: weight / total for name, weight in weights.items()}


def _no_weights(found: str) -> UsageError:
    return UsageError(
        "these weights give no score",
        where="--weights",
        expected=f"PART=NUMBER,... with at least one above 0; parts: {', '.join(WEIGHTS)}",
        found=found,
        hint="leave a part out to keep its default",
    )


def specification_part(contract: Contract) -> float:
    """Equations 0.30; any domain, any invariant, a kernel structure 0.15 each; any tolerance
    and references 0.10 each; dependencies 0.05.
    """  # noqa: D205 - one list
    equations, metadata = contract.equations, contract.metadata
    return (
        0.30 * bool(equations)
        + 0.15 * any(equation.domain is not None for equation in equations)
        + 0.15 * any(equation.invariants for equation in equations)
        + 0.15 * (contract.phases is not None)
        + 0.10 * any(obligation.tolerance is not None for obligation in contract.obligations)
        + 0.10 * bool(metadata.references)
        + 0.05 * bool(metadata.depends_on)
    )


def falsification_part(contract: Contract) -> float:
    """Tests over obligations, at most 1; without obligations, whether there are tests."""
    obligations, tests = len(contract.obligations), len(contract.tests)
    return min(tests / obligations, 1.0) if obligations else float(tests > 0)


def harness_part(contract: Contract) -> float:
    """Weighted harnesses over obligations, at most 1; without obligations, whether any."""
    obligations = len(contract.obligations)
    if not obligations:
        return float(bool(contract.harnesses))
    return min(sum(map(_harness_weight, contract.harnesses)) / obligations, 1.0)


def lean_part(contract: Contract) -> float:
    """Proved over those obligations whose Lean block applies; 0 if none does."""
    statuses = [o.lean.status for o in contract.obligations if o.lean is not None]
    applicable = [status for status in statuses if status is not LeanStatus.NOT_APPLICABLE]
    return applicable.count(LeanStatus.PROVED) / len(applicable) if applicable else 0.0


def binding_part(contract: Contract, bindings: BindingRegistry | None) -> float:
    """Mean over the contract's entries: implemented 1, partial 0.5, else 0; none gives 0."""
    entries = [] if bindings is None else bindings.entries_of(contract.stem)
    if not entries:
        return 0.0
    return sum(BINDING_WEIGHTS[entry.status] for entry in entries) / len(entries)


def _harness_weight(harness: Harness) -> float:
    return 1.0 if harness.actually_verified else STRATEGY_WEIGHTS[harness.strategy]


def score_json(scores: Sequence[Score], *, min_score: float | None) -> dict[str, Any]:
    """All scores, their mean, and the verdict against `min_score`; never of none."""
    below = [] if min_score is None else [s for s in scores if not s.composite >= min_score]
    verdict = Verdict.FAIL if below else Verdict.PASS
    return {
        "verdict": verdict.value,
        "exit_code": verdict.exit_code,
        "mean": sum(score.composite for score in scores) / len(scores),
        "min_score": min_score,
        "below": [score.stem for score in below],
        "contracts": [score.as_json() for score in scores],
    }


def score_text(scores: Sequence[Score], *, top_gaps: int = 5) -> str:
    """A line a contract and one of its parts, the mean, and the dearest gaps of all."""
    lines = []
    for score in scores:
        parts = ", ".join(f"{name} {value:.2f}" for name, value in score.parts.items())
        lines += [f"{score.grade}  {score.composite:.3f}  {score.stem}", f"   {parts}"]
    mean = sum(score.composite for score in scores) / len(scores)
    lines += ["", f"{len(scores)} contract(s), mean {mean:.3f}"]
    gaps = [(cost, s.stem, name) for s in scores for name, cost in s.gaps if cost > 0]
    dearest = sorted(gaps, key=lambda gap: -gap[0])[:top_gaps]
    lines += [f"gap {cost:.3f}  {stem}: {name}" for cost, stem, name in dearest]
    return "\n".join(lines)
